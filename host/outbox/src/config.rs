//! Where every setting comes from: flags over the environment over `outbox.toml` over defaults.
//!
//! The only module that reads the process environment; everything else is handed a [`Config`]. A value
//! that is not understood is an error that names its origin, the value and what is accepted. All
//! sources speak one language: a setting has one parser, whoever gives the value. Keys of the file are
//! the variables' names in lower case without `OUTBOX_`; an empty value counts as not given. Paths are
//! relative to the working directory. Secrets are never printed.

mod database;
mod environment;
mod file;
mod sources;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outbox_core::RetryPolicy;
use outbox_core::saga::SagaDefinition;

pub use crate::config::database::Database;
pub use crate::config::environment::{ProcessEnv, ProcessIdentity};
pub use crate::config::sources::{FileText, Sources};
pub use crate::config::value::{LogFormat, Secret};

/// What flags say: the variable that the flag stands for, and its value.
pub type Flags = std::collections::BTreeMap<&'static str, String>;

/// Every setting of a process, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `OUTBOX_ENABLED`, default false: whether the HTTP writes of `serve` are durable and it runs a
    /// worker. Set by who deploys.
    pub enabled: bool,
    /// `OUTBOX_DB` or `--db`, default `/var/run/outbox.sqlite`: a SQLite file, or the URL of a PostgreSQL
    /// database, which `OUTBOX_BACKEND` may confirm; its password may stand in `OUTBOX_DB_PASSWORD` or in
    /// the file that `OUTBOX_DB_PASSWORD_FILE` names. Set by who deploys; every process of one outbox has
    /// the same.
    pub database: Database,
    /// `OUTBOX_VISIBILITY_SEC`, default 60: how long a claim holds.
    pub lease: Duration,
    /// `OUTBOX_MAX_RETRIES`, `OUTBOX_BACKOFF_BASE_MS`, `OUTBOX_BACKOFF_CAP_MS`, default 8, 1000 and
    /// 300000: how failures are retried where a plugin's manifest does not say.
    pub retry: RetryPolicy,
    /// `OUTBOX_ROLE` or `--role`, default none: which role folder of the plugins is loaded. Set per pod.
    pub role: Option<String>,
    /// `OUTBOX_PLUGINS` or `--plugins`, default `./plugins.d`: the plugin folder.
    pub plugins: PathBuf,
    /// `OUTBOX_CACHE_DIR`, default `outbox` in the user's cache folder: compiled code and the last good
    /// components.
    pub cache_dir: PathBuf,
    /// `OUTBOX_PLUGIN_KEYS`, default none: whose components may run. Public keys of minisign, or files
    /// that hold one, with commas between them; then every component needs its signature
    /// `NAME.wasm.minisig` beside it. None: components need no signature.
    pub plugin_keys: Vec<String>,
    /// `OUTBOX_CONCURRENCY` or `--concurrency`, default 64: attempts in flight, of this process.
    pub concurrency: usize,
    /// `OUTBOX_PREFETCH`, default 256: items claimed ahead of the attempts in flight, while these are short.
    pub prefetch: usize,
    /// `OUTBOX_DRAIN_SEC`, default 20: how long a shutdown waits for attempts under way.
    pub drain: Duration,
    /// `OUTBOX_LISTEN` or `--listen`, default `127.0.0.1:7070`: where HTTP is answered.
    pub listen: SocketAddr,
    /// `OUTBOX_TOKEN`, default none: the bearer token that callers present.
    pub token: Option<Secret>,
    /// `OUTBOX_HOSTS`, default none: Host headers besides loopback, accepted while there is no token.
    pub hosts: Vec<String>,
    /// `OUTBOX_RETAIN_DONE`, default `keep`: how long DONE items stay. `None` keeps them.
    pub retain_done: Option<Duration>,
    /// `OUTBOX_RETAIN_SIGNALS`, default `7d`: how long signals and finished jobs stay. `None` keeps them.
    pub retain_signals: Option<Duration>,
    /// `OUTBOX_ALERTS`, default none: the type of the items, `webhook` for one, that tell operators of
    /// dead-lettered items and blocked keys.
    pub alerts: Option<String>,
    /// `OUTBOX_ALERT_PERIOD`, default `5m`: how often at most one kind of alert about one type is sent.
    pub alert_period: Duration,
    /// `OUTBOX_LOG` or `--log`, default `text`: how log lines look.
    pub log: LogFormat,
    /// `RUST_LOG`, default by command: which log lines are written.
    pub log_filter: Option<String>,
    /// `GOVERNOR_STRICT_MODE`, default false: whether writes without both contract headers are refused.
    pub strict: bool,
    /// `[sagas.NAME] steps = [types…]` of the file, after the playbook's own `WriteMemorySaga`.
    pub sagas: Vec<SagaDefinition>,
    /// `OUTBOX_CONFIG` or `--config`, default `./outbox.toml` where there is one: the file that was read.
    pub file: Option<PathBuf>,
    /// `OUTBOX_…` variables that nothing reads, each with the nearest that something does.
    pub warnings: Vec<String>,
    /// Who runs this process, and where.
    pub identity: ProcessIdentity,
    /// The environment that plugin manifests may quote.
    pub environment: ProcessEnv,
}

