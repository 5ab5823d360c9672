//! One example of each refusal, for the description of the routes.

use std::time::Duration;

use axum::http::{HeaderName, Method};
use serde_json::value::RawValue;

use outbox_item::{InvalidItem, ItemId, Millis};
use outbox_store::{JobId, UnknownName};

use crate::access::Right;
use crate::problem::{ApiError, Unidentified};

/// The examples. A test compares them with docs/errors.md.
pub(crate) fn examples() -> Vec<ApiError> {
    let all = [of_callers(), of_requests(), of_writes(), of_operators(), of_the_host()];
    all.into_iter().flatten().collect()
}

fn of_callers() -> Vec<ApiError> {
    vec![
        ApiError::Unauthorized(Unidentified::Absent),
        ApiError::Forbidden { right: Right::Operate, caller: "ada".into() },
        ApiError::CrossSite,
        ApiError::ExpiredForm,
        ApiError::TooManyAttempts { wait: Duration::from_secs(6) },
        ApiError::WrongHost("evil.example".into()),
    ]
}

fn of_requests() -> Vec<ApiError> {
    let broken = serde_json::from_str::<u8>("{").expect_err("this is no number");
    vec![
        ApiError::NoRoute("/item".into()),
        ApiError::WrongMethod { method: Method::DELETE, path: "/items".into() },
        ApiError::TooLarge { limit: 1 << 20 },
        ApiError::WrongContentType { given: "text/plain".into(), accepted: "application/json" },
        ApiError::InvalidJson { what: "the item", source: broken, at_line: None },
        ApiError::Invalid("limit is \"0\": it must be from 1 to 1000".into()),
        ApiError::SlowBody { limit: Duration::from_secs(30) },
    ]
}

fn of_writes() -> Vec<ApiError> {
    let steps = RawValue::from_string(
        r#"[{"type":"mail","outcome":"permanent","code":"address.unknown","message":"nobody there","maybe_executed":false}]"#
            .to_owned(),
    );
    let key = HeaderName::from_static("idempotency-key");
    vec![
        ApiError::MissingHeaders(vec!["Idempotency-Key"]),
        ApiError::MalformedHeader(key),
        ApiError::InvalidItem { source: invalid_item(), at_line: None },
        ApiError::Conflict { idem_key: "order-17".into(), first: ItemId::new(17), at_line: None },
        ApiError::UnknownSaga { name: "Onbording".into(), declared: vec!["Onboarding".into()] },
        ApiError::Unserved { missing: vec!["mail".into()], served: vec!["webhook".into()] },
        ApiError::Inline {
            failed: 1,
            count: 1,
            steps: steps.expect("this is JSON"),
            cid: "request-7".into(),
            idem_key: "order-17".into(),
        },
        ApiError::TooManyPending { max: 10_000 },
    ]
}

fn invalid_item() -> InvalidItem {
    outbox_item::validate_type("Mail").expect_err("a type has no capital letters")
}

fn of_operators() -> Vec<ApiError> {
    vec![
        ApiError::NoItem("order-17".into()),
        ApiError::NoJob(JobId::new(5)),
        ApiError::ConfirmationNeeded {
            action: "purge",
            count: 3,
            as_of: Millis::new(1_800_000_000_000),
            confirm: "1800000000000-0123456789abcdef".into(),
        },
        ApiError::UnknownName(UnknownName { kind: "type", name: "webhok".into(), nearest: vec!["webhook".into()] }),
        ApiError::Refused {
            id: ItemId::new(17),
            reason: "it is PENDING: only DONE and DLQ items can be replayed".into(),
        },
    ]
}

fn of_the_host() -> Vec<ApiError> {
    vec![
        ApiError::TooManyStreams,
        ApiError::Unavailable { tried: "reading items" },
        ApiError::NotReady(vec!["the store does not answer".to_owned()]),
        ApiError::Internal,
    ]
}
