//! Failed attempts of an item, with the requests that were recorded.

use serde::Serialize;
use utoipa::ToSchema;

use outbox_core::{FailedAttempt, FailureClass, RecordedExchange, Recording};
use outbox_item::Millis;

use crate::answers::sight::{Sight, Visible};
use crate::description::{ExchangeForm, FailureClassWord, UnixMillis};

/// One attempt that failed, or attempts in a row that were given back for one reason.
#[derive(Serialize, ToSchema)]
pub(crate) struct AttemptView {
    /// The number of the claim since the item was enqueued.
    delivery: u32,
    /// The number of the attempt since the item was enqueued or replayed.
    attempt: u32,
    /// When the claim began.
    #[schema(value_type = UnixMillis)]
    started_at: Millis,
    /// When the claim ended.
    #[schema(value_type = UnixMillis)]
    ended_at: Millis,
    /// The process that ran it.
    pod: String,
    /// The kind of the failure.
    #[schema(value_type = FailureClassWord)]
    class: FailureClass,
    /// The failure code.
    code: String,
    /// What went wrong, in words.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = String, required = false)]
    message: Visible<String>,
    /// The end of what the handler printed.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = Option<String>, required = false)]
    stderr: Visible<Option<String>>,
    /// The SHA-256 of the component that ran.
    #[schema(required = true)]
    handler_digest: Option<String>,
    /// Whether it sent a request that may have had an effect.
    maybe_executed: bool,
    /// The requests that it sent and their answers, as far as the host kept them.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = Vec<ExchangeForm>, required = false)]
    exchanges: Visible<Vec<RecordedExchange>>,
    /// How many requests were not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    exchanges_left_out: Option<u32>,
    /// The members that are left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl AttemptView {
    /// The attempt as its reader sees it.
    pub(crate) fn of(attempt: FailedAttempt, sight: &Sight) -> Self {
        let Recording { exchanges, omitted } = attempt.recording;
        Self {
            delivery: attempt.delivery,
            attempt: attempt.attempt,
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            pod: attempt.pod,
            class: attempt.class,
            code: attempt.code,
            message: sight.content(attempt.message),
            stderr: sight.content(attempt.stderr),
            handler_digest: attempt.handler_digest,
            maybe_executed: attempt.maybe_executed,
            exchanges: sight.content(exchanges),
            exchanges_left_out: (omitted > 0).then_some(omitted),
            hidden: sight.hidden(&["message", "stderr", "exchanges"]),
        }
    }
}
