//! The settings of a process, from flags over the environment over `outbox.toml` over defaults.
//!
//! Only this module reads the process environment; all other code receives a [`Config`]. A value that is not accepted
//! is an error that names its origin, the value and what is accepted. A setting has one parser for all sources. The
//! keys of the file are the names of the variables in lower case without `OUTBOX_`. An empty value counts as not given.
//! Paths are relative to the working directory. Secrets are never printed; each
//! may be in a file, which the variable with `_FILE` at its end names.

mod catalog;
mod changes;
mod database;
mod environment;
mod error;
mod file;
mod plugins;
mod registry;
mod settings;
mod sources;
mod telemetry;
mod tokens;
mod value;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use outbox_core::saga::SagaDefinition;
use outbox_core::{CrashBudget, RetryPolicy};
use outbox_http::{EnvironmentColour, NamedToken, ProxyUsers};
use outbox_registry::RegistrySettings;
use outbox_store::Redaction;

use crate::config::file::Declarations;
use crate::config::plugins::PluginPlaces;
use crate::config::sources::{ResolvedSettings, Sources};

pub(crate) use crate::config::catalog::DescribedSetting;
pub(crate) use crate::config::database::Database;
pub(crate) use crate::config::environment::{ProcessEnv, ProcessIdentity, command_line};
pub(crate) use crate::config::error::ConfigError;
pub(crate) use crate::config::sources::{Flags, ShownSetting};
pub(crate) use crate::config::telemetry::{Collector, Sampling, TelemetrySettings};
pub(crate) use crate::config::tokens::{NAME_RULE, is_token_name, token_in};
pub(crate) use crate::config::value::{BreakerSetting, LogFormat, Secret, without_users};

