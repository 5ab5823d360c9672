//! The sources of settings, and which source decides: flags over the environment over the file.
//!
//! This file knows the name of every setting. It does not know what a setting means, nor its default.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::environment::ProcessEnv;
use crate::config::error::ConfigError;
use crate::config::value::{self, redacted_url};

/// Every setting: its variable, and the flag that overrides the variable where one exists.
const SETTINGS: &[(&str, Option<&str>)] = &[
    ("OUTBOX_ENABLED", None),
    ("OUTBOX_BACKEND", None),
    ("OUTBOX_DB", Some("--db")),
    ("OUTBOX_DB_LISTEN", None),
    ("OUTBOX_DB_PASSWORD", None),
    ("OUTBOX_DB_PASSWORD_FILE", None),
    ("OUTBOX_VISIBILITY_SEC", None),
    ("OUTBOX_MAX_RETRIES", None),
    ("OUTBOX_MAX_CRASHES", None),
    ("OUTBOX_BACKOFF_BASE_MS", None),
    ("OUTBOX_BACKOFF_CAP_MS", None),
    ("OUTBOX_ROLE", Some("--role")),
    ("OUTBOX_PLUGINS", Some("--plugins")),
    ("OUTBOX_CACHE_DIR", None),
    ("OUTBOX_PLUGIN_KEYS", None),
    ("OUTBOX_CA_FILE", None),
    ("OUTBOX_CONCURRENCY", Some("--concurrency")),
    ("OUTBOX_PREFETCH", None),
    ("OUTBOX_PAYLOAD_MIB", None),
    ("OUTBOX_DRAIN_SEC", None),
    ("OUTBOX_LISTEN", Some("--listen")),
    ("OUTBOX_TOKEN", None),
    ("OUTBOX_HOSTS", None),
    ("OUTBOX_MAX_PENDING", None),
    ("OUTBOX_RETAIN_DONE", None),
    ("OUTBOX_RETAIN_DLQ", None),
    ("OUTBOX_RETAIN_AUDIT", None),
    ("OUTBOX_RETAIN_SIGNALS", None),
    ("OUTBOX_ALERTS", None),
    ("OUTBOX_ALERT_PERIOD", None),
    ("OUTBOX_LOG", Some("--log")),
    ("GOVERNOR_STRICT_MODE", None),
];

/// Names the configuration file. It is the only setting that the file itself cannot contain.
const CONFIG: &str = "OUTBOX_CONFIG";

/// The file that is read when neither a flag nor the environment names one.
const DEFAULT_FILE: &str = "outbox.toml";

/// The settings that flags make: the variable that each flag overrides, and its value.
pub(crate) type Flags = BTreeMap<&'static str, String>;

/// Everything that settings are read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The flags of the command line.
    pub(crate) flags: Flags,
    /// The process environment.
    pub(crate) environment: ProcessEnv,
    /// The configuration file, if one was read.
    pub(crate) file: Option<FileText>,
}

/// A configuration file as it was read.
#[derive(Clone, Debug)]
pub(crate) struct FileText {
    /// Its path.
    pub(crate) path: PathBuf,
    /// Its content.
    pub(crate) text: String,
}

impl Sources {
    /// The sources of this process. Reads the environment and the configuration file.
    pub(super) fn of_process(flags: Flags) -> Result<Self, ConfigError> {
        let environment = ProcessEnv::of_process();
        let named = flags.get(CONFIG).cloned().or_else(|| environment.get(CONFIG));
        let file = match named {
            Some(path) => Some(read_file(Path::new(&path))?),
            None if Path::new(DEFAULT_FILE).exists() => Some(read_file(Path::new(DEFAULT_FILE))?),
            None => None,
        };
        Ok(Self { flags, environment, file })
    }
}

fn read_file(path: &Path) -> Result<FileText, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|err| ConfigError::File { file: path.display().to_string(), problem: err.to_string() })?;
    Ok(FileText { path: path.to_owned(), text })
}

/// The value of each setting that some source gives.
#[derive(Debug, Default)]
pub(super) struct ResolvedSettings {
    values: BTreeMap<&'static str, SettingValue>,
}

#[derive(Debug)]
struct SettingValue {
    origin: String,
    text: String,
}

impl ResolvedSettings {
    /// Takes the values of the environment, and then those of the flags, over the values of the file.
    pub(super) fn set_from(&mut self, sources: &Sources) {
        for &(variable, flag) in SETTINGS {
            self.set(variable, variable.to_owned(), sources.environment.get(variable));
            let origin = flag.unwrap_or(variable).to_owned();
            self.set(variable, origin, sources.flags.get(variable).cloned());
        }
    }

