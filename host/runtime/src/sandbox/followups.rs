//! The items that an attempt emits. The host checks them and makes their idempotency keys at once; the settlement
//! enqueues them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outbox_core::{DeliveryMode, TRACEPARENT, TRACESTATE, sha256};
use outbox_item::{Item, KEY_MAX, NewItem};

use crate::bindings::outbox::handler::followups::{Error, NewItem as EmitRequest};
use crate::load::manifest::value::show_size;
use crate::outgoing::grant::Grants;
use crate::outgoing::idempotency_key::idempotency_root;
use crate::sandbox::observations::AttemptObservations;

/// Bytes of one payload. All follow-ups are in memory until the attempt ends.
const PAYLOAD_MAX: usize = 256 << 10;

/// The follow-ups of one attempt.
pub(crate) struct Followups {
    grants: Arc<Grants>,
    observations: Arc<AttemptObservations>,
    limit: u32,
    parent: Option<ParentItem>,
    items: Vec<NewItem>,
    keys: BTreeSet<String>,
    unnamed_counts: BTreeMap<String, u32>,
}

/// What follow-ups inherit from the item that is handled.
struct ParentItem {
    key: String,
    cid: String,
    saga: Option<String>,
    fairness_key: Option<String>,
    /// Those of its headers that name its trace.
    trace: BTreeMap<String, String>,
}

impl Followups {
    /// No items yet. Without a parent item, or if it is handled inline, none can be emitted.
    pub(crate) fn new(
        grants: Arc<Grants>,
        observations: Arc<AttemptObservations>,
        limit: u32,
        parent: Option<(&Item, DeliveryMode)>,
    ) -> Self {
        let parent = parent.filter(|(_, mode)| *mode == DeliveryMode::Durable).map(|(item, _)| ParentItem {
            key: idempotency_root(item),
            cid: item.cid.clone(),
            saga: item.saga.clone(),
            fairness_key: item.fairness_key.clone(),
            trace: trace_headers(item),
        });
        Self {
            grants,
            observations,
            limit,
            parent,
            items: Vec::new(),
            keys: BTreeSet::new(),
            unnamed_counts: BTreeMap::new(),
        }
    }

    /// The same follow-ups, which name this span as their caller if there is one, instead of the caller of their parent.
    pub(crate) fn called_by(mut self, traceparent: Option<String>) -> Self {
        if let (Some(parent), Some(traceparent)) = (&mut self.parent, traceparent) {
            parent.trace.retain(|name, _| !name.eq_ignore_ascii_case(TRACEPARENT));
            parent.trace.insert(TRACEPARENT.to_owned(), traceparent);
        }
        self
    }

    /// The emitted items, for the settlement.
    pub(crate) fn into_items(self) -> Vec<NewItem> {
        self.items
    }

    /// Checks an item, gives it its key and keeps it for the settlement.
    pub(crate) fn emit(&mut self, request: EmitRequest) -> Result<(), Error> {
        self.authorize(&request)?;
        let key = self.followup_key(&request)?;
        let item = self.item(&key, request)?;
        item.validate().map_err(|invalid| Error::Other(invalid.to_string()))?;
        if !self.keys.insert(item.idem_key.clone()) {
            return Err(Error::Other(format!(
                "two follow-ups have the key {:?}: give them different names",
                item.idem_key
            )));
        }
        self.items.push(item);
        Ok(())
    }

    fn authorize(&self, request: &EmitRequest) -> Result<(), Error> {
        if !self.grants.may_emit(&request.type_) {
            let (what, lines) =
                (format!("emitting {:?} is not granted", request.type_), self.grants.emit_lines(&request.type_));
            self.observations.deny(what, Some(lines.clone()));
            return Err(Error::Denied(lines));
        }
        if request.payload.len() > PAYLOAD_MAX {
            let limit = show_size(PAYLOAD_MAX as u64);
            self.observations.deny(format!("the payload of a follow-up may have {limit}, and one was larger"), None);
            return Err(Error::TooLarge);
        }
        if self.items.len() >= self.limit as usize {
            let what = format!("an attempt may emit {} items (`limits.followups`), and this was one more", self.limit);
            let lines = format!("[limits]\nfollowups = {}", self.limit.saturating_mul(2).max(1));
            self.observations.deny(what, Some(lines));
            return Err(Error::TooMany);
        }
        Ok(())
    }

    /// Makes the key `<key of the parent>/<type>/<name, or a count>`, which is the same in every attempt.
    fn followup_key(&mut self, request: &EmitRequest) -> Result<String, Error> {
        let parent = self.parent()?.key.clone();
        let name = if let Some(name) = &request.name {
            check_name(name)?.to_owned()
        } else {
            let count = self.unnamed_counts.entry(request.type_.clone()).or_default();
            *count += 1;
            count.to_string()
        };
        Ok(shortened(format!("{parent}/{}/{name}", request.type_)))
    }

    fn item(&self, key: &str, request: EmitRequest) -> Result<NewItem, Error> {
        let parent = self.parent()?;
        let mut item = NewItem::new(&request.type_, key, request.payload);
        item.content_type = request.content_type;
        item.cid = Some(parent.cid.clone());
        item.saga.clone_from(&parent.saga);
        item.headers.clone_from(&parent.trace);
        item.fairness_key.clone_from(&parent.fairness_key);
        item.ordering_key = request.ordering_key;
        item.delay = Duration::from_millis(request.delay_ms);
        Ok(item)
    }

    fn parent(&self) -> Result<&ParentItem, Error> {
        let inline = "follow-ups need an outbox: this item is handled inline";
        self.parent.as_ref().ok_or_else(|| Error::Other(inline.to_owned()))
    }
}