/// Every setting of a process, checked.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `OUTBOX_ENABLED`, default false: whether the HTTP writes of `serve` are durable and it runs a
    /// worker.
    pub(crate) is_enabled: bool,
    /// `OUTBOX_DB` or `--db`, default `/var/run/outbox.sqlite`: a SQLite file, or the URL of a PostgreSQL
    /// database, which `OUTBOX_BACKEND` may confirm. Its password may be given in `OUTBOX_DB_PASSWORD`. Every process
    /// of one outbox has the same value.
    pub(crate) database: Database,
    /// `OUTBOX_DB_LISTEN`, default `OUTBOX_DB`: the URL at which a PostgreSQL store listens for notifications. It names
    /// the same database, for a server behind a pooler in transaction mode. `None` is the default.
    pub(crate) listen_database: Option<Secret>,
    /// `OUTBOX_MIGRATE`, default auto: whether a process that opens the store may create and migrate the schema.
    pub(crate) migrates: bool,
    /// `OUTBOX_VISIBILITY_SEC`, default 60: the lease of a claim.
    pub(crate) lease: Duration,
    /// `OUTBOX_MAX_RETRIES`, `OUTBOX_BACKOFF_BASE_MS`, `OUTBOX_BACKOFF_CAP_MS`, default 8, 1000 and
    /// 300000: how failures are retried where a plugin's manifest sets nothing else.
    pub(crate) retry: RetryPolicy,
    /// `OUTBOX_BREAKER`, default `auto`: whether the outage of a receiver uses up the attempts of its items.
    pub(crate) breaker: BreakerSetting,
    /// `OUTBOX_MAX_CRASHES`, default 5: after how many lost leases an item is dead-lettered.
    pub(crate) crash_budget: CrashBudget,
    /// `OUTBOX_ROLE` or `--role`, default none: the role folder of the plugins that this process loads.
    pub(crate) role: Option<String>,
    /// `OUTBOX_PLUGINS` or `--plugins`, default `./plugins.d`: the plugin folder, images in registries, or both.
    pub(crate) plugins: PluginPlaces,
    /// `OUTBOX_MANIFESTS`, default the plugin folder: the folder of the manifests of components from registries.
    manifests: Option<PathBuf>,
    /// `OUTBOX_REGISTRY_POLL`, default 1m: how often a registry is asked what a tag names.
    pub(crate) registry_poll: Duration,
    /// `OUTBOX_CACHE_DIR`, default `outbox` in the user's cache folder: the folder of
    /// compiled code and of the last components that worked.
    pub(crate) cache_dir: PathBuf,
    /// `OUTBOX_PLUGIN_KEYS`, default none: public keys of minisign, or files that hold one, with commas
    /// between them. With keys, a component needs a signature by one of them, in `NAME.wasm.minisig` beside it.
    /// Without keys, components need no signature.
    pub(crate) plugin_keys: Vec<String>,
    /// `OUTBOX_CA_FILE` and `SSL_CERT_FILE`, default none: PEM files with certificates of authorities that vouch for
    /// receivers, besides the public ones.
    pub(crate) ca_files: Vec<PathBuf>,
    /// `OUTBOX_REGISTRY_AUTH_FILE`, `OUTBOX_REGISTRY_HTTP` and the files of authorities: how registries are reached.
    pub(crate) registry: RegistrySettings,
    /// `OUTBOX_CONCURRENCY` or `--concurrency`, default 64: the maximum of attempts in flight in
    /// this process.
    pub(crate) concurrency: usize,
    /// `OUTBOX_PREFETCH`, default 256: the maximum of items that are claimed ahead of the attempts in flight,
    /// while attempts are short.
    pub(crate) prefetch: usize,
    /// `OUTBOX_PAYLOAD_MIB`, default 64: a worker claims no more while the payloads of its items have this many MiB.
    pub(crate) payload_bytes: u64,
    /// `OUTBOX_DRAIN_SEC`, default 20: how long a shutdown waits for attempts in flight.
    pub(crate) drain: Duration,
    /// `OUTBOX_LISTEN` or `--listen`, default `127.0.0.1:7070`: the address of the HTTP server.
    pub(crate) listen: SocketAddr,
    /// `OUTBOX_TOKEN`, default none: a bearer token with all rights.
    pub(crate) token: Option<Secret>,
    /// `[[tokens]]` of the file and of `OUTBOX_TOKENS_FILE`, default none: the tokens of callers.
    pub(crate) tokens: Vec<NamedToken>,
    /// `OUTBOX_SESSION_KEY`, default random: the key that signs the cookies of log-ins.
    pub(crate) session_key: Option<Secret>,
    /// `OUTBOX_TRUST_PROXIES`, default none: the addresses of proxies whose headers are believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// `OUTBOX_TRUST_PROXY_USER` and `OUTBOX_TRUST_PROXY_ROLE`, default none and `read`: the header in which these
    /// proxies name the user, and what such users may do.
    pub(crate) proxy_users: Option<ProxyUsers>,
    /// `OUTBOX_HOSTS`, default none: host names that the `Host` header may have, besides those of loopback,
    /// while there is no token.
    pub(crate) hosts: Vec<String>,
    /// `OUTBOX_ENVIRONMENT`, default none: what the cockpit calls this environment.
    pub(crate) environment_name: Option<String>,
    /// `OUTBOX_ENVIRONMENT_COLOUR`, default `blue`: the colour of this name in the cockpit.
    pub(crate) environment_colour: EnvironmentColour,
    /// `OUTBOX_MAX_PENDING`, default none: how many items may wait before HTTP writes are refused with 429.
    pub(crate) max_pending: Option<u64>,
    /// `OUTBOX_METRICS_STORE`, default false: whether `/metrics` has the metrics of the store too.
    pub(crate) metrics_store: bool,
    /// `OUTBOX_REDACT`, default none: the members of payloads that are not shown.
    pub(crate) redaction: Redaction,
    /// `OUTBOX_RETAIN_DONE`, default `keep`: how long DONE items stay. `None` keeps them.
    pub(crate) retain_done: Option<Duration>,
    /// `OUTBOX_RETAIN_DLQ`, default `keep`: how long dead items stay. `None` keeps them.
    pub(crate) retain_dlq: Option<Duration>,
    /// `OUTBOX_RETAIN_AUDIT`, default `keep`: how long the entries of the audit trail stay. `None` keeps them.
    pub(crate) retain_audit: Option<Duration>,
    /// `OUTBOX_RETAIN_SIGNALS`, default `7d`: how long signals and finished jobs stay. `None` keeps them.
    pub(crate) retain_signals: Option<Duration>,
    /// `OUTBOX_RETAIN_HISTORY`, default `1d`: how long the figures of each minute stay. `None` keeps them.
    pub(crate) retain_history: Option<Duration>,
    /// `OUTBOX_ALERTS`, default none: the type of alert items, such as `webhook`, which report
    /// dead-lettered items and blocked keys to operators.
    pub(crate) alerts: Option<String>,
    /// `OUTBOX_ALERT_PERIOD`, default `5m`: the shortest time between two alerts of the same kind about the
    /// same type.
    pub(crate) alert_period: Duration,
    /// `OUTBOX_LOG` or `--log`, default `text`: the format of log lines.
    pub(crate) log: LogFormat,
    /// `RUST_LOG`, default by command: a filter of log lines, in the language of `tracing_subscriber`.
    pub(crate) log_filter: Option<String>,
    /// `OTEL_…`, default nothing: which traces and logs are sent to a collector.
    pub(crate) telemetry: TelemetrySettings,
    /// `GOVERNOR_STRICT_MODE`, default false: whether writes without both contract headers are
    /// rejected.
    pub(crate) is_strict: bool,
    /// `[sagas.NAME] steps = [types…]` of the file, after the built-in `WriteMemorySaga`.
    pub(crate) sagas: Vec<SagaDefinition>,
    /// `OUTBOX_CONFIG` or `--config`, default `./outbox.toml` if it exists, else `/etc/outbox/outbox.toml` if that
    /// exists: the file that was read.
    pub(crate) file: Option<PathBuf>,
    /// One sentence for each variable that has no effect: an `OUTBOX_…` variable that is no setting, with the most
    /// similar setting, those that name a proxy, and those of telemetry that are not understood.
    pub(crate) warnings: Vec<String>,
    /// The user and the machine of this process.
    pub(crate) identity: ProcessIdentity,
    /// The variables that plugin manifests may refer to.
    pub(crate) environment: ProcessEnv,
}

