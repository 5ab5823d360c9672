//! What a lookup may say the next time, where the case says the same for ever.
//!
//! Pure. A body that is a number or a boolean measures something, and measures move. A number or a boolean in an object
//! may be an id that never changes, so what follows from it is only worth a note.

use serde_json::{Number, Value};

/// What a lookup says that may be something else the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupValue {
    /// The whole body is a number or a boolean.
    Bare,
    /// The body is an object with a number or a boolean in it.
    Member,
}

/// How the next response differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupChange {
    /// Numbers are larger by one, and booleans are true.
    More,
    /// Numbers are 0, and booleans are false.
    Nothing,
}

/// What a body says that may be something else the next time.
pub(crate) fn lookup_value(body: &[u8]) -> Option<LookupValue> {
    match serde_json::from_slice(body).ok()? {
        Value::Number(_) | Value::Bool(_) => Some(LookupValue::Bare),
        Value::Object(members) if members.values().any(is_measure) => Some(LookupValue::Member),
        _ => None,
    }
}

/// What the body may be the next time.
pub(crate) fn changed_body(body: &[u8], change: LookupChange) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return body.to_vec() };
    match &mut value {
        Value::Object(members) => {
            members.values_mut().filter(|value| is_measure(value)).for_each(|value| alter(value, change));
        }
        value => alter(value, change),
    }
    value.to_string().into_bytes()
}

/// What a GET answers after a PUT of its URL: what was put, if the scripted body has the same form. An object keeps the
/// members that were not put.
pub(crate) fn read_back(scripted: &[u8], put: &[u8]) -> Option<Vec<u8>> {
    let (scripted, put) = (serde_json::from_slice(scripted).ok()?, serde_json::from_slice(put).ok()?);
    let read = match (scripted, put) {
        (Value::Object(mut members), Value::Object(put)) if put.keys().all(|key| members.contains_key(key)) => {
            members.extend(put);
            Value::Object(members)
        }
        (Value::Number(_), put @ Value::Number(_))
        | (Value::Bool(_), put @ Value::Bool(_))
        | (Value::String(_), put @ Value::String(_)) => put,
        _ => return None,
    };
    Some(read.to_string().into_bytes())
}

fn is_measure(value: &Value) -> bool {
    value.is_number() || value.is_boolean()
}

fn alter(value: &mut Value, change: LookupChange) {
    *value = match (&*value, change) {
        (Value::Number(number), LookupChange::More) => Value::Number(one_more(number)),
        (Value::Number(_), LookupChange::Nothing) => Value::from(0),
        (Value::Bool(_), change) => Value::Bool(change == LookupChange::More),
        (other, _) => other.clone(),
    };
}

fn one_more(number: &Number) -> Number {
    let whole = number.as_i64().map(|number| Number::from(number.saturating_add(1)));
    let broken = || number.as_f64().and_then(|number| Number::from_f64(number + 1.0));
    whole.or_else(broken).unwrap_or_else(|| number.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_booleans_move_and_nothing_else_does() {
        let changed = |body: &str, change| String::from_utf8(changed_body(body.as_bytes(), change)).unwrap();
        assert_eq!(changed("10", LookupChange::More), "11");
        assert_eq!(changed("1.5", LookupChange::More), "2.5");
        assert_eq!(changed("10", LookupChange::Nothing), "0");
        assert_eq!(changed("true", LookupChange::Nothing), "false");
        assert_eq!(changed(r#"{"left":3,"name":"a"}"#, LookupChange::Nothing), r#"{"left":0,"name":"a"}"#);
        assert_eq!(lookup_value(b"1.1"), Some(LookupValue::Bare));
        assert_eq!(lookup_value(br#"{"left":3}"#), Some(LookupValue::Member));
        for body in ["", "yes", "\"yes\"", "[1]", "{}", r#"{"name":"a"}"#] {
            assert_eq!(lookup_value(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn what_was_put_is_read_where_the_case_answers_in_the_same_form() {
        let read = |scripted: &str, put: &str| read_back(scripted.as_bytes(), put.as_bytes());
        assert_eq!(read("10", "11"), Some(b"11".to_vec()));
        assert_eq!(read(r#"{"a":1,"b":2}"#, r#"{"a":3}"#), Some(br#"{"a":3,"b":2}"#.to_vec()));
        assert_eq!(read(r#"{"a":1}"#, r#"{"add":3}"#), None);
        assert_eq!(read("", "{}"), None);
        assert_eq!(read("yes", "no"), None);
    }
}
