//! An item of an export, in the terms in which an engine puts it into its place. Pure.
//!
//! Files of an earlier version lack the newer columns; what stands for them is decided here. The columns themselves are
//! listed in [`ITEM_COLUMNS`].

use serde_json::{Map, Value};

use outbox_core::{Destination, ItemMove, Past};
use outbox_item::{ItemId, Millis, Status};

use crate::engine::attempt_record::{AttemptRecord, is_alert};
use crate::engine::stored::{RowName, parse_word};
use crate::error::StoreError;
use crate::moved_tables::RecordColumns;
use crate::transfer::{ENQUEUED_COLUMNS, ITEM_COLUMNS, Record, integer_column, text_column, to_bytes};

/// The due times that a schema takes: 0, or one of these. Earlier versions took any number.
const DUE_TIMES: std::ops::RangeInclusive<i64> = 978_307_200_000..=253_402_300_799_999;

/// Where an item of an export goes.
pub struct MovedItem {
    /// The item, as if an attempt at it had just ended.
    pub ended: AttemptRecord,
    /// Its place and its past.
    pub moved: ItemMove,
    /// When it became DONE or DLQ.
    pub finished_at: Option<Millis>,
}

impl MovedItem {
    /// Reads an item's columns. Errors with [`StoreError::Unusable`] when one of them cannot be read, or when the item
    /// is CLAIMED.
    pub fn read(item: &RecordColumns) -> Result<Self, StoreError> {
        let id = ItemId::new(integer_column(item, "id").unwrap_or_default());
        let past = past(item);
        let to = destination(item, id)?;
        let finished_at = integer_column(item, "done_at").or_else(|| integer_column(item, "dead_at")).map(Millis::new);
        let ended = AttemptRecord {
            id,
            item_type: text_column(item, "type").to_owned(),
            saga: optional_text(item, "saga"),
            cid: text_column(item, "cid").to_owned(),
            attempt: past.attempts,
            delivery: past.deliveries,
            started_at: finished_at.unwrap_or_default(),
            pod: String::new(),
            maybe_executed: past.maybe_executed,
            handler_digest: past.handler_digest.clone(),
            exchanges: None,
            ordering_key: optional_text(item, "ordering_key"),
            is_alert: is_alert(text_column(item, "idem_key")),
        };
        Ok(Self { ended, moved: ItemMove { to, past }, finished_at })
    }
}

/// Columns whose texts have no NUL. Earlier versions took some with one.
const TEXTS: [&str; 6] = ["idem_key", "type", "content_type", "cid", "saga", "ordering_key"];

/// Errors with [`StoreError::Unusable`] for an item with a text that no schema takes any more. An engine asks before it
/// looks for the item, because its driver may not take the text either.
pub fn refuse_odd_texts(record: &Record) -> Result<(), StoreError> {
    let Record::Item { item, .. } = record else { return Ok(()) };
    let is_odd = |name: &&str| match item.get(*name) {
        Some(Value::String(text)) => text.contains('\0'),
        Some(Value::Null) | None => false,
        Some(_) => true,
    };
    let Some(name) = TEXTS.into_iter().find(is_odd) else { return Ok(()) };
    let id = integer_column(item, "id").unwrap_or_default();
    Err(StoreError::Unusable(format!(
        "{name} of item {id} is not text or contains a NUL, which no outbox takes: remove the item's line from the \
         file, and enqueue the item anew with another {name}"
    )))
}

fn past(item: &RecordColumns) -> Past {
    Past {
        attempts: count(item, "attempts"),
        deliveries: count(item, "deliveries"),
        replays: count(item, "replays"),
        effect_generation: count(item, "effects"),
        losses: count(item, "losses"),
        give_backs: count(item, "give_backs"),
        maybe_executed: integer_column(item, "maybe_executed") == Some(1),
        given_back_since: integer_column(item, "given_back_since").map(Millis::new),
        handler_digest: optional_text(item, "handler_digest"),
        last_error: optional_text(item, "last_error"),
    }
}