impl Config {
    /// Reads the environment of this process and the configuration file.
    pub(crate) fn load(flags: Flags) -> Result<Self, ConfigError> {
        let mut config = Self::parse(&Sources::of_process(flags)?)?;
        let file = config.file.as_deref().filter(|_| !config.tokens.is_empty());
        config.warnings.extend(file.and_then(tokens::writable));
        Ok(config)
    }

    /// Every setting of this process with its origin. Errors when one cannot be used.
    pub(crate) fn shown(flags: Flags) -> Result<Vec<ShownSetting>, ConfigError> {
        let sources = Sources::of_process(flags)?;
        Self::parse(&sources)?;
        Ok(resolve(&sources)?.0.shown())
    }

    /// An `outbox.toml` with every key, its default and its meaning, all as comments.
    pub(crate) fn example() -> String {
        catalog::example()
    }

    /// Every setting, for the manual.
    pub(crate) fn described() -> impl Iterator<Item = DescribedSetting> {
        catalog::described()
    }

    /// Decides every setting from the sources. Reads no files but those that secrets are in.
    pub(crate) fn parse(sources: &Sources) -> Result<Self, ConfigError> {
        let environment = &sources.environment;
        let (settings, Declarations { sagas, mut tokens }) = resolve(sources)?;
        let settings = &settings;
        tokens.extend(settings::tokens_of_file(settings)?);
        let (telemetry, misunderstood) = telemetry::telemetry(environment);
        let token = settings::token(settings)?;
        let weak = value::weak_token(token.as_ref()).into_iter().collect();
        let config = Self {
            is_enabled: settings::enabled(settings)?,
            database: database::database(settings)?,
            listen_database: database::listen_database(settings)?,
            migrates: settings::migrates(settings)?,
            lease: settings::lease(settings)?,
            retry: settings::retry(settings)?,
            breaker: settings::breaker(settings)?,
            crash_budget: settings::crash_budget(settings)?,
            role: settings::role(settings)?,
            plugins: plugins::plugins(settings)?,
            manifests: plugins::manifests(settings)?,
            registry_poll: plugins::registry_poll(settings)?,
            cache_dir: settings::cache_dir(settings, environment)?,
            plugin_keys: settings::plugin_keys(settings)?,
            ca_files: settings::ca_files(settings, environment)?,
            registry: registry::registry(settings, environment)?,
            concurrency: settings::concurrency(settings)?,
            prefetch: settings::prefetch(settings)?,
            payload_bytes: settings::payload_bytes(settings)?,
            drain: settings::drain(settings)?,
            listen: settings::listen(settings)?,
            token,
            tokens,
            session_key: settings::session_key(settings)?,
            trusted_proxies: settings::trusted_proxies(settings)?,
            proxy_users: settings::proxy_users(settings)?,
            hosts: settings::hosts(settings)?,
            environment_name: settings::environment_name(settings)?,
            environment_colour: settings::environment_colour(settings)?,
            max_pending: settings::max_pending(settings)?,
            metrics_store: settings::metrics_store(settings)?,
            redaction: settings::redaction(settings)?,
            retain_done: settings::retain_done(settings)?,
            retain_dlq: settings::retain_dlq(settings)?,
            retain_audit: settings::retain_audit(settings)?,
            retain_signals: settings::retain_signals(settings)?,
            retain_history: settings::retain_history(settings)?,
            alerts: settings::alerts(settings)?,
            alert_period: settings::alert_period(settings)?,
            log: settings::log(settings)?,
            log_filter: settings::log_filter(environment),
            telemetry,
            is_strict: settings::strict(settings)?,
            sagas,
            file: sources.file.as_ref().map(|file| file.path.clone()),
            warnings: [sources::ineffective_variables(environment), misunderstood, weak].concat(),
            identity: environment.identity(),
            environment: environment.clone(),
        };
        tokens::check(&config.all_tokens())?;
        Ok(config)
    }

