//! A case: an item, what surrounds it, and what its handler is expected to do. Read from TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;

use outbox_item::{Item, JSON, Millis, NewItem, Status};
use outbox_runtime::EnvLookup;

/// When cases happen: the first second of 2026.
pub(crate) const NOW: Millis = 1_767_225_600_000;

/// One case, as its file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The name of its file without the ending.
    #[serde(skip)]
    pub name: String,
    /// Its file.
    #[serde(skip)]
    pub file: PathBuf,
    pub(crate) item: CaseItem,
    /// What `${NAME}` stands for in the manifest.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// What replaces values of the manifest's `[config]`.
    #[serde(default)]
    pub(crate) config: BTreeMap<String, Value>,
    /// What is stored for the plugin before.
    #[serde(default)]
    pub(crate) state: BTreeMap<String, Value>,
    /// What receivers answer.
    #[serde(default)]
    pub(crate) answer: Vec<CaseAnswer>,
    pub(crate) expect: Option<Expect>,
}

/// The item of a case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseItem {
    pub(crate) r#type: String,
    #[serde(default = "one_key")]
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) payload: Content,
    #[serde(default = "json")]
    pub(crate) content_type: String,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default = "one_cid")]
    pub(crate) cid: String,
    pub(crate) saga: Option<String>,
    pub(crate) ordering_key: Option<String>,
    #[serde(default = "one")]
    pub(crate) attempt: u32,
    #[serde(default)]
    pub(crate) maybe_executed: bool,
}

/// Bytes, written as text or as the TOML of some JSON.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Content {
    #[serde(alias = "payload")]
    pub(crate) body: Option<String>,
    pub(crate) json: Option<Value>,
}

/// What a receiver answers to the requests that it is meant for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseAnswer {
    /// By which `after` refers to it.
    pub(crate) name: Option<String>,
    pub(crate) method: Option<String>,
    /// Where `*` stands for anything.
    pub(crate) url: String,
    /// It is given only when the answer of this name has taken effect.
    pub(crate) after: Option<String>,
    /// How often it is given; then the next that fits is.
    pub(crate) times: Option<u32>,
    #[serde(default = "ok")]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(crate) body: Content,
    /// What goes wrong instead.
    pub(crate) fault: Option<CaseFault>,
    /// What the receiver does with idempotency keys.
    #[serde(default, rename = "receiver")]
    pub(crate) key_handling: KeyHandling,
    /// Its effect may be missing in the end.
    #[serde(default)]
    pub(crate) optional: bool,
}

/// What may go wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CaseFault {
    /// Nobody listens.
    Refused,
    /// The connection breaks.
    Broken,
    /// No answer comes.
    Silent,
}

/// What a receiver does with idempotency keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeyHandling {
    /// It carries out a key once and answers alike afterwards.
    #[default]
    Honours,
    /// It carries out whatever comes.
    Ignores,
}

/// What is expected of the attempt.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// `done`, or the class of a failure.
    pub(crate) outcome: String,
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    /// In whole seconds.
    pub(crate) retry_after: Option<u64>,
    pub(crate) result: Option<String>,
    pub(crate) result_json: Option<Value>,
    #[serde(default)]
    pub(crate) request: Vec<ExpectedRequest>,
    /// All that is stored afterwards; as before, when it is left out.
    pub(crate) state: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    pub(crate) followup: Vec<ExpectedFollowup>,
}

/// A request that is expected.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedRequest {
    pub(crate) method: String,
    pub(crate) url: String,
    /// Headers that it has among others.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) key: Option<String>,
    #[serde(flatten)]
    pub(crate) body: Content,
}

/// A follow-up that is expected.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedFollowup {
    pub(crate) r#type: String,
    pub(crate) key: Option<String>,
    #[serde(flatten)]
    pub(crate) payload: Content,
    pub(crate) ordering_key: Option<String>,
    /// In milliseconds.
    #[serde(default)]
    pub(crate) delay_ms: u64,
}

fn one_key() -> String {
    "case-1".to_owned()
}

fn one_cid() -> String {
    "case".to_owned()
}

fn json() -> String {
    JSON.to_owned()
}

fn one() -> u32 {
    1
}

fn ok() -> u16 {
    200
}

