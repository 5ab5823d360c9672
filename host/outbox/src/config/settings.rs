//! One function per setting: its variable, the values that it accepts, and its default.
//!
//! The settings of the database belong together and have a file of their own, `database.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use outbox_core::{CrashBudget, RetryPolicy};
use outbox_http::{EnvironmentColour, NamedToken, ProxyUsers, Role};
use outbox_item::validate_type;
use outbox_store::{LONGEST_LEASE_SECONDS, Redaction};

use crate::config::environment::ProcessEnv;
use crate::config::error::ConfigError;
use crate::config::sources::ResolvedSettings;
use crate::config::tokens;
use crate::config::value::{self, BreakerSetting, LogFormat, Secret};

pub(super) fn enabled(settings: &ResolvedSettings) -> Result<bool, ConfigError> {
    Ok(settings.boolean("OUTBOX_ENABLED")?.unwrap_or(false))
}

/// Whether a host creates and migrates the schema when it starts.
pub(super) fn migrates(settings: &ResolvedSettings) -> Result<bool, ConfigError> {
    let migrates = settings.parsed("OUTBOX_MIGRATE", "auto or never", |text| match text {
        "auto" => Some(true),
        "never" => Some(false),
        _ => None,
    })?;
    Ok(migrates.unwrap_or(true))
}

/// Longer than most handlers take, short enough that an item of a crashed host is claimed again soon.
const LEASE: Duration = Duration::from_mins(1);

pub(super) fn lease(settings: &ResolvedSettings) -> Result<Duration, ConfigError> {
    Ok(settings.seconds("OUTBOX_VISIBILITY_SEC", 1..=LONGEST_LEASE_SECONDS)?.unwrap_or(LEASE))
}

pub(super) fn retry(settings: &ResolvedSettings) -> Result<RetryPolicy, ConfigError> {
    let default = RetryPolicy::default();
    let delay = |variable| settings.number::<u64>(variable, 1..=86_400_000).map(|ms| ms.map(Duration::from_millis));
    Ok(RetryPolicy {
        max_retries: settings.number("OUTBOX_MAX_RETRIES", 0..=1_000_000)?.unwrap_or(default.max_retries),
        base: delay("OUTBOX_BACKOFF_BASE_MS")?.unwrap_or(default.base),
        cap: delay("OUTBOX_BACKOFF_CAP_MS")?.unwrap_or(default.cap),
    })
}

pub(super) fn breaker(settings: &ResolvedSettings) -> Result<BreakerSetting, ConfigError> {
    let mode = settings.parsed("OUTBOX_BREAKER", "auto, on or off", value::breaker)?.unwrap_or_default();
    Ok(BreakerSetting { mode, retries_are_set: settings.is_set("OUTBOX_MAX_RETRIES") })
}

pub(super) fn crash_budget(settings: &ResolvedSettings) -> Result<CrashBudget, ConfigError> {
    let max_crashes = settings.number("OUTBOX_MAX_CRASHES", CrashBudget::LEAST..=1_000)?;
    Ok(max_crashes.map_or_else(CrashBudget::default, |max_crashes| CrashBudget { max_crashes }))
}

pub(super) fn role(settings: &ResolvedSettings) -> Result<Option<String>, ConfigError> {
    settings.parsed("OUTBOX_ROLE", "the name of a folder: [A-Za-z0-9][A-Za-z0-9._-]*", value::role)
}

pub(super) fn cache_dir(settings: &ResolvedSettings, environment: &ProcessEnv) -> Result<PathBuf, ConfigError> {
    Ok(settings.path("OUTBOX_CACHE_DIR")?.unwrap_or_else(|| environment.cache_dir()))
}

pub(super) fn plugin_keys(settings: &ResolvedSettings) -> Result<Vec<String>, ConfigError> {
    let accepted = "public keys of minisign, or files that hold one, with commas between them";
    Ok(settings.parsed("OUTBOX_PLUGIN_KEYS", accepted, value::plugin_keys)?.unwrap_or_default())
}

pub(super) fn ca_files(settings: &ResolvedSettings, environment: &ProcessEnv) -> Result<Vec<PathBuf>, ConfigError> {
    let conventional = environment.get("SSL_CERT_FILE").map(PathBuf::from);
    Ok(settings.path("OUTBOX_CA_FILE")?.into_iter().chain(conventional).collect())
}

/// Attempts mostly wait for a downstream service, so a host runs many more of them than it has processors.
const CONCURRENCY: usize = 64;

pub(super) fn concurrency(settings: &ResolvedSettings) -> Result<usize, ConfigError> {
    Ok(settings.number("OUTBOX_CONCURRENCY", 1..=10_000)?.unwrap_or(CONCURRENCY))
}

