//! Signals of sagas.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::description::{Id, SignalDataForm, UnixMillis};
use outbox_item::Millis;
use outbox_store::{Signal, SignalSeq};

/// A notice of a saga's progress.
#[derive(Serialize, ToSchema)]
pub(crate) struct SignalView {
    /// Ascending in the order of commits.
    #[schema(value_type = Id)]
    pub(crate) seq: SignalSeq,
    /// The process whose transition caused it.
    pod: String,
    /// `saga_begin.<Saga>`, `saga_step.<Saga>.<type>` or `saga_end.<Saga>`.
    signal: String,
    /// When it was caused, in Unix milliseconds.
    #[schema(value_type = UnixMillis)]
    ts: Millis,
    /// `cid` always; `item_id`, `attempt` and `outcome` of a step; `outcome` of an end.
    #[schema(value_type = SignalDataForm)]
    data: Value,
}

impl From<Signal> for SignalView {
    fn from(Signal { seq, pod, signal, ts, data }: Signal) -> Self {
        Self { seq, pod, signal, ts, data }
    }
}
