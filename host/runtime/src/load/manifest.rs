//! The operator's file beside a component: what the plugin may do, how much of it, and on what terms.
//!
//! Nothing in the file is ignored silently: an unknown key, a value out of bounds and an unset variable are errors
//! that name what was written and what is accepted. The larger sections have modules of their own, each with its
//! defaults and highest values; the defaults of `[breaker]` are those of [`BreakerPolicy`]. This module knows neither
//! files nor components.

pub(crate) mod canary_policy;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod grants;
pub(crate) mod limits;
pub(crate) mod retry;
pub(crate) mod section;
pub(crate) mod types;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::time::Duration;

use toml::{Table, Value};

use outbox_core::{BreakerPolicy, ComponentDigest, OnDead};

use crate::load::manifest::canary_policy::CanaryPolicy;
use crate::load::manifest::environment::EnvLookup;
use crate::load::manifest::error::ManifestError;
use crate::load::manifest::limits::Limits;
use crate::load::manifest::retry::{RetryOverrides, WAIT_MAX};
use crate::load::manifest::section::Section;
use crate::load::manifest::types::TypeNames;
use crate::load::manifest::value::{count, duration, show, text};
use crate::outgoing::grant::Grants;

/// The longest `timeout`. The lease is renewed while an attempt runs, so only the timeout ends one that never returns.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// The longest `streak`: a lease holds no more items on PostgreSQL.
const STREAK_MAX: u32 = 250;

/// The manifest of one plugin. The default is that of a component without a manifest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manifest {
    /// The types of items that the plugin gets, with what they are for the component; all that the component describes
    /// if absent.
    pub types: Option<TypeNames>,
    /// The digest that the component must have.
    pub sha256: Option<ComponentDigest>,
    /// The longest time of one attempt; the host's lease decides if absent.
    pub timeout: Option<Duration>,
    /// What the component may do besides computing.
    pub grants: Grants,
    /// What the component reads through `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// How much one attempt may use.
    pub limits: Limits,
    /// The values that differ from the host's retry policy.
    pub retry: RetryOverrides,
    /// Whether a dead-lettered item blocks its ordering key.
    pub on_dead: OnDead,
    /// The most items of one ordering key that a worker claims together; the default of the host if absent.
    pub streak: Option<u32>,
    /// When claiming pauses because attempts keep failing; never if absent.
    pub breaker: Option<BreakerPolicy>,
    /// The canary of a new version.
    pub canary: CanaryPolicy,
}

impl Manifest {
    /// Parses the text of a manifest and replaces `${NAME}` in every string. Errors show values as they were written,
    /// never what a variable stands for, which may be a secret.
    pub(crate) fn parse(source: &str, environment: &EnvLookup) -> Result<Self, ManifestError> {
        let table: Table = source.parse().map_err(|err: toml::de::Error| ManifestError::Syntax(err.to_string()))?;
        let mut root = Section::new("", table, environment);
        let (on_dead, streak) = read_ordering(root.section("ordering")?)?;
        let manifest = Self {
            types: root.take("types", types::read)?,
            sha256: root.take("sha256", digest)?,
            timeout: root.take("timeout", duration(TIMEOUT_MAX))?,
            grants: grants::read(root.section("grant")?, environment)?,
            config: read_config(root.section("config")?)?,
            limits: limits::read(root.section("limits")?)?,
            retry: retry::read(root.section("retry")?)?,
            on_dead,
            streak,
            breaker: root.optional_section("breaker")?.map(read_breaker).transpose()?,
            canary: canary_policy::read(root.section("reload")?)?,
        };
        root.finish()?;
        Ok(manifest)
    }
}

fn read_config(section: Section<'_>) -> Result<BTreeMap<String, String>, ManifestError> {
    let entry = |(key, value): (String, Value)| match value {
        Value::String(text) => Ok((key, text)),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok((key, show(&value))),
        _ => Err(ManifestError::Value {
            key: format!("config.{key}"),
            value: show(&value),
            accepted: "a string, a number, true or false".to_owned(),
        }),
    };
    section.into_entries()?.into_iter().map(entry).collect()
}

fn read_ordering(mut section: Section<'_>) -> Result<(OnDead, Option<u32>), ManifestError> {
    let on_dead = section.take("on_dead", |value| match value.as_str() {
        Some("block") => Ok(OnDead::Block),
        Some("skip") => Ok(OnDead::Skip),
        _ => Err(r#""block" or "skip""#.to_owned()),
    })?;
    let streak = section.take("streak", count(1..=STREAK_MAX))?;
    section.finish()?;
    Ok((on_dead.unwrap_or_default(), streak))
}

fn read_breaker(mut section: Section<'_>) -> Result<BreakerPolicy, ManifestError> {
    let default = BreakerPolicy::default();
    let policy = BreakerPolicy {
        failures: section.take("failures", count(1..=u32::MAX))?.unwrap_or(default.failures),
        pause: section.take("pause", duration(WAIT_MAX))?.unwrap_or(default.pause),
    };
    section.finish()?;
    Ok(policy)
}

fn digest(value: Value) -> Result<ComponentDigest, String> {
    text(value)?.parse().map_err(|_| "a SHA-256 in 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests;
