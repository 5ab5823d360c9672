//! A case: an item, the world around it, and what its handler must do. Read from a TOML file.
//!
//! This file reads and validates. It does not run a handler.

pub(crate) mod accept;
pub(crate) mod answer;
pub(crate) mod content;
pub(crate) mod expect;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;

use outbox_item::{Item, ItemId, JSON, Millis, NewItem, Status};
use outbox_runtime::EnvLookup;

use crate::case::accept::CaseAccept;
use crate::case::answer::CaseAnswer;
use crate::case::content::{Content, state_bytes};
use crate::case::expect::Expect;

/// The time at which every case starts: 2025-12-31 23:59:30 UTC. It is fixed so that runs are equal, and so late that
/// an attempt after a crash has another day, month and year.
pub(crate) const NOW: Millis = Millis::new(1_767_225_570_000);

/// One case, as its file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The file stem.
    #[serde(skip)]
    pub(crate) name: String,
    /// The path of the file.
    #[serde(skip)]
    pub(crate) file: PathBuf,
    /// The item.
    pub(crate) item: CaseItem,
    /// The environment variables that the manifest can use as `${NAME}`.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// The values that replace those of the manifest's `[config]`.
    #[serde(default)]
    pub(crate) config: BTreeMap<String, Value>,
    /// The plugin state before the attempt.
    #[serde(default)]
    pub(crate) state: BTreeMap<String, Value>,
    /// The answers of receivers. A request gets the first one that matches.
    #[serde(default)]
    pub(crate) answer: Vec<CaseAnswer>,
    /// The findings of `check` that are no harm.
    #[serde(default)]
    pub(crate) accept: Vec<CaseAccept>,
    /// What the attempt must do. `check` does not need it.
    pub(crate) expect: Option<Expect>,
}

/// The item of a case. `docs/testing-handlers.md` describes the members.
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
    pub(crate) fairness_key: Option<String>,
    #[serde(default = "one")]
    pub(crate) attempt: u32,
    #[serde(default)]
    pub(crate) maybe_executed: bool,
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

impl Case {
    /// Reads a case file. Errors name the file and what is wrong in it.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let case = Self::parse(&text).with_context(|| format!("{} is no case", file.display()))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, file: file.to_owned(), ..case })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let case: Self = toml::from_str(text)?;
        case.new_item().validate()?;
        case.answer.iter().try_for_each(|answer| case.validate_answer(answer))?;
        if case.accept.iter().any(|accept| accept.reason.trim().is_empty()) {
            bail!("an [[accept]] has no `reason`: say why the finding is no harm");
        }
        Ok(case)
    }

    fn validate_answer(&self, answer: &CaseAnswer) -> anyhow::Result<()> {
        if let Some(after) = &answer.after
            && !self.answer.iter().any(|other| other.name.as_ref() == Some(after))
        {
            bail!("`after` is {after:?}, and no [[answer]] has this `name`");
        }
        if !(100..1000).contains(&answer.status) {
            bail!("`status` is {}: it must be a status of HTTP, from 100 to 999", answer.status);
        }
        Ok(())
    }

    /// Reads every case of a folder, in the order of the file names. Errors when the folder has none.
    pub(crate) fn read_all(folder: &Path) -> anyhow::Result<Vec<Self>> {
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

    /// The item as a client enqueues it.
    pub(crate) fn new_item(&self) -> NewItem {
        let CaseItem { r#type, key, payload, content_type, headers, cid, saga, ordering_key, fairness_key, .. } =
            &self.item;
        NewItem {
            content_type: content_type.clone(),
            headers: headers.clone(),
            cid: Some(cid.clone()),
            saga: saga.clone(),
            ordering_key: ordering_key.clone(),
            fairness_key: fairness_key.clone(),
            ..NewItem::new(r#type, key, payload.bytes().unwrap_or_default())
        }
    }

    /// The item as the handler sees it in the attempt of the case.
    pub(crate) fn claimed_item(&self) -> Item {
        let CaseItem { attempt, maybe_executed, .. } = self.item;
        Item {
            status: Status::Claimed,
            attempts: attempt,
            deliveries: attempt,
            claimed_at: Some(NOW),
            maybe_executed,
            ..self.new_item().into_item(ItemId::new(1), NOW)
        }
    }

    /// The environment that the manifest sees: the variables of the case and no others.
    pub(crate) fn environment(&self) -> EnvLookup {
        let env = self.env.clone();
        Arc::new(move |name| env.get(name).cloned())
    }

    /// The values that replace those of the manifest's `[config]`.
    pub(crate) fn configuration(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.config.iter().map(|(key, value)| (key.clone(), text(value))).collect()
    }

    /// The plugin state before the attempt.
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
        let accept = "[item]\ntype = 'mail'\n[[accept]]\nfinding = 'lost'\ncall = 1\nreason = ' '";
        assert!(refusal(accept).contains("reason"));
    }

    #[test]
    fn bytes_are_written_as_text_or_as_json() {
        let case = Case::parse("[item]\ntype = 'mail'\njson = { to = 'a' }\n[state]\nn = 1\ns = 'x'").unwrap();
        assert_eq!(case.new_item().payload, br#"{"to":"a"}"#);
        assert_eq!(case.initial_state(), [("n".into(), b"1".to_vec()), ("s".into(), b"x".to_vec())].into());
    }
}
