//! The status of the plugins of one process, as the runtime reports it and operators read it.
//!
//! Owns the words and the JSON shape that the pods row, the cockpit, the metrics and the command line share. Does not
//! know how a plugin is loaded or where its status is stored.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// One plugin, or one old generation of a plugin that still finishes attempts.
///
/// The fields are declared in the order in which JSON shows them. A process may read the status that another version
/// of the host wrote: a member that is missing takes its default, and a member that is unknown is ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginStatus {
    /// The SHA-256 of the component that runs, in hex.
    pub digest: Option<String>,
    /// Why the newest file does not run.
    pub error: Option<String>,
    /// The component's path. Bytes that are not UTF-8 are replaced in JSON.
    #[serde(serialize_with = "lossy_path")]
    pub file: PathBuf,
    /// The number of this load in its process, ascending; `None` before the first.
    pub generation: Option<u64>,
    /// What its manifest lets it do besides computing, in words: requests by method and origin, state, follow-ups.
    pub grants: Vec<String>,
    /// The image that the component is from, where a registry gave it: `oci://HOST/REPOSITORY:TAG@sha256:…`, without the
    /// digest where it is not known.
    pub image: Option<String>,
    /// How much it may use; `None` while it is not loaded.
    pub limits: Option<PluginLimits>,
    /// The file stem.
    pub name: String,
    /// The SHA-256 of the component that would run after a rollback, where this process knows one.
    pub previous: Option<String>,
    /// The types that the plugin handles and that another plugin owns.
    pub refused: Vec<RefusedType>,
    /// The role whose folder the file is in.
    pub role: Option<String>,
    /// What its attempts in this process came to since it was loaded.
    pub runs: PluginRuns,
    /// Whether the plugin gets items.
    pub state: PluginState,
    /// The types whose items the plugin gets.
    pub types: Vec<String>,
    /// The version that the component reports.
    pub version: Option<String>,
}

/// Whether a plugin gets items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// It gets items.
    Active,
    /// It gets no new items and finishes the attempts that it began before it was replaced or removed.
    Draining,
    /// It gets no items yet: its component is being compiled and checked.
    Loading,
    /// It gets no items: it could not be loaded, or other plugins own all of its types.
    Failed,
    /// It gets no items: its component kept failing and is quarantined.
    Quarantined,
    /// A state that this version does not know. Only read from the rows of other processes, never reported.
    #[default]
    #[serde(other)]
    Unknown,
}

impl PluginState {
    /// The word in JSON and in the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Loading => "loading",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::Unknown => "unknown",
        }
    }
}

/// How much a plugin may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginLimits {
    /// Claims of each of its types at a time, in all processes together; no limit if absent.
    pub concurrency: Option<u32>,
    /// Claims of one fairness key at a time, in all processes together; no limit if absent.
    pub concurrency_per_key: Option<u32>,
    /// CPU time of one attempt, in milliseconds.
    pub cpu_ms: u64,
    /// Memory of one attempt, in bytes.
    pub memory: u64,
    /// Claims of each of its types per second, in all processes together; no limit if absent.
    pub rate: Option<f64>,
    /// Claims of one fairness key per second, in all processes together; no limit if absent.
    pub rate_per_key: Option<f64>,
}

impl PluginLimits {
    /// Whether they limit the claims of a type, besides what an attempt may use.
    pub const fn has_claim_limit(&self) -> bool {
        let of_type = self.concurrency.is_some() || self.rate.is_some();
        of_type || self.concurrency_per_key.is_some() || self.rate_per_key.is_some()
    }
}

/// What the attempts of a plugin came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginRuns {
    /// Attempts that have ended.
    pub attempts: u64,
    /// Their CPU time, in milliseconds.
    pub cpu_ms: u64,
    /// Those at whose failure the component was at fault: it trapped, or exceeded a limit.
    pub faults: u64,
}

/// A type that a plugin handles and that another plugin owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedType {
    /// Why the plugin does not get it.
    pub reason: String,
    /// The type.
    pub r#type: String,
}

