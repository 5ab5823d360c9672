//! The sources of settings, and which source decides: flags over the environment over the file.
//!
//! It does not know what a setting means, nor its default.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::config::catalog::{SETTINGS, Setting, Shown, key_of};
use crate::config::environment::{ProcessEnv, read_secret};
use crate::config::error::ConfigError;
use crate::config::value::{self, redacted_url, shown_value};

/// Names the configuration file. It is the only setting that the file itself cannot contain.
const CONFIG: &str = "OUTBOX_CONFIG";

/// The files of which the first that exists is read when neither a flag nor the environment names one: that of the working
/// directory, and that of the machine, where packages put it.
const DEFAULT_FILES: [&str; 2] = ["outbox.toml", "/etc/outbox/outbox.toml"];

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
        let named = flags.get(CONFIG).cloned().or_else(|| environment.get(CONFIG)).map(PathBuf::from);
        let path = named.or_else(|| first_that_exists(&DEFAULT_FILES));
        let file = path.map(read_file).transpose()?;
        Ok(Self { flags, environment, file })
    }
}

fn first_that_exists(files: &[&str]) -> Option<PathBuf> {
    files.iter().map(PathBuf::from).find(|path| path.exists())
}

fn read_file(path: PathBuf) -> Result<FileText, ConfigError> {
    let problem = |err: std::io::Error| match err.kind() {
        std::io::ErrorKind::PermissionDenied => {
            format!("{err}: run this as a user who may read it, or name another file with --config")
        }
        _ => err.to_string(),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(FileText { path, text }),
        Err(err) => Err(ConfigError::File { file: path.display().to_string(), problem: problem(err) }),
    }
}

/// A setting as `outbox config show` prints it. Secrets are not shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ShownSetting {
    /// The key of the file.
    pub(crate) key: String,
    /// Its value; empty where there is none.
    pub(crate) value: String,
    /// The flag, the variable, or the key with its file; `default` without any.
    pub(crate) origin: String,
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
        for &Setting { variable, flag, .. } in SETTINGS {
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

    /// Takes the values that files contain, where a setting names such a file. A flag wins over a file.
    pub(super) fn read_files(&mut self) -> Result<(), ConfigError> {
        for setting in SETTINGS {
            let Some(file) = setting.file else { continue };
            let direct = self.values.get(setting.variable).map(|given| given.origin.clone());
            if direct.as_deref().is_some_and(|origin| Some(origin) == setting.flag) {
                continue;
            }
            let accepted = match &direct {
                Some(origin) => format!("one of it and {origin}, not both"),
                None => "a file that can be read and is not empty".to_owned(),
            };
            let read = |path: &str| read_secret(Path::new(path)).filter(|_| direct.is_none());
            let text = self.parsed(file, &accepted, read)?;
            self.set(setting.variable, file.to_owned(), text);
        }
        Ok(())
    }

    /// Every setting as it can be shown: its key, its value, and where that comes from.
    pub(super) fn shown(&self) -> Vec<ShownSetting> {
        let row = |setting: &Setting| {
            let given = self.values.get(setting.variable);
            let value = match (given, setting.shown) {
                (None, _) => setting.default.to_owned(),
                (Some(_), Shown::Never) => "(not shown)".to_owned(),
                (Some(given), Shown::Url) if is_maybe_url(&given.text) => shown_url(&given.text),
                (Some(given), _) => shown_value(given.text.trim()),
            };
            let origin = given.map_or_else(|| "default".to_owned(), |given| given.origin.clone());
            ShownSetting { key: setting.key(), value, origin }
        };
        SETTINGS.iter().map(row).collect()
    }

    /// Whether some source gives the setting.
    pub(super) fn is_set(&self, variable: &str) -> bool {
        self.values.contains_key(variable)
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
    match Setting::of(variable).map_or(Shown::Plain, |setting| setting.shown) {
        Shown::Never => "a value that is not shown".to_owned(),
        Shown::Url if text.contains("://") => format!("{:?}", redacted_url(text)),
        Shown::Url if is_maybe_url(text) => "a value that is not shown".to_owned(),
        _ => format!("{:?}", shown_value(text)),
    }
}

/// Whether a text may be a URL, perhaps a misspelt one, with a password in it.
fn is_maybe_url(text: &str) -> bool {
    text.contains("://") || text.contains(['@', '='])
}

fn shown_url(text: &str) -> String {
    if text.contains("://") { redacted_url(text) } else { "(not shown)".to_owned() }
}

/// The variable with the same meaning as a key of the file.
pub(super) fn variable_of(key: &str) -> Option<&'static str> {
    SETTINGS.iter().find(|setting| setting.key() == key).map(|setting| setting.variable)
}

/// The known key of the file that is most similar to an unknown one.
pub(super) fn nearest_key(key: &str) -> Option<String> {
    let wanted = key_of(&key.to_ascii_uppercase());
    let keys = SETTINGS.iter().map(Setting::key).chain(["sagas".to_owned(), "tokens".to_owned()]);
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
    let known = || SETTINGS.iter().map(|setting| setting.variable).chain([CONFIG]);
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
    given.map(|name| format!("{name} is ignored for plugins: their requests go to receivers without a proxy")).collect()
}

/// The most similar of the words; `None` when none is similar enough.
fn nearest(word: &str, among: impl Iterator<Item = String>) -> Option<String> {
    /// From 0 to 1. With a smaller value, misspellings of the settings led to wrong suggestions.
    const SIMILAR: f64 = 0.6;
    let scored = among.map(|candidate| (strsim::normalized_damerau_levenshtein(word, &candidate), candidate));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= SIMILAR).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_folder_comes_before_that_of_the_machine() {
        let place = tempfile::tempdir().unwrap();
        let [folder, machine] = ["outbox.toml", "etc.toml"].map(|name| place.path().join(name).display().to_string());
        let found = || first_that_exists(&[&folder, &machine]);
        assert_eq!(found(), None);
        std::fs::write(&machine, "").unwrap();
        assert_eq!(found(), Some(PathBuf::from(&machine)));
        std::fs::write(&folder, "").unwrap();
        assert_eq!(found(), Some(PathBuf::from(&folder)));
        assert_eq!(DEFAULT_FILES, ["outbox.toml", "/etc/outbox/outbox.toml"]);
    }
}
