//! Query parameters: the names that each route accepts, their types and their bounds.
//!
//! Knows how a parameter is written and what the problem says about a wrong one. Does not read the store.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::Query;

use outbox_item::Status;
use outbox_store::{AuditQuery, Filter, HISTORY_MAX, MemberIs, Page, SignalSeq, StuckQuery};

use crate::problem::ApiError;

/// Entries per page when the caller gives no limit; the command line lists as many.
const PAGE_DEFAULT: u32 = 100;

/// The most entries per page. A long read would keep SQLite from checkpointing its write-ahead log.
const PAGE_MAX: u32 = 1000;

/// The parameters of a request in the order given. A name may occur several times.
pub(crate) type QueryParameters = Query<Vec<(String, String)>>;

/// The parameters of `GET /items` and `GET /failures`.
pub(crate) fn filter_and_page(parameters: Vec<(String, String)>) -> Result<(Filter, Page), ApiError> {
    let mut filter = Filter::default();
    let mut page = Page { limit: PAGE_DEFAULT, before: None };
    for (name, text) in parameters {
        match name.as_str() {
            "limit" => page.limit = limit(&text, PAGE_MAX)?,
            "before" => page.before = Some(number(&name, &text)?),
            _ => restrict(&mut filter, &name, text)?,
        }
    }
    Ok((filter, page))
}

/// The parameters of [`restrict`], as the problem about an unknown one lists them.
const RESTRICTIONS: &str = "`status`, `type`, `idem_key`, `key_prefix`, `saga`, `cid`, `ordering_key`, `fairness_key`, `pod`, `created_from`, `created_to`, \
     `finished_from`, `finished_to`, `available_from`, `available_to`, `fingerprint`, `handler_digest`, `error`, `payload`, `headers`, \
     `metadata`, `text`, `first`, `sample`, `ids`, `as_of`";

/// Adds one restriction to the filter. `status` may be given several times, and each adds its statuses; so may conditions
/// on what an item contains.
fn restrict(filter: &mut Filter, name: &str, text: String) -> Result<(), ApiError> {
    match name {
        "status" => add_statuses(&mut filter.status, &text),
        "type" => set_once(&mut filter.r#type, name, text),
        "idem_key" => set_once(&mut filter.idem_key, name, text),
        "key_prefix" => set_once(&mut filter.key_prefix, name, text),
        "saga" => set_once(&mut filter.saga, name, text),
        "cid" => set_once(&mut filter.cid, name, text),
        "ordering_key" => set_once(&mut filter.ordering_key, name, text),
        "fairness_key" => set_once(&mut filter.fairness_key, name, text),
        "pod" => set_once(&mut filter.pod, name, text),
        "fingerprint" => set_once(&mut filter.fingerprint, name, text),
        "created_from" => set_once(&mut filter.created_from, name, number(name, &text)?),
        "created_to" => set_once(&mut filter.created_to, name, number(name, &text)?),
        "finished_from" => set_once(&mut filter.finished_from, name, number(name, &text)?),
        "finished_to" => set_once(&mut filter.finished_to, name, number(name, &text)?),
        "available_from" => set_once(&mut filter.available_from, name, number(name, &text)?),
        "available_to" => set_once(&mut filter.available_to, name, number(name, &text)?),
        "handler_digest" => set_once(&mut filter.handler_digest, name, text),
        "error" => set_once(&mut filter.error, name, text),
        "payload" => add_condition(&mut filter.payload, &text),
        "headers" => add_condition(&mut filter.headers, &text),
        "metadata" => add_condition(&mut filter.metadata, &text),
        "text" => set_once(&mut filter.text, name, text),
        "first" => set_once(&mut filter.first, name, number(name, &text)?),
        "sample" => set_once(&mut filter.sample, name, number(name, &text)?),
        "ids" => {
            filter.ids.push(number(name, &text)?);
            Ok(())
        }
        "as_of" => set_once(&mut filter.as_of, name, number(name, &text)?),
        _ => Err(invalid_restriction(format!("unknown field `{name}`, expected one of {RESTRICTIONS}"))),
    }
}

fn add_condition(conditions: &mut Vec<MemberIs>, text: &str) -> Result<(), ApiError> {
    conditions.push(text.parse().map_err(invalid_restriction)?);
    Ok(())
}

/// `text` is one status, or several with commas between them.
fn add_statuses(statuses: &mut Vec<Status>, text: &str) -> Result<(), ApiError> {
    for word in text.split(',') {
        statuses.push(word.parse().map_err(invalid_restriction)?);
    }
    Ok(())
}

fn set_once<T>(field: &mut Option<T>, name: &str, value: T) -> Result<(), ApiError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(ApiError::Invalid(format!("{name} is given twice in the query"))),
    }
}