impl PluginStatus {
    /// Why the plugin does not run as its newest file says: its error, else which types other plugins own.
    pub fn trouble(&self) -> Option<String> {
        let reason = |refused: &RefusedType| format!("{}: {}", refused.r#type, refused.reason);
        let refused = || self.refused.iter().map(reason).collect::<Vec<_>>().join(", ");
        self.error.clone().or_else(|| (!self.refused.is_empty()).then(refused))
    }

    /// The JSON array that a process writes about its plugins.
    pub fn list_to_json(plugins: &[Self]) -> String {
        // A status has string keys and UTF-8 text only, so writing it cannot fail.
        serde_json::to_string(plugins).unwrap_or_else(|_| "[]".to_owned())
    }

    /// Reads what a process of any version wrote about its plugins. Leaves out every entry that this version cannot
    /// read, and returns nothing for text that is not a JSON array: the list is for display, and one process must not
    /// hide the others.
    pub fn list_from_json(json: &str) -> Vec<Self> {
        let entries: Vec<Value> = serde_json::from_str(json).unwrap_or_default();
        let objects = entries.into_iter().filter(Value::is_object);
        objects.filter_map(|entry| serde_json::from_value(entry).ok()).collect()
    }
}

fn lossy_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str = concat!(
        r#"[{"digest":"ab","error":"no such import","file":"/p/webhook.wasm","generation":2,"grants":["state"],"#,
        r#""image":null,"limits":{"concurrency":5,"concurrency_per_key":null,"cpu_ms":2000,"#,
        r#""memory":1024,"rate":null,"rate_per_key":0.5},"name":"webhook","#,
        r#""previous":"cd","refused":[{"reason":"/p/mail.wasm handles it","type":"mail"}],"role":"vector","#,
        r#""runs":{"attempts":3,"cpu_ms":2,"faults":1},"state":"active","#,
        r#""types":["fax"],"version":"1.0.0"}]"#
    );

    fn complete() -> PluginStatus {
        PluginStatus {
            digest: Some("ab".into()),
            error: Some("no such import".into()),
            file: "/p/webhook.wasm".into(),
            generation: Some(2),
            grants: vec!["state".into()],
            image: None,
            limits: Some(PluginLimits {
                concurrency: Some(5),
                cpu_ms: 2_000,
                memory: 1_024,
                rate_per_key: Some(0.5),
                ..PluginLimits::default()
            }),
            name: "webhook".into(),
            previous: Some("cd".into()),
            refused: vec![RefusedType { reason: "/p/mail.wasm handles it".into(), r#type: "mail".into() }],
            role: Some("vector".into()),
            runs: PluginRuns { attempts: 3, cpu_ms: 2, faults: 1 },
            state: PluginState::Active,
            types: vec!["fax".into()],
            version: Some("1.0.0".into()),
        }
    }

    #[test]
    fn the_json_has_every_member_in_the_order_of_the_alphabet() {
        assert_eq!(PluginStatus::list_to_json(&[complete()]), COMPLETE);
        assert_eq!(PluginStatus::list_from_json(COMPLETE), [complete()]);
        let sorted: Value = serde_json::from_str(COMPLETE).unwrap();
        assert_eq!(sorted.to_string(), COMPLETE);
    }

    #[test]
    fn a_type_that_another_plugin_owns_is_trouble_also_for_one_that_serves_others() {
        assert_eq!(complete().trouble().as_deref(), Some("no such import"));
        let running = PluginStatus { error: None, ..complete() };
        assert_eq!(running.trouble().as_deref(), Some("mail: /p/mail.wasm handles it"));
        assert_eq!(PluginStatus { refused: vec![], ..running }.trouble(), None);
    }

    #[test]
    fn every_state_is_the_same_word_in_json_and_in_the_metrics() {
        let states = [
            PluginState::Active,
            PluginState::Draining,
            PluginState::Failed,
            PluginState::Quarantined,
            PluginState::Unknown,
        ];
        for state in states {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }

    #[test]
    fn the_rows_of_other_versions_are_read_as_far_as_possible() {
        let older = r#"[{"name": "webhook", "types": ["fax"], "state": "active"}]"#;
        let read = PluginStatus::list_from_json(older);
        assert_eq!((read[0].name.as_str(), read[0].types.as_slice()), ("webhook", &["fax".to_owned()][..]));
        let newer =
            r#"[{"name": "a", "state": "resting", "cost": {"cpu": 1}}, {"name": "b", "generation": "second"}, 7]"#;
        let read = PluginStatus::list_from_json(newer);
        assert_eq!(read, [PluginStatus { name: "a".into(), ..PluginStatus::default() }]);
        assert_eq!(read[0].state, PluginState::Unknown);
        for unreadable in ["", "null", "{}", "[", "not JSON"] {
            assert_eq!(PluginStatus::list_from_json(unreadable), [], "{unreadable}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_name_that_is_not_utf_8_can_be_shown() {
        use std::os::unix::ffi::OsStringExt as _;
        let file = PathBuf::from(std::ffi::OsString::from_vec(b"/p/\xff.wasm".to_vec()));
        let json = PluginStatus::list_to_json(&[PluginStatus { file, ..PluginStatus::default() }]);
        assert_eq!(PluginStatus::list_from_json(&json)[0].file, Path::new("/p/\u{fffd}.wasm"));
    }
}
