//! The operator's file beside a component: what it may do, how much of it, and on what terms.
//!
//! It promises that nothing in the file is silently ignored: an unknown key, a value out of bounds
//! and an unset variable are errors that name what was written and what is accepted. It knows neither
//! files nor components.

pub(crate) mod expand;
pub(crate) mod limits;
pub(crate) mod section;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use toml::{Table, Value};

pub(crate) use crate::load::manifest::limits::Limits;
use crate::load::manifest::section::Section;
use crate::load::manifest::value::{boolean, count, duration, ratio, show, text, texts};
use crate::outgoing::grant::{Grants, HttpGrant, SecretHeader};
use outbox_core::{BreakerPolicy, OnDead, RetryPolicy};

/// The lease follows the timeout: an attempt that died with its process is not missed for longer.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);
/// The longest wait between attempts that anybody can mean.
const WAIT_MAX: Duration = Duration::from_hours(30 * 24);
/// The keys of a canary's items are kept in memory while it lasts.
const CANARY_ITEMS_MAX: u32 = 100_000;

/// Answers the value of a variable of the host's environment, for `${NAME}` and for secrets.
pub type EnvLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What an operator says about one plugin. The default is that of a component without a manifest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manifest {
    /// Narrows what the component says that it handles.
    pub types: Option<Vec<String>>,
    /// The digest that the component must have, in lower-case hex.
    pub sha256: Option<String>,
    /// The longest that one attempt may take.
    pub timeout: Option<Duration>,
    /// What the component may do beside computing.
    pub grants: Grants,
    /// What it reads through `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// How much it may use.
    pub limits: Limits,
    /// What of the retry policy differs from the host's.
    pub retry: RetryOverrides,
    /// Whether a dead-lettered item lets those behind it pass.
    pub on_dead: OnDead,
    /// When claiming pauses because attempts keep failing.
    pub breaker: Option<BreakerPolicy>,
    /// The canary of a new version.
    pub canary: CanaryPolicy,
}

/// The parts of a retry policy that a manifest sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryOverrides {
    /// See [`RetryPolicy::max_retries`].
    pub max_retries: Option<u32>,
    /// See [`RetryPolicy::base`].
    pub base: Option<Duration>,
    /// See [`RetryPolicy::cap`].
    pub cap: Option<Duration>,
}

impl RetryOverrides {
    /// The policy that results when the host's fills the gaps.
    pub(crate) fn applied_to(self, host: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_retries: self.max_retries.unwrap_or(host.max_retries),
            base: self.base.unwrap_or(host.base),
            cap: self.cap.unwrap_or(host.cap),
        }
    }
}

/// The canary of a new version of a live plugin, `[reload]` in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CanaryPolicy {
    /// Over how many items the canary lasts; one that comes again counts once.
    #[serde(rename = "canary")]
    pub items: u32,
    /// When it faults on more than this share of them the version is rolled back.
    pub max_fault_ratio: f64,
}

impl Default for CanaryPolicy {
    fn default() -> Self {
        Self { items: 20, max_fault_ratio: 0.2 }
    }
}

/// A manifest that cannot be used. Nothing of it takes effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    /// It is not TOML.
    #[error("the manifest is not TOML: {0}")]
    Syntax(String),
    /// It has a key that nothing reads.
    #[error("unknown key `{key}`: did you mean `{nearest}`? (known here: {known})")]
    UnknownKey { key: String, nearest: String, known: String },
    /// A key has a value that makes no sense.
    #[error("`{key}` is {value}: it must be {accepted}")]
    Value { key: String, value: String, accepted: String },
    /// A key that is needed is absent.
    #[error("`{key}` is missing")]
    Missing { key: String },
    /// A value names a variable that the host's environment does not have.
    #[error("`{key}` needs the environment variable {variable}, which is not set for the host")]
    Unset { key: String, variable: String },
}

impl Manifest {
    /// Reads a manifest, with `${NAME}` replaced from the environment in every string. Errors show what
    /// was written, never what it stands for: that may be a secret.
    pub(crate) fn parse(source: &str, environment: &EnvLookup) -> Result<Self, ManifestError> {
        let table: Table = source.parse().map_err(|err: toml::de::Error| ManifestError::Syntax(err.to_string()))?;
        let mut root = Section::new("", table, environment);
        let manifest = Self {
            types: root.take("types", texts)?,
            sha256: root.take("sha256", digest)?,
            timeout: root.take("timeout", duration(TIMEOUT_MAX))?,
            grants: grants(root.section("grant")?, environment)?,
            config: config(root.section("config")?)?,
            limits: limits::limits(root.section("limits")?)?,
            retry: retry(root.section("retry")?)?,
            on_dead: ordering(root.section("ordering")?)?,
            breaker: root.optional_section("breaker")?.map(breaker).transpose()?,
            canary: canary(root.section("reload")?)?,
        };
        root.finish()?;
        Ok(manifest)
    }
}