fn invalid_restriction(reason: impl Display) -> ApiError {
    ApiError::Invalid(format!("in the query: {reason} (besides limit and before)"))
}

/// The parameter of `GET /jobs`: how many jobs to list.
pub(crate) fn job_limit(parameters: Vec<(String, String)>) -> Result<u32, ApiError> {
    let mut jobs = PAGE_DEFAULT;
    for (name, text) in parameters {
        match name.as_str() {
            "limit" => jobs = limit(&text, PAGE_MAX)?,
            _ => return Err(unknown_parameter(&name, "limit")),
        }
    }
    Ok(jobs)
}

/// The parameters of `GET /fairness-keys`: only those of this type, and how many.
pub(crate) fn key_totals_query(parameters: Vec<(String, String)>) -> Result<(Option<String>, u32), ApiError> {
    let (mut item_type, mut keys) = (None, PAGE_DEFAULT);
    for (name, text) in parameters {
        match name.as_str() {
            "type" => set_once(&mut item_type, &name, text)?,
            "limit" => keys = limit(&text, PAGE_MAX)?,
            _ => return Err(unknown_parameter(&name, "type, limit")),
        }
    }
    Ok((item_type, keys))
}

/// The parameters of `GET /stuck`.
pub(crate) fn stuck_query(parameters: Vec<(String, String)>) -> Result<StuckQuery, ApiError> {
    let mut query = StuckQuery::default();
    for (name, text) in parameters {
        match name.as_str() {
            "limit" => query.limit = limit(&text, PAGE_MAX)?,
            "attempts" => query.attempts = number(&name, &text)?,
            "older_than_ms" => query.older_than = Duration::from_millis(number(&name, &text)?),
            _ => return Err(unknown_parameter(&name, "limit, attempts and older_than_ms")),
        }
    }
    Ok(query)
}

/// The time that `GET /history` is about when the caller gives none.
const HISTORY_DEFAULT: Duration = Duration::from_hours(1);

/// The parameter of `GET /history`: how far it goes back.
pub(crate) fn history_span(parameters: Vec<(String, String)>) -> Result<Duration, ApiError> {
    let mut span = HISTORY_DEFAULT;
    for (name, text) in parameters {
        match name.as_str() {
            "last_ms" => span = Duration::from_millis(number(&name, &text)?),
            _ => return Err(unknown_parameter(&name, "last_ms")),
        }
    }
    if (Duration::from_mins(1)..=HISTORY_MAX).contains(&span) {
        return Ok(span);
    }
    let (least, most) = (60_000, HISTORY_MAX.as_millis());
    Err(ApiError::Invalid(format!("last_ms is {}: it must be from {least} to {most}", span.as_millis())))
}

/// The parameter of `GET /status/cockpit`: whether the answer has the overview in words.
pub(crate) fn wants_overview(parameters: Vec<(String, String)>) -> Result<bool, ApiError> {
    let mut wanted = false;
    for (name, text) in parameters {
        wanted = match (name.as_str(), text.parse()) {
            ("overview", Ok(wanted)) => wanted,
            ("overview", Err(_)) => {
                return Err(ApiError::Invalid(format!("overview is {text:?}: it must be true or false")));
            }
            _ => return Err(unknown_parameter(&name, "overview")),
        };
    }
    Ok(wanted)
}

