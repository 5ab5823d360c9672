//! Names that an operator types: which of them the store or a process knows, and which known ones resemble another.
//!
//! An unknown name is most likely misspelt. It does not know who asks, nor what is done about it.

use std::collections::BTreeSet;

use outbox_item::{ItemId, Status};

use crate::error::StoreError;
use crate::filter::{Filter, Page};
use crate::inspect::Inspect;
use crate::overview::Overview;
use crate::stuck::{StuckKind, StuckQuery};

/// The kind of name of which only those with unfinished or dead items count as known.
const ORDERING_KEY: &str = "ordering key";
/// The other one.
const FAIRNESS_KEY: &str = "fairness key";
/// The most fairness keys among which one is looked for that resembles an unknown one.
const KEYS_MAX: u32 = 10_000;

/// Names that an error lists at most.
const LISTED: usize = 3;

/// The smallest similarity of two names that one is offered for the other, from 0 to 1.
const SIMILAR: f64 = 0.75;

/// An unknown name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {kind} {name:?}{}", self.begin(), self.offer())]
pub struct UnknownName {
    /// What it names: `type`, `saga`, `ordering key` or `fairness key`.
    pub kind: &'static str,
    /// As it was given.
    pub name: String,
    /// Known names that resemble it, the most similar first; without one, some that are known.
    pub nearest: Vec<String>,
}

impl UnknownName {
    fn new(kind: &'static str, name: &str, known: &BTreeSet<&str>) -> Self {
        Self { kind, name: name.to_owned(), nearest: nearest(name, known) }
    }

    fn begin(&self) -> &'static str {
        if matches!(self.kind, ORDERING_KEY | FAIRNESS_KEY) {
            "no item that waits or is dead has"
        } else {
            "nothing is known of"
        }
    }

    fn offer(&self) -> String {
        match &self.nearest[..] {
            [] => String::new(),
            names => format!(", known are {}", names.join(", ")),
        }
    }
}

fn nearest(name: &str, known: &BTreeSet<&str>) -> Vec<String> {
    let mut ranked: Vec<_> = known.iter().map(|known| (strsim::jaro_winkler(name, known), *known)).collect();
    ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let similar = ranked.iter().filter(|(similarity, _)| *similarity >= SIMILAR).count();
    let listed = if similar == 0 { LISTED } else { similar.min(LISTED) };
    ranked.into_iter().take(listed).map(|(_, known)| known.to_owned()).collect()
}

impl Overview {
    /// Errors when there was never an item of the type, no live pod serves it, and it is not in `here`.
    pub fn check_type(&self, item_type: &str, here: &[String]) -> Result<(), UnknownName> {
        check("type", item_type, &self.known_types(here).iter().map(String::as_str).collect())
    }

    /// The types of items that are or were in the store, those that live pods serve, and those in `here`, by name.
    pub fn known_types(&self, here: &[String]) -> Vec<String> {
        let known: BTreeSet<_> = self.by_type.keys().cloned().chain(self.served_types(here)).collect();
        known.into_iter().collect()
    }

    /// Errors when a type or a saga of the filter is unknown; `here` is that of [`Overview::check_type`].
    pub fn check_filter(&self, filter: &Filter, here: &[String]) -> Result<(), UnknownName> {
        if let Some(item_type) = &filter.r#type {
            self.check_type(item_type, here)?;
        }
        match &filter.saga {
            Some(saga) => check("saga", saga, &self.sagas.keys().map(String::as_str).collect()),
            None => Ok(()),
        }
    }
}

fn check(kind: &'static str, name: &str, known: &BTreeSet<&str>) -> Result<(), UnknownName> {
    if known.contains(name) { Ok(()) } else { Err(UnknownName::new(kind, name, known)) }
}

/// The item that has this idempotency key.
pub async fn item_with_key(store: &dyn Inspect, key: &str) -> Result<Option<ItemId>, StoreError> {
    let filter = Filter { idem_key: Some(key.to_owned()), ..Filter::default() };
    let found = store.list(&filter, &Page { limit: 1, before: None }).await?;
    Ok(found.items.first().map(|found| found.item.id))
}

/// Pages that a search for one item looks at. Each looks at 20,000 items of each status at most.
const PAGES_MAX: usize = 50;