impl Content {
    /// The bytes, if any are given.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let json = || self.json.as_ref().map(|json| json.to_string().into_bytes());
        self.body.as_ref().map(|body| body.clone().into_bytes()).or_else(json)
    }
}

/// The bytes of a value of the state: text as it is, anything else as JSON.
pub(crate) fn state_bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

impl Case {
    /// Reads a case. Errors name the file and what is wrong in it.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let case = Self::parse(&text).with_context(|| format!("{} is no case", file.display()))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, file: file.to_owned(), ..case })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let case: Self = toml::from_str(text)?;
        case.new_item().validate()?;
        for answer in &case.answer {
            if let Some(after) = &answer.after
                && !case.answer.iter().any(|other| other.name.as_ref() == Some(after))
            {
                bail!("`after` is {after:?}, and no [[answer]] has this `name`");
            }
            if !(100..1000).contains(&answer.status) {
                bail!("`status` is {}: it must be a status of HTTP, from 100 to 999", answer.status);
            }
        }
        Ok(case)
    }

    /// The cases of a folder in the order of their names.
    pub fn read_all(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let entries = std::fs::read_dir(folder)
            .with_context(|| format!("looking for cases in {}", folder.display()))?
            .collect::<Result<Vec<_>, _>>()?;
        let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        if files.is_empty() {
            bail!("{} has no cases: a case is a file NAME.toml, see docs/testing-handlers.md", folder.display());
        }
        files.iter().map(|file| Self::read(file)).collect()
    }

    /// The item as a caller would enqueue it.
    pub(crate) fn new_item(&self) -> NewItem {
        let CaseItem { r#type, key, payload, content_type, headers, cid, saga, ordering_key, .. } = &self.item;
        NewItem {
            content_type: content_type.clone(),
            headers: headers.clone(),
            cid: Some(cid.clone()),
            saga: saga.clone(),
            ordering_key: ordering_key.clone(),
            ..NewItem::new(r#type, key, payload.bytes().unwrap_or_default())
        }
    }

    /// The item in the midst of the attempt that the case is about.
    pub(crate) fn claimed_item(&self) -> Item {
        let CaseItem { attempt, maybe_executed, .. } = self.item;
        Item {
            status: Status::Claimed,
            attempts: attempt,
            deliveries: attempt,
            claimed_at: Some(NOW),
            maybe_executed,
            ..self.new_item().into_item(1, NOW)
        }
    }

    /// What the manifest finds in the environment: what the case says, and nothing else.
    pub(crate) fn environment(&self) -> EnvLookup {
        let env = self.env.clone();
        Arc::new(move |name| env.get(name).cloned())
    }

    /// What replaces the manifest's `[config]`.
    pub(crate) fn configuration(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.config.iter().map(|(key, value)| (key.clone(), text(value))).collect()
    }

    /// What is stored for the plugin before.
    pub(crate) fn initial_state(&self) -> BTreeMap<String, Vec<u8>> {
        self.state.iter().map(|(key, value)| (key.clone(), state_bytes(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_needs_no_more_than_the_type_of_its_item() {
        let case = Case::parse("[item]\ntype = 'mail'").unwrap();
        let item = case.claimed_item();
        assert_eq!((item.item_type.as_str(), item.idem_key.as_str(), item.attempts), ("mail", "case-1", 1));
        assert!(item.payload.is_empty());
    }

    #[test]
    fn what_is_wrong_in_a_case_is_named() {
        let refusal = |text: &str| format!("{:#}", Case::parse(text).unwrap_err());
        assert!(refusal("[item]\ntype = 'mail'\n[expects]\n").contains("expects"));
        assert!(refusal("[item]\ntype = 'Mail'").contains("Mail"));
        assert!(refusal("[item]\ntype = 'mail'\n[[answer]]\nurl = '*'\nafter = 'x'").contains("after"));
        assert!(refusal("[item]\ntype = 'mail'\n[[answer]]\nurl = '*'\nstatus = 7").contains("status"));
    }

    #[test]
    fn bytes_are_written_as_text_or_as_json() {
        let case = Case::parse("[item]\ntype = 'mail'\njson = { to = 'a' }\n[state]\nn = 1\ns = 'x'").unwrap();
        assert_eq!(case.new_item().payload, br#"{"to":"a"}"#);
        assert_eq!(case.initial_state(), [("n".into(), b"1".to_vec()), ("s".into(), b"x".to_vec())].into());
    }
}