    /// Takes a value over that of a weaker source. An empty value counts as not given.
    pub(super) fn set(&mut self, variable: &'static str, origin: String, text: Option<String>) {
        if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
            self.values.insert(variable, SettingValue { origin, text });
        }
    }

    /// The setting, parsed; `None` when no source gives it. Errors when `parse` does not accept the value;
    /// `accepted` then tells the user what would be accepted.
    pub(super) fn parsed<T>(
        &self,
        variable: &'static str,
        accepted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(found) = self.values.get(variable) else { return Ok(None) };
        match parse(found.text.trim()) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(ConfigError::Value {
                origin: found.origin.clone(),
                value: displayed(variable, &found.text),
                accepted: accepted.to_owned(),
            }),
        }
    }

    pub(super) fn boolean(&self, variable: &'static str) -> Result<Option<bool>, ConfigError> {
        self.parsed(variable, "true or false (also 1 or 0, yes or no, on or off)", value::boolean)
    }

    pub(super) fn number<N>(&self, variable: &'static str, range: RangeInclusive<u32>) -> Result<Option<N>, ConfigError>
    where
        N: TryFrom<u32>,
    {
        let accepted = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(variable, &accepted, |text| {
            let number = text.parse().ok().filter(|number| range.contains(number))?;
            N::try_from(number).ok()
        })
    }

    pub(super) fn seconds(
        &self,
        variable: &'static str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<Duration>, ConfigError> {
        let seconds = self.number::<u64>(variable, range)?;
        Ok(seconds.map(Duration::from_secs))
    }

    pub(super) fn path(&self, variable: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        self.parsed(variable, "a path", |text| Some(text.into()))
    }
}

/// A value as an error message may show it.
fn displayed(variable: &str, text: &str) -> String {
    match variable {
        "OUTBOX_TOKEN" | "OUTBOX_DB_PASSWORD" => "a value that is not shown".to_owned(),
        "OUTBOX_DB" | "OUTBOX_DB_LISTEN" if text.contains("://") => format!("{:?}", redacted_url(text)),
        // It may be a misspelt URL, with a password in it.
        "OUTBOX_DB" | "OUTBOX_DB_LISTEN" if text.contains(['@', '=']) => "a value that is not shown".to_owned(),
        _ => format!("{text:?}"),
    }
}

/// The variable with the same meaning as a key of the file.
pub(super) fn variable_of(key: &str) -> Option<&'static str> {
    SETTINGS.iter().map(|(variable, _)| *variable).find(|variable| key_of(variable) == key)
}

/// The key of the file with the same meaning as a variable.
fn key_of(variable: &str) -> String {
    variable.trim_start_matches("OUTBOX_").to_ascii_lowercase()
}

/// The known key of the file that is most similar to an unknown one.
pub(super) fn nearest_key(key: &str) -> Option<String> {
    let wanted = key_of(&key.to_ascii_uppercase());
    let keys = SETTINGS.iter().map(|(variable, _)| key_of(variable)).chain(["sagas".to_owned()]);
    nearest(&wanted, keys)
}

/// One sentence for each variable that has no effect although it looks like it had.
pub(super) fn ineffective_variables(environment: &ProcessEnv) -> Vec<String> {
    let mut sentences = unknown_variables(environment);
    sentences.extend(ignored_proxies(environment));
    sentences
}

/// One sentence for each `OUTBOX_…` variable that is no setting.
fn unknown_variables(environment: &ProcessEnv) -> Vec<String> {
    let known = || SETTINGS.iter().map(|(variable, _)| *variable).chain([CONFIG]);
    let unknown =
        environment.names().filter(|name| name.starts_with("OUTBOX_") && !known().any(|known| known == *name));
    unknown
        .map(|name| match nearest(name, known().map(str::to_owned)) {
            Some(nearest) => format!("{name} is not a setting and is ignored: did you mean {nearest}?"),
            None => format!("{name} is not a setting and is ignored"),
        })
        .collect()
}

/// One sentence for each variable that asks for a proxy. Its value is not shown, because it may hold a password.
fn ignored_proxies(environment: &ProcessEnv) -> Vec<String> {
    const PROXIES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let given = PROXIES.into_iter().filter(|name| environment.get(name).is_some());
    given.map(|name| format!("{name} is ignored: requests of plugins go to their receivers without a proxy")).collect()
}

/// The most similar of the words; `None` when none is similar enough.
fn nearest(word: &str, among: impl Iterator<Item = String>) -> Option<String> {
    /// From 0 to 1. With a smaller value, misspellings of the settings led to wrong suggestions.
    const SIMILAR: f64 = 0.6;
    let scored = among.map(|candidate| (strsim::normalized_damerau_levenshtein(word, &candidate), candidate));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= SIMILAR).then_some(best.1)
}
