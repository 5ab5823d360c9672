//! A copy of the process environment, and the values that are derived from it.
//!
//! The copy is taken once. This file does not know the settings of the outbox.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A copy of the environment. It holds secrets, so `Debug` shows no values.
#[derive(Clone, Default)]
pub(crate) struct ProcessEnv(Arc<BTreeMap<String, String>>);

/// The user and the machine of a process, for the audit trail and for names of instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    /// The user's name, or `unknown`.
    pub(crate) user: String,
    /// The machine's or the pod's name, or `localhost`.
    pub(crate) host: String,
}

/// The command line of this process, the program first.
pub(crate) fn command_line() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

impl ProcessEnv {
    pub(super) fn of_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// The variable's value; `None` when it is not set or empty.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// The variable's value, or the content of the file that the variable with `_FILE` at its end names.
    pub(crate) fn value_or_file(&self, name: &str) -> Option<String> {
        self.get(name).or_else(|| read_secret(Path::new(&self.get(&format!("{name}_FILE"))?)))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// `outbox` in the user's cache folder, or in the system's cache folder for a process without a home.
    pub(super) fn cache_dir(&self) -> PathBuf {
        let absolute = |name| self.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let below_home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(below_home)))
            .unwrap_or_else(|| "/var/cache".into())
            .join("outbox")
    }

    pub(super) fn identity(&self) -> ProcessIdentity {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
        ProcessIdentity {
            user: self.get("USER").or_else(|| self.get("LOGNAME")).unwrap_or_else(user_number),
            host: self.get("HOSTNAME").or_else(host).unwrap_or_else(|| "localhost".to_owned()),
        }
    }
}

/// The user of this process where no variable names it, as in many containers.
fn user_number() -> String {
    format!("uid-{}", rustix::process::geteuid().as_raw())
}

/// The content of a file that holds a secret, without the line break at its end; `None` when it cannot be read or is
/// empty.
pub(super) fn read_secret(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim_end_matches(['\r', '\n']).to_owned()).filter(|text| !text.is_empty())
}

impl ProcessIdentity {
    /// A new name for this process: its role, its machine and a random part, so that no other start has the same.
    pub(crate) fn new_instance_name(&self, role: Option<&str>) -> String {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let host = &self.host;
        match role {
            Some(role) => format!("{role}-{host}-{}", &random[..8]),
            None => format!("{host}-{}", &random[..8]),
        }
    }
}

impl FromIterator<(String, String)> for ProcessEnv {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(Arc::new(variables.into_iter().collect()))
    }
}

impl fmt::Debug for ProcessEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessEnv({} variables, not shown)", self.0.len())
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.host)
    }
}