    /// The tokens of callers, and `OUTBOX_TOKEN` as one of them, with all rights.
    pub(crate) fn all_tokens(&self) -> Vec<NamedToken> {
        let admin = self.token.as_ref().map(|token| NamedToken::admin(token.expose()));
        self.tokens.iter().cloned().chain(admin).collect()
    }

    /// The folder of the manifests of components from registries.
    pub(crate) fn manifests(&self) -> &Path {
        self.manifests.as_deref().unwrap_or_else(|| self.plugins.default_manifests())
    }

    /// The folder of manifests that the operator names and that is not there.
    pub(crate) fn missing_manifests(&self) -> Option<&Path> {
        self.manifests.as_deref().filter(|folder| !folder.is_dir() && !self.plugins.images.is_empty())
    }

    /// A new name for this process that no other start has.
    pub(crate) fn new_instance_name(&self) -> String {
        self.identity.new_instance_name(self.role.as_deref())
    }

    /// Errors when other machines can reach the HTTP server and it asks callers for no token.
    pub(crate) fn require_authentication(&self) -> Result<(), ConfigError> {
        if self.listen.ip().is_loopback() || !self.all_tokens().is_empty() || self.proxy_users.is_some() {
            return Ok(());
        }
        Err(ConfigError::Unauthenticated(self.listen))
    }
}

/// Reads the sources, the weakest first, so that a stronger one overwrites it. Returns the settings, and the sagas and
/// tokens of the file.
fn resolve(sources: &Sources) -> Result<(ResolvedSettings, Declarations), ConfigError> {
    let (mut settings, mut declared) = (ResolvedSettings::default(), Declarations::default());
    if let Some(file) = &sources.file {
        declared = file::read(file, &mut settings)?;
    }
    declared.sagas.insert(0, SagaDefinition::write_memory());
    settings.set_from(sources);
    settings.read_files()?;
    Ok((settings, declared))
}

#[cfg(test)]
mod tests;