fn grants(mut section: Section<'_>, environment: &EnvLookup) -> Result<Grants, ManifestError> {
    let state = section.take("state", |value| boolean(&value))?.unwrap_or(false);
    let emit = section.take("emit", texts)?.unwrap_or_default();
    let rules = section.sections("http")?.into_iter().map(|rule| http_grant(rule, environment));
    let http = rules.collect::<Result<_, _>>()?;
    section.finish()?;
    Ok(Grants { state, emit, http })
}

fn http_grant(mut section: Section<'_>, environment: &EnvLookup) -> Result<HttpGrant, ManifestError> {
    let origin = section.take("origin", |value| text(value)?.parse())?.ok_or_else(|| section.missing("origin"))?;
    let methods = section.take("methods", |value| {
        let accepted = || r#"an array of methods such as ["POST"]"#.to_owned();
        texts(value)?.iter().map(|word| word.parse().map_err(|_| accepted())).collect()
    })?;
    let path = section.take("path", |value| {
        let path = text(value)?;
        if path.starts_with('/') {
            Ok(path)
        } else {
            Err("a path that starts with /, where * stands for anything".to_owned())
        }
    })?;
    let private = section.take("private", |value| boolean(&value))?.unwrap_or(false);
    let secrets = section.sections("secrets")?.into_iter().map(|secret| read_secret(secret, environment));
    let secrets = secrets.collect::<Result<_, _>>()?;
    section.finish()?;
    Ok(HttpGrant { origin, methods, path, private, secrets })
}

fn read_secret(mut section: Section<'_>, environment: &EnvLookup) -> Result<SecretHeader, ManifestError> {
    let variable = section.take("env", text)?.ok_or_else(|| section.missing("env"))?;
    let header = section
        .take("header", |value| text(value)?.parse().map_err(|_| "the name of an HTTP header".to_owned()))?
        .ok_or_else(|| section.missing("header"))?;
    let template = section.take("template", |value| {
        let template = text(value)?;
        if template.matches("{}").count() == 1 { Ok(template) } else { Err("text with one {} in it".to_owned()) }
    })?;
    section.finish()?;
    let key = "grant.http.secrets.env".to_owned();
    let Some(token) = environment(&variable) else { return Err(ManifestError::Unset { key, variable }) };
    // The value stays out of the message: it is a secret.
    let invalid_value =
        |accepted: &str| ManifestError::Value { key, value: format!("${{{variable}}}"), accepted: accepted.to_owned() };
    SecretHeader::new(header, template.as_deref().unwrap_or("{}"), &token)
        .map_err(|_| invalid_value("printable on one line, to be sent in a header"))
}

fn config(section: Section<'_>) -> Result<BTreeMap<String, String>, ManifestError> {
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

fn retry(mut section: Section<'_>) -> Result<RetryOverrides, ManifestError> {
    let retry = RetryOverrides {
        max_retries: section.take("max_retries", count(0..=u32::MAX))?,
        base: section.take("base", duration(WAIT_MAX))?,
        cap: section.take("cap", duration(WAIT_MAX))?,
    };
    section.finish()?;
    Ok(retry)
}

fn ordering(mut section: Section<'_>) -> Result<OnDead, ManifestError> {
    let on_dead = section.take("on_dead", |value| match value.as_str() {
        Some("block") => Ok(OnDead::Block),
        Some("skip") => Ok(OnDead::Skip),
        _ => Err(r#""block" or "skip""#.to_owned()),
    })?;
    section.finish()?;
    Ok(on_dead.unwrap_or_default())
}

fn breaker(mut section: Section<'_>) -> Result<BreakerPolicy, ManifestError> {
    let policy = BreakerPolicy {
        failures: section.take("failures", count(1..=u32::MAX))?.unwrap_or(10),
        pause: section.take("pause", duration(WAIT_MAX))?.unwrap_or(Duration::from_secs(30)),
    };
    section.finish()?;
    Ok(policy)
}

fn canary(mut section: Section<'_>) -> Result<CanaryPolicy, ManifestError> {
    let default = CanaryPolicy::default();
    let policy = CanaryPolicy {
        items: section.take("canary", count(0..=CANARY_ITEMS_MAX))?.unwrap_or(default.items),
        max_fault_ratio: section.take("max_fault_ratio", |value| ratio(&value))?.unwrap_or(default.max_fault_ratio),
    };
    section.finish()?;
    Ok(policy)
}

fn digest(value: Value) -> Result<String, String> {
    let digest = text(value)?.to_ascii_lowercase();
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { Ok(digest) } else { Err("a SHA-256 in 64 hexadecimal digits".to_owned()) }
}

#[cfg(test)]
mod tests;