/// The parameters of `GET /audit`.
pub(crate) fn audit_query(parameters: Vec<(String, String)>) -> Result<AuditQuery, ApiError> {
    let mut query = AuditQuery { limit: PAGE_DEFAULT, ..AuditQuery::default() };
    for (name, text) in parameters {
        match name.as_str() {
            "limit" => query.limit = limit(&text, PAGE_MAX)?,
            "item" => query.item = Some(number(&name, &text)?),
            "job" => query.job = Some(number(&name, &text)?),
            "from" => query.from = Some(number(&name, &text)?),
            "to" => query.to = Some(number(&name, &text)?),
            "before" => query.before = Some(number(&name, &text)?),
            "actor" => query.actor = Some(text),
            "action" => query.action = Some(text),
            _ => return Err(unknown_parameter(&name, "limit, item, job, from, to, before, actor and action")),
        }
    }
    Ok(query)
}

/// The parameters of `GET /signals`.
pub(crate) struct SignalQuery {
    /// The `seq` of the last signal that the client has seen; 0 for none.
    pub(crate) after: SignalSeq,
    /// How many signals the first read returns.
    pub(crate) limit: u32,
}

impl SignalQuery {
    /// Reads the parameters; `max` is the largest limit and the default.
    pub(crate) fn parse(parameters: Vec<(String, String)>, max: u32) -> Result<Self, ApiError> {
        let mut query = Self { after: SignalSeq::START, limit: max };
        for (name, text) in parameters {
            match name.as_str() {
                "after" => query.after = number("after", &text)?,
                "limit" => query.limit = limit(&text, max)?,
                _ => {
                    let problem = format!("in the query: {name:?} is unknown; known are after and limit");
                    return Err(ApiError::Invalid(problem));
                }
            }
        }
        Ok(query)
    }
}

fn unknown_parameter(name: &str, accepted: &str) -> ApiError {
    ApiError::Invalid(format!("the query has {name:?}: what is understood is {accepted}"))
}

/// A whole number; `name` says in the problem which one.
pub(crate) fn number<T: FromStr>(name: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::Invalid(format!("{name} is {text:?}: it must be a whole number in range")))
}