/// Items. A few claims' worth, so that short attempts do not wait for the store.
const PREFETCH: usize = 512;

pub(super) fn prefetch(settings: &ResolvedSettings) -> Result<usize, ConfigError> {
    Ok(settings.number("OUTBOX_PREFETCH", 0..=10_000)?.unwrap_or(PREFETCH))
}

/// MiB. More than a worker has in hand of common payloads, and little beside the memory of its attempts.
const PAYLOAD_MIB: u64 = 64;

pub(super) fn payload_bytes(settings: &ResolvedSettings) -> Result<u64, ConfigError> {
    Ok(settings.number("OUTBOX_PAYLOAD_MIB", 1..=65_536)?.unwrap_or(PAYLOAD_MIB) << 20)
}

/// Leaves Kubernetes, which kills a pod 30 seconds after SIGTERM, time for the rest of the shutdown.
const DRAIN: Duration = Duration::from_secs(20);

pub(super) fn drain(settings: &ResolvedSettings) -> Result<Duration, ConfigError> {
    Ok(settings.seconds("OUTBOX_DRAIN_SEC", 0..=3_600)?.unwrap_or(DRAIN))
}

pub(super) fn listen(settings: &ResolvedSettings) -> Result<SocketAddr, ConfigError> {
    let accepted = "an IP address and a port, such as 127.0.0.1:7070 or 0.0.0.0:7070";
    let address = settings.parsed("OUTBOX_LISTEN", accepted, |text| text.parse().ok())?;
    Ok(address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7070))))
}

pub(super) fn token(settings: &ResolvedSettings) -> Result<Option<Secret>, ConfigError> {
    settings.parsed("OUTBOX_TOKEN", "printable ASCII without spaces", value::token)
}

/// The tokens that `OUTBOX_TOKENS_FILE` contains.
pub(super) fn tokens_of_file(settings: &ResolvedSettings) -> Result<Vec<NamedToken>, ConfigError> {
    match settings.path("OUTBOX_TOKENS_FILE")? {
        Some(path) => tokens::of_file(&path.display().to_string(), &tokens::read_file(&path)?),
        None => Ok(Vec::new()),
    }
}

/// A shorter key could be guessed from one cookie.
const SESSION_KEY_MIN: usize = 32;

pub(super) fn session_key(settings: &ResolvedSettings) -> Result<Option<Secret>, ConfigError> {
    settings.parsed("OUTBOX_SESSION_KEY", "32 characters or more, which nobody can guess", |text| {
        (text.len() >= SESSION_KEY_MIN).then(|| Secret::new(text))
    })
}

pub(super) fn trusted_proxies(settings: &ResolvedSettings) -> Result<Vec<IpNet>, ConfigError> {
    let accepted = "addresses or networks with commas between them, such as 10.0.0.0/8, ::1, and not all addresses";
    Ok(settings.parsed("OUTBOX_TRUST_PROXIES", accepted, value::networks)?.unwrap_or_default())
}

/// The users that proxies name, if there are proxies that may.
pub(super) fn proxy_users(settings: &ResolvedSettings) -> Result<Option<ProxyUsers>, ConfigError> {
    let has_proxies = settings.is_set("OUTBOX_TRUST_PROXIES");
    let accepted = if has_proxies {
        "the name of a header that only the proxy sets, such as X-Forwarded-User"
    } else {
        "it together with OUTBOX_TRUST_PROXIES: everybody else could send the header too"
    };
    let header = settings.parsed("OUTBOX_TRUST_PROXY_USER", accepted, |text| {
        text.parse().ok().filter(|_| has_proxies && !value::is_header_of_clients(text))
    })?;
    let roles = "enqueue, read, operate, admin or scrape";
    let role = settings.parsed("OUTBOX_TRUST_PROXY_ROLE", roles, |text| text.parse().ok())?.unwrap_or(Role::Read);
    Ok(header.map(|header| ProxyUsers { header, role }))
}

pub(super) fn hosts(settings: &ResolvedSettings) -> Result<Vec<String>, ConfigError> {
    let accepted = "host names, with commas between them, without a scheme and without *; to answer for every name, set \
                    OUTBOX_TOKEN instead";
    Ok(settings.parsed("OUTBOX_HOSTS", accepted, value::hosts)?.unwrap_or_default())
}

/// What the cockpit calls this environment.
pub(super) fn environment_name(settings: &ResolvedSettings) -> Result<Option<String>, ConfigError> {
    let accepted = "a name of 1 to 32 characters, such as production";
    settings.parsed("OUTBOX_ENVIRONMENT", accepted, value::environment_name)
}