fn destination(item: &RecordColumns, id: ItemId) -> Result<Destination, StoreError> {
    let row = RowName::new("item", id.get());
    match parse_word(text_column(item, "status"), row, "status")? {
        Status::Pending => Ok(Destination::Queue {
            available_at: Millis::new(integer_column(item, "available_at").unwrap_or_default()),
        }),
        Status::Done => Ok(Destination::Done { result: bytes(item, "result", row)? }),
        Status::Dlq => Ok(Destination::Dead {
            blocks_key: integer_column(item, "blocks_key") == Some(1),
            fingerprint: text_column(item, "fingerprint").to_owned(),
        }),
        Status::Claimed => Err(StoreError::Unusable(format!("{row} is CLAIMED: export it after its claim has ended"))),
    }
}

fn bytes(item: &RecordColumns, name: &str, row: RowName) -> Result<Option<Vec<u8>>, StoreError> {
    let value = item.get(name).filter(|value| !value.is_null());
    let read = |value| to_bytes(value).map_err(|err| StoreError::Unusable(format!("{name} of {row}: {err}")));
    value.map(read).transpose()
}

/// A number of [`Past`], cut to the largest that a schema takes.
fn count(item: &RecordColumns, name: &str) -> u32 {
    let number = integer_column(item, name).unwrap_or_default().clamp(0, i32::MAX.into());
    u32::try_from(number).unwrap_or_default()
}

fn optional_text(item: &RecordColumns, name: &str) -> Option<String> {
    item.get(name).and_then(Value::as_str).map(str::to_owned)
}

/// What the caller of an enqueue would have given, for the table of items.
pub fn enqueued_columns(item: &RecordColumns) -> RecordColumns {
    let value = |name: &str| match name {
        "available_at" => first_due_time(item).into(),
        "headers" => headers(item),
        _ => item.get(name).cloned().unwrap_or_default(),
    };
    ENQUEUED_COLUMNS.iter().map(|name| ((*name).to_owned(), value(name))).collect()
}

fn first_due_time(item: &RecordColumns) -> i64 {
    match integer_column(item, "available_at").unwrap_or_default() {
        early if early < *DUE_TIMES.start() => 0,
        due => due.min(*DUE_TIMES.end()),
    }
}

/// The headers as JSON text. Values that are no strings, which earlier versions took, become their JSON texts.
fn headers(item: &RecordColumns) -> Value {
    let stored = item.get("headers").cloned().unwrap_or_default();
    let parsed = stored.as_str().and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let Some(headers) = parsed.filter(|headers| !headers.values().all(Value::is_string)) else { return stored };
    let as_string = |value: Value| if value.is_string() { value } else { value.to_string().into() };
    let headers: Map<_, _> = headers.into_iter().map(|(name, value)| (name, as_string(value))).collect();
    Value::from(headers).to_string().into()
}

/// Whether both records are the same item in every column that is moved, with the same history and run. A column that
/// one of them lacks has the value that an earlier version would have meant.
pub fn is_same_item(one: &Record, other: &Record) -> bool {
    let (Record::Item { item, attempts, run }, Record::Item { item: item2, attempts: attempts2, run: run2 }) =
        (one, other)
    else {
        return false;
    };
    ITEM_COLUMNS.iter().all(|name| is_same_value(item, item2, name)) && attempts == attempts2 && run == run2
}