/// How many entries a page may have, from 1 to `max`.
fn limit(text: &str, max: u32) -> Result<u32, ApiError> {
    match number("limit", text)? {
        limit if (1..=max).contains(&limit) => Ok(limit),
        _ => Err(ApiError::Invalid(format!("limit is {text:?}: it must be from 1 to {max}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outbox_item::{ItemId, Millis};
    use serde_json::json;

    fn pairs(query: &[(&str, &str)]) -> Vec<(String, String)> {
        query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn check(query: &[(&str, &str)]) -> Result<(Filter, Page), String> {
        filter_and_page(pairs(query)).map_err(|err| err.to_string())
    }

    #[test]
    fn every_restriction_is_understood_in_both_seeds_words() {
        let (filter, page) = check(&[
            ("status", "DEAD,published"),
            ("status", "PENDING"),
            ("type", "vector_upsert"),
            ("created_from", "5"),
            ("limit", "7"),
            ("before", "42"),
        ])
        .unwrap();
        assert_eq!(filter.status, [Status::Dlq, Status::Done, Status::Pending]);
        assert_eq!(filter.r#type.as_deref(), Some("vector_upsert"));
        assert_eq!(filter.created_from, Some(Millis::new(5)));
        assert_eq!(page, Page { limit: 7, before: Some(ItemId::new(42)) });
    }

    #[test]
    fn every_member_of_a_filter_is_a_parameter() {
        let (filter, _) = check(&[
            ("status", "DLQ"),
            ("type", "t"),
            ("idem_key", "k"),
            ("key_prefix", "p"),
            ("saga", "s"),
            ("cid", "c"),
            ("ordering_key", "o"),
            ("fairness_key", "a"),
            ("pod", "b"),
            ("created_from", "1"),
            ("created_to", "2"),
            ("finished_from", "3"),
            ("finished_to", "4"),
            ("available_from", "5"),
            ("available_to", "6"),
            ("fingerprint", "f"),
            ("handler_digest", "d"),
            ("error", "refused"),
            ("payload", "order=17"),
            ("payload", "to.name=Ada"),
            ("headers", "x-tenant=acme"),
            ("metadata", "team=a"),
            ("text", "Ada"),
            ("first", "9"),
            ("sample", "8"),
            ("ids", "3"),
            ("ids", "4"),
            ("as_of", "7"),
        ])
        .unwrap();
        let members = json!({
            "status": ["DLQ"], "type": "t", "idem_key": "k", "key_prefix": "p", "saga": "s", "cid": "c", "ordering_key": "o", "fairness_key": "a", "pod": "b",
            "created_from": 1, "created_to": 2, "finished_from": 3, "finished_to": 4, "available_from": 5, "available_to": 6,
            "fingerprint": "f", "handler_digest": "d", "error": "refused", "payload": ["order=17", "to.name=Ada"],
            "headers": ["x-tenant=acme"], "metadata": ["team=a"], "text": "Ada", "first": 9, "sample": 8, "ids": [3, 4], "as_of": 7,
        });
        assert_eq!(serde_json::to_value(&filter).unwrap(), members);
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (name, value, named) in [
            ("stauts", "DLQ", "stauts"),
            ("status", "FAILED", "FAILED"),
            ("limit", "0", "limit"),
            ("limit", "1001", "1000"),
            ("before", "x", "before"),
            ("created_to", "yesterday", "created_to"),
        ] {
            let err = check(&[(name, value)]).unwrap_err();
            assert!(err.contains(named), "{name}={value}: {err}");
        }
        assert!(check(&[("type", "a"), ("type", "b")]).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_wrong_parameter_gets_the_words_that_a_wrong_member_of_a_filter_in_a_body_gets() {
        for (name, value, member) in [("stauts", "DLQ", json!("DLQ")), ("status", "FAILED", json!(["FAILED"]))] {
            let in_body = serde_json::from_value::<Filter>(json!({ name: member })).unwrap_err();
            let expected = format!("in the query: {in_body} (besides limit and before)");
            assert_eq!(check(&[(name, value)]), Err(expected));
        }
        let number = |name: &str| format!("{name} is \"soon\": it must be a whole number in range");
        for name in ["limit", "before", "created_from", "created_to", "finished_to", "available_from"] {
            assert_eq!(check(&[(name, "soon")]), Err(number(name)));
        }
        assert_eq!(check(&[("limit", "0")]), Err("limit is \"0\": it must be from 1 to 1000".to_owned()));
        let twice = "created_to is given twice in the query".to_owned();
        assert_eq!(check(&[("created_to", "1"), ("created_to", "2")]), Err(twice));
    }

    #[test]
    fn the_other_routes_name_what_they_accept() {
        let told = |result: Result<(), ApiError>| result.unwrap_err().to_string();
        let unknown = || pairs(&[("colour", "red")]);
        assert_eq!(told(job_limit(unknown()).map(drop)), "the query has \"colour\": what is understood is limit");
        assert_eq!(
            told(stuck_query(unknown()).map(drop)),
            "the query has \"colour\": what is understood is limit, attempts and older_than_ms"
        );
        assert_eq!(told(history_span(unknown()).map(drop)), "the query has \"colour\": what is understood is last_ms");
        assert_eq!(
            told(wants_overview(unknown()).map(drop)),
            "the query has \"colour\": what is understood is overview"
        );
        assert_eq!(
            told(wants_overview(pairs(&[("overview", "1")])).map(drop)),
            "overview is \"1\": it must be true or false"
        );
        for span in ["59999", "86400001"] {
            let refused = told(history_span(pairs(&[("last_ms", span)])).map(drop));
            assert_eq!(refused, format!("last_ms is {span}: it must be from 60000 to 86400000"));
        }
        assert_eq!(
            told(audit_query(unknown()).map(drop)),
            "the query has \"colour\": what is understood is limit, item, job, from, to, before, actor and action"
        );
        assert_eq!(
            told(SignalQuery::parse(unknown(), 256).map(drop)),
            "in the query: \"colour\" is unknown; known are after and limit"
        );
    }
}