/// Whether an item matches or may match: in a store that is too large to be searched, a name is no mistake because it was
/// not found.
async fn any(store: &dyn Inspect, filter: &Filter) -> Result<bool, StoreError> {
    let mut page = Page { limit: 1, before: None };
    for _ in 0..PAGES_MAX {
        let found = store.list(filter, &page).await?;
        if !found.items.is_empty() || found.next.is_none() {
            return Ok(!found.items.is_empty());
        }
        page.before = found.next;
    }
    Ok(true)
}

/// The problem of an ordering key that no unfinished and no dead item has, with blocked keys that resemble it.
pub async fn unknown_ordering_key(store: &dyn Inspect, key: &str) -> Result<Option<UnknownName>, StoreError> {
    let status = vec![Status::Pending, Status::Claimed, Status::Dlq];
    let filter = Filter { status, ordering_key: Some(key.to_owned()), ..Filter::default() };
    if any(store, &filter).await? {
        return Ok(None);
    }
    let stuck = store.stuck(&StuckQuery::default()).await?;
    let blocked = stuck.iter().filter(|entry| entry.kind == StuckKind::BlockedKey);
    let known = blocked.filter_map(|entry| entry.ordering_key.as_deref()).collect();
    Ok(Some(UnknownName::new(ORDERING_KEY, key, &known)))
}

/// The problem of a fairness key that no unfinished and no dead item has and that is not paused, with keys that resemble
/// it.
pub async fn unknown_fairness_key(store: &dyn Inspect, key: &str) -> Result<Option<UnknownName>, StoreError> {
    let pauses = store.key_pauses().await?;
    let status = vec![Status::Pending, Status::Claimed, Status::Dlq];
    let filter = Filter { status, fairness_key: Some(key.to_owned()), ..Filter::default() };
    let is_paused = pauses.iter().any(|pause| pause.fairness_key == key);
    if is_paused || any(store, &filter).await? {
        return Ok(None);
    }
    // In a large store this may take too long; then no key is offered.
    let totals = store.key_totals(None, KEYS_MAX).await.unwrap_or_default();
    let waiting = totals.iter().map(|totals| totals.fairness_key.as_str());
    let known = waiting.chain(pauses.iter().map(|pause| pause.fairness_key.as_str())).collect();
    Ok(Some(UnknownName::new(FAIRNESS_KEY, key, &known)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn known(names: &[&str]) -> Overview {
        let by_type = names.iter().map(|name| ((*name).to_owned(), BTreeMap::new())).collect();
        Overview { by_type, ..Overview::default() }
    }

    #[test]
    fn the_names_that_resemble_an_unknown_one_are_offered_first() {
        let overview = known(&["mail", "vector_upsert", "webhook", "webhook.v2"]);
        assert_eq!(overview.check_type("webhook", &[]), Ok(()));
        assert_eq!(overview.check_type("sms", &["sms".into()]), Ok(()), "a process serves it");
        let unknown = overview.check_type("webhok", &[]).unwrap_err();
        assert_eq!(unknown.nearest, ["webhook", "webhook.v2"]);
        assert_eq!(unknown.to_string(), "nothing is known of type \"webhok\", known are webhook, webhook.v2");
    }

    #[test]
    fn without_a_similar_name_some_known_ones_are_listed() {
        assert_eq!(known(&["a", "b", "c", "d"]).check_type("zzz", &[]).unwrap_err().nearest.len(), LISTED);
        assert_eq!(known(&[]).check_type("x", &[]).unwrap_err().to_string(), "nothing is known of type \"x\"");
    }

    #[test]
    fn a_filter_is_checked_for_its_type_and_its_saga() {
        let filter = |item_type: Option<&str>, saga: Option<&str>| Filter {
            r#type: item_type.map(Into::into),
            saga: saga.map(Into::into),
            ..Filter::default()
        };
        let overview = known(&["mail"]);
        assert!(overview.check_filter(&filter(None, None), &[]).is_ok());
        assert!(overview.check_filter(&filter(Some("mail"), None), &[]).is_ok());
        assert_eq!(overview.check_filter(&filter(Some("male"), None), &[]).unwrap_err().kind, "type");
        assert_eq!(overview.check_filter(&filter(Some("mail"), Some("s")), &[]).unwrap_err().kind, "saga");
    }
}