/// The colour of this name in the cockpit.
pub(super) fn environment_colour(settings: &ResolvedSettings) -> Result<EnvironmentColour, ConfigError> {
    let accepted = "blue, green, amber, red, violet or grey";
    Ok(settings.parsed("OUTBOX_ENVIRONMENT_COLOUR", accepted, EnvironmentColour::of_word)?.unwrap_or_default())
}

/// How many items may wait before HTTP writes are refused; `None`, the default, sets no limit.
pub(super) fn max_pending(settings: &ResolvedSettings) -> Result<Option<u64>, ConfigError> {
    let parse = |text: &str| text.parse().ok().filter(|max| *max > 0);
    settings.parsed("OUTBOX_MAX_PENDING", "a whole number from 1", parse)
}

/// Whether `/metrics` has the metrics of the store too: for a store with one process.
pub(super) fn metrics_store(settings: &ResolvedSettings) -> Result<bool, ConfigError> {
    Ok(settings.boolean("OUTBOX_METRICS_STORE")?.unwrap_or(false))
}

/// The members of payloads that are not shown.
pub(super) fn redaction(settings: &ResolvedSettings) -> Result<Redaction, ConfigError> {
    let accepted = "paths of members with commas between them, such as card.number, lines.*.note";
    Ok(settings.parsed("OUTBOX_REDACT", accepted, |text| text.parse().ok())?.unwrap_or_default())
}

/// How long DONE items stay; `None` keeps them for ever, which is the default: only an operator deletes items.
pub(super) fn retain_done(settings: &ResolvedSettings) -> Result<Option<Duration>, ConfigError> {
    retention(settings, "OUTBOX_RETAIN_DONE", None)
}

/// How long dead items stay; `None`, the default, keeps them, because they wait for an operator.
pub(super) fn retain_dlq(settings: &ResolvedSettings) -> Result<Option<Duration>, ConfigError> {
    retention(settings, "OUTBOX_RETAIN_DLQ", None)
}

/// How long the entries of the audit trail stay; `None`, the default, keeps them.
pub(super) fn retain_audit(settings: &ResolvedSettings) -> Result<Option<Duration>, ConfigError> {
    retention(settings, "OUTBOX_RETAIN_AUDIT", None)
}

/// Long enough to look into the events of last week, short enough that the table of signals stays small.
pub(super) const RETAIN_SIGNALS: Duration = Duration::from_hours(7 * 24);

pub(super) fn retain_signals(settings: &ResolvedSettings) -> Result<Option<Duration>, ConfigError> {
    retention(settings, "OUTBOX_RETAIN_SIGNALS", Some(RETAIN_SIGNALS))
}

/// As long as the longest time that a report of the history is about.
const RETAIN_HISTORY: Duration = Duration::from_hours(24);

/// How long the figures of each minute stay; `None` keeps them.
pub(super) fn retain_history(settings: &ResolvedSettings) -> Result<Option<Duration>, ConfigError> {
    retention(settings, "OUTBOX_RETAIN_HISTORY", Some(RETAIN_HISTORY))
}

fn retention(
    settings: &ResolvedSettings,
    variable: &'static str,
    default: Option<Duration>,
) -> Result<Option<Duration>, ConfigError> {
    let kept_for = settings.parsed(variable, "a duration such as 12h or 7d, or keep", |text| match text {
        "keep" => Some(None),
        text => humantime::parse_duration(text).ok().map(Some),
    })?;
    Ok(kept_for.unwrap_or(default))
}

pub(super) fn alerts(settings: &ResolvedSettings) -> Result<Option<String>, ConfigError> {
    settings.parsed("OUTBOX_ALERTS", "the type of an item, such as webhook", |text| {
        validate_type(text).is_ok().then(|| text.to_owned())
    })
}

/// Short enough to report a new problem soon, long enough that a broken downstream service causes few messages.
const ALERT_PERIOD: Duration = Duration::from_mins(5);

pub(super) fn alert_period(settings: &ResolvedSettings) -> Result<Duration, ConfigError> {
    let parse = |text: &str| humantime::parse_duration(text).ok();
    Ok(settings.parsed("OUTBOX_ALERT_PERIOD", "a duration such as 30s or 5m", parse)?.unwrap_or(ALERT_PERIOD))
}

pub(super) fn log(settings: &ResolvedSettings) -> Result<LogFormat, ConfigError> {
    Ok(settings.parsed("OUTBOX_LOG", "text or json", LogFormat::parse)?.unwrap_or_default())
}

/// Which log lines are written; the default depends on the command.
pub(super) fn log_filter(environment: &ProcessEnv) -> Option<String> {
    environment.get("RUST_LOG")
}

pub(super) fn strict(settings: &ResolvedSettings) -> Result<bool, ConfigError> {
    Ok(settings.boolean("GOVERNOR_STRICT_MODE")?.unwrap_or(false))
}