fn trace_headers(item: &Item) -> BTreeMap<String, String> {
    let is_trace = |name: &str| [TRACEPARENT, TRACESTATE].iter().any(|known| name.eq_ignore_ascii_case(known));
    let headers = item.headers.iter().filter(|(name, _)| is_trace(name));
    headers.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Errors if a name contains a slash: then the follow-ups of two parents could get the same key.
fn check_name(name: &str) -> Result<&str, Error> {
    let is_name = !name.is_empty() && name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'/');
    let refusal = || format!("the name {name:.80?} is none: it must be printable ASCII without a slash");
    if is_name { Ok(name) } else { Err(Error::Other(refusal())) }
}

/// Shortens a key to the length that an item may have. A longer one keeps its beginning and ends in a digest.
fn shortened(key: String) -> String {
    if key.len() <= KEY_MAX {
        return key;
    }
    let digest = sha256(key.as_bytes());
    let kept = key.floor_char_boundary(KEY_MAX - 1 - digest.len());
    format!("{}~{digest}", &key[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followups(key: &str, limit: u32) -> Followups {
        let grants = Grants { emit: vec!["mail".to_owned()], ..Grants::default() };
        let trace = BTreeMap::from([("traceparent".to_owned(), "00-t-s-01".to_owned())]);
        let (saga, fairness_key) = (Some("S".to_owned()), Some("tenant".to_owned()));
        let parent = ParentItem { key: key.to_owned(), cid: "c".to_owned(), saga, fairness_key, trace };
        let mut followups = Followups::new(Arc::new(grants), Arc::default(), limit, None);
        followups.parent = Some(parent);
        followups
    }

    fn request(item_type: &str, name: Option<&str>) -> EmitRequest {
        EmitRequest {
            type_: item_type.to_owned(),
            payload: b"{}".to_vec(),
            content_type: "application/json".to_owned(),
            ordering_key: None,
            delay_ms: 5,
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn keys_come_from_the_parent_and_saga_cid_and_fairness_key_pass_on() {
        let mut followups = followups("k", 9);
        for name in [None, Some("x"), None] {
            followups.emit(request("mail", name)).unwrap();
        }
        let items = followups.into_items();
        assert_eq!(
            items.iter().map(|item| item.idem_key.as_str()).collect::<Vec<_>>(),
            ["k/mail/1", "k/mail/x", "k/mail/2"]
        );
        assert_eq!((items[0].cid.as_deref(), items[0].saga.as_deref()), (Some("c"), Some("S")));
        assert!(items.iter().all(|item| item.fairness_key.as_deref() == Some("tenant")));
        assert_eq!(items[0].delay, Duration::from_millis(5));
    }

    #[test]
    fn the_caller_of_a_followup_is_the_attempt_if_that_is_recorded_and_else_that_of_the_parent() {
        let trace = |attempt: Option<&str>| {
            let mut followups = followups("k", 9);
            let names = [("Traceparent", "00-t-s-01"), ("tracestate", "a=b")];
            let trace = names.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            followups.parent.as_mut().unwrap().trace = trace;
            let mut followups = followups.called_by(attempt.map(str::to_owned));
            followups.emit(request("mail", None)).unwrap();
            followups.into_items().remove(0).headers.into_values().collect::<Vec<_>>()
        };
        assert_eq!(trace(None), ["00-t-s-01", "a=b"]);
        assert_eq!(trace(Some("00-t-attempt-01")), ["00-t-attempt-01", "a=b"]);
    }

    #[test]
    fn a_key_that_would_be_too_long_is_hashed_and_stays_the_same() {
        let key = || {
            let mut followups = followups(&"k".repeat(KEY_MAX), 9);
            followups.emit(request("mail", None)).unwrap();
            followups.into_items().remove(0).idem_key
        };
        assert_eq!(key().len(), KEY_MAX);
        assert!(key().starts_with("kkk"));
        assert_eq!(key(), key());
    }

    #[test]
    fn a_name_that_could_be_part_of_another_key_is_an_error_of_the_guest() {
        let mut followups = followups("k", 9);
        for bad in ["", "a/1", "tab\t", "ü"] {
            assert!(
                matches!(followups.emit(request("mail", Some(bad))), Err(Error::Other(why)) if why.contains("slash"))
            );
        }
        let long = "n".repeat(9_999);
        for name in [&long, &format!("{long}x")] {
            followups.emit(request("mail", Some(name))).unwrap();
        }
        let mut other = request("mail", None);
        other.content_type = "text/\n".to_owned();
        assert!(matches!(followups.emit(other), Err(Error::Other(why)) if why.contains("content_type")));
        assert_eq!(followups.into_items().len(), 2);
    }

    #[test]
    fn what_is_not_granted_too_many_twice_or_inline_is_refused() {
        let mut followups = followups("k", 2);
        assert!(
            matches!(followups.emit(request("sms", None)), Err(Error::Denied(lines)) if lines.contains(r#"emit = ["mail", "sms"]"#))
        );
        assert!(followups.observations.denial().is_some());
        followups.emit(request("mail", Some("x"))).unwrap();
        assert!(matches!(followups.emit(request("mail", Some("x"))), Err(Error::Other(_))));
        followups.emit(request("mail", None)).unwrap();
        assert!(matches!(followups.emit(request("mail", None)), Err(Error::TooMany)));
        followups.parent = None;
        followups.limit = 9;
        assert!(matches!(followups.emit(request("mail", None)), Err(Error::Other(_))));
    }
}