fn is_same_value(one: &RecordColumns, other: &RecordColumns, name: &str) -> bool {
    let same_text = || text_column(one, name) == text_column(other, name);
    match name {
        "available_at" => first_due_time(one) == first_due_time(other),
        "headers" => headers(one) == headers(other),
        "losses" | "give_backs" => count(one, name) == count(other, name),
        // A dead item of an earlier version could lack both.
        "fingerprint" | "last_error" => same_text(),
        _ => one.get(name).unwrap_or(&Value::Null) == other.get(name).unwrap_or(&Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(item: &Value) -> Record {
        let item = item.as_object().cloned().expect("an object");
        Record::Item { item, attempts: Vec::new(), run: None }
    }

    fn read(item: &Value) -> Result<MovedItem, StoreError> {
        MovedItem::read(item.as_object().expect("an object"))
    }

    #[test]
    fn an_item_of_an_earlier_version_is_the_same_as_one_that_says_what_it_meant() {
        let old = json!({ "id": 1, "idem_key": "k", "status": "PENDING", "available_at": 1_790_000_000 });
        let mut new = old.clone();
        new["losses"] = 0.into();
        new["give_backs"] = 0.into();
        for added in ["fairness_key", "root", "depth"] {
            new[added] = Value::Null;
        }
        new["available_at"] = 0.into();
        new["turn"] = 9.into();
        assert!(is_same_item(&record(&old), &record(&new)));
        new["losses"] = 1.into();
        assert!(!is_same_item(&record(&old), &record(&new)));
    }

    #[test]
    fn a_text_that_no_schema_takes_is_an_error_that_names_the_item() {
        let told = |item: &Value| refuse_odd_texts(&record(item)).unwrap_err().to_string();
        assert!(told(&json!({ "id": 7, "ordering_key": "k\0x" })).starts_with("ordering_key of item 7"));
        assert!(told(&json!({ "id": 7, "cid": { "base64": "/w==" } })).starts_with("cid of item 7"));
        refuse_odd_texts(&record(&json!({ "id": 7, "cid": "c", "saga": null }))).expect("nothing is odd");
    }

    #[test]
    fn headers_of_an_earlier_version_become_strings() {
        let with = |headers: &str| json!({ "id": 1, "headers": headers });
        let old = with(r#"{"n":1,"o":{"b":[true]},"s":"x"}"#);
        let new = with(r#"{"n":"1","o":"{\"b\":[true]}","s":"x"}"#);
        assert_eq!(enqueued_columns(old.as_object().expect("an object"))["headers"], new["headers"]);
        assert!(is_same_item(&record(&old), &record(&new)));
        assert!(!is_same_item(&record(&old), &record(&with(r#"{"n":"2"}"#))));
        let spaced = with(r#"{ "b": "1", "a": "2" }"#);
        assert_eq!(enqueued_columns(spaced.as_object().expect("an object"))["headers"], spaced["headers"]);
    }

    #[test]
    fn an_item_goes_to_the_place_of_its_status_with_its_past() {
        let pending = read(&json!({ "id": 1, "status": "PENDING", "available_at": 7, "attempts": 2, "losses": 1 }));
        let MovedItem { moved, finished_at, .. } = pending.expect("it is readable");
        assert_eq!((moved.to, finished_at), (Destination::Queue { available_at: Millis::new(7) }, None));
        assert_eq!((moved.past.attempts, moved.past.losses), (2, 1));
        let done = read(&json!({ "id": 1, "status": "DONE", "done_at": 5, "result": { "base64": "/w==" } }));
        let MovedItem { moved, finished_at, .. } = done.expect("it is readable");
        assert_eq!((moved.to, finished_at), (Destination::Done { result: Some(vec![0xff]) }, Some(Millis::new(5))));
        let dead = read(&json!({ "id": 1, "status": "DLQ", "dead_at": 5, "blocks_key": 1, "fingerprint": "f" }));
        let blocking = Destination::Dead { blocks_key: true, fingerprint: "f".into() };
        assert_eq!(dead.expect("it is readable").moved.to, blocking);
    }

    #[test]
    fn what_cannot_be_put_into_a_place_is_an_error_that_names_the_item() {
        let told = |item: &Value| read(item).map(drop).unwrap_err().to_string();
        assert!(told(&json!({ "id": 7, "status": "CLAIMED" })).starts_with("item 7 is CLAIMED"));
        assert!(told(&json!({ "id": 7, "status": "LATE" })).starts_with("status of item 7 cannot be read"));
        assert!(
            told(&json!({ "id": 7, "status": "DONE", "result": { "base64": "?" } })).starts_with("result of item 7")
        );
    }
}
