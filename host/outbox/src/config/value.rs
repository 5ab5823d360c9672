//! How the values of settings are read, and what each of them accepts.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::ConfigError;
use crate::config::database::redacted_url;
use crate::config::sources::ResolvedSettings;
use outbox_core::RetryPolicy;
use outbox_item::validate_type;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A secret: it is compared and presented, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    /// The secret itself, for whoever compares or presents it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// A value as an error message may show it.
pub(super) fn displayed(variable: &str, text: &str) -> String {
    match variable {
        "OUTBOX_TOKEN" | "OUTBOX_DB_PASSWORD" => "a value that is not shown".to_owned(),
        "OUTBOX_DB" => format!("{:?}", redacted_url(text)),
        _ => format!("{text:?}"),
    }
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
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

/// A role is a folder below the plugins, so nothing that could lead out of there is one.
pub(super) fn role(settings: &ResolvedSettings) -> Result<Option<String>, ConfigError> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    settings.parsed("OUTBOX_ROLE", "the name of a folder: [A-Za-z0-9][A-Za-z0-9._-]*", |text| {
        let named = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && text.bytes().all(letter);
        named.then(|| text.to_owned())
    })
}

pub(super) fn listen(settings: &ResolvedSettings) -> Result<SocketAddr, ConfigError> {
    let accepted = "an IP address and a port, such as 127.0.0.1:7070 or 0.0.0.0:7070";
    let address = settings.parsed("OUTBOX_LISTEN", accepted, |text| text.parse().ok())?;
    Ok(address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7070))))
}

/// A token travels in a header, so it has the characters that one may have.
pub(super) fn token(settings: &ResolvedSettings) -> Result<Option<Secret>, ConfigError> {
    settings.parsed("OUTBOX_TOKEN", "printable ASCII without spaces", |text| {
        text.bytes().all(|b| b.is_ascii_graphic()).then(|| Secret::new(text))
    })
}

pub(super) fn hosts(settings: &ResolvedSettings) -> Result<Vec<String>, ConfigError> {
    let host = |text: &str| {
        let host = text.trim().to_ascii_lowercase();
        (!host.is_empty() && !host.contains('/')).then_some(host)
    };
    let accepted = "host names, with commas between them and without a scheme";
    let hosts = settings.parsed("OUTBOX_HOSTS", accepted, |text| text.split(',').map(host).collect())?;
    Ok(hosts.unwrap_or_default())
}

/// Whether each names a key is found out by whoever checks signatures with it.
pub(super) fn plugin_keys(settings: &ResolvedSettings) -> Result<Vec<String>, ConfigError> {
    let key = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let accepted = "public keys of minisign, or files that hold one, with commas between them";
    let keys = settings.parsed("OUTBOX_PLUGIN_KEYS", accepted, |text| text.split(',').map(key).collect())?;
    Ok(keys.unwrap_or_default())
}

/// How long something is kept; `None` is for ever.
pub(super) fn retention(
    settings: &ResolvedSettings,
    variable: &'static str,
    default: Option<Duration>,
) -> Result<Option<Duration>, ConfigError> {
    let kept = settings.parsed(variable, "a duration such as 12h or 7d, or keep", |text| match text {
        "keep" => Some(None),
        text => humantime::parse_duration(text).ok().map(Some),
    })?;
    Ok(kept.unwrap_or(default))
}

/// The type of the items that tell operators what happened, or none.
pub(super) fn alerts(settings: &ResolvedSettings) -> Result<Option<String>, ConfigError> {
    settings.parsed("OUTBOX_ALERTS", "the type of an item, such as webhook", |text| {
        validate_type(text).is_ok().then(|| text.to_owned())
    })
}

pub(super) fn alert_period(settings: &ResolvedSettings) -> Result<Duration, ConfigError> {
    let parsed = settings
        .parsed("OUTBOX_ALERT_PERIOD", "a duration such as 30s or 5m", |text| humantime::parse_duration(text).ok())?;
    Ok(parsed.unwrap_or(Duration::from_mins(5)))
}

pub(super) fn log(settings: &ResolvedSettings) -> Result<LogFormat, ConfigError> {
    let format = settings.parsed("OUTBOX_LOG", "text or json", |text| match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    })?;
    Ok(format.unwrap_or_default())
}