/// A setting that cannot be used. Names the origin, the value and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is not understood.
    #[error("{origin} is {value}: use {accepted}")]
    Value {
        /// The flag, the variable, or the key with its file.
        origin: String,
        /// What was given, quoted; hidden when it is a secret.
        value: String,
        /// What would have been accepted.
        accepted: String,
    },
    /// The file has a key that nothing reads.
    #[error("{file} has the unknown key {key:?}: {hint}")]
    UnknownKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The nearest key, or where they are listed.
        hint: String,
    },
    /// The file cannot be read or is not TOML.
    #[error("{file} cannot be used as the configuration: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Anybody on the network could write.
    #[error(
        "OUTBOX_LISTEN is {0}, which others can reach, and OUTBOX_TOKEN is not set: set OUTBOX_TOKEN, listen on \
         127.0.0.1, or pass --allow-unauthenticated if something in front of the outbox checks who calls"
    )]
    Unauthenticated(SocketAddr),
}

impl Config {
    /// Reads the environment of this process and the configuration file.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        Self::parse(&Sources::of_process(flags)?)
    }

    /// Decides every setting from what the sources say. Reads nothing but the file of a password.
    pub fn parse(sources: &Sources) -> Result<Self, ConfigError> {
        let settings = sources.read()?;
        Ok(Self {
            enabled: settings.flag("OUTBOX_ENABLED")?.unwrap_or(false),
            database: database::database(&settings)?,
            lease: settings.seconds("OUTBOX_VISIBILITY_SEC", 1..=86_400)?.unwrap_or(Duration::from_mins(1)),
            retry: value::retry(&settings)?,
            role: value::role(&settings)?,
            plugins: settings.path("OUTBOX_PLUGINS")?.unwrap_or_else(|| "./plugins.d".into()),
            cache_dir: settings.path("OUTBOX_CACHE_DIR")?.unwrap_or_else(|| sources.environment.cache_dir()),
            plugin_keys: value::plugin_keys(&settings)?,
            concurrency: settings.number("OUTBOX_CONCURRENCY", 1..=10_000)?.unwrap_or(64),
            prefetch: settings.number("OUTBOX_PREFETCH", 0..=10_000)?.unwrap_or(256),
            drain: settings.seconds("OUTBOX_DRAIN_SEC", 0..=3_600)?.unwrap_or(Duration::from_secs(20)),
            listen: value::listen(&settings)?,
            token: value::token(&settings)?,
            hosts: value::hosts(&settings)?,
            retain_done: value::retention(&settings, "OUTBOX_RETAIN_DONE", None)?,
            retain_signals: value::retention(&settings, "OUTBOX_RETAIN_SIGNALS", Some(WEEK))?,
            alerts: value::alerts(&settings)?,
            alert_period: value::alert_period(&settings)?,
            log: value::log(&settings)?,
            log_filter: sources.environment.get("RUST_LOG"),
            strict: settings.flag("GOVERNOR_STRICT_MODE")?.unwrap_or(false),
            sagas: settings.sagas,
            file: sources.file.as_ref().map(|file| file.path.clone()),
            warnings: sources::unknown_variables(&sources.environment),
            identity: sources.environment.identity(),
            environment: sources.environment.clone(),
        })
    }

    /// Errors when the listener can be reached from elsewhere and nothing asks callers who they are.
    pub fn require_authentication(&self) -> Result<(), ConfigError> {
        if self.listen.ip().is_loopback() || self.token.is_some() {
            return Ok(());
        }
        Err(ConfigError::Unauthenticated(self.listen))
    }
}

/// Long enough to look into what happened last week, short enough that signals stay a small table.
const WEEK: Duration = Duration::from_hours(7 * 24);

#[cfg(test)]
mod tests;
