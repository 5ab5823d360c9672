//! Forms of the values of other crates that answers contain.
//!
//! These types only describe. A test compares answers with what they describe.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::description::forms::{FilterBody, Id, UnixMillis};

/// Declares an enumeration of words.
macro_rules! words {
    ($(#[$about:meta])* $name:ident: $($word:ident = $text:tt)*) => {
        $(#[$about])*
        #[derive(ToSchema)]
        #[expect(dead_code, reason = "it describes")]
        pub(crate) enum $name {
            $(#[serde(rename = $text)] $word,)*
        }
    };
}

words! {
    /// Where an item is.
    StatusWord: Pending = "PENDING" Claimed = "CLAIMED" Done = "DONE" Dlq = "DLQ"
}

words! {
    /// Whether a job goes on.
    JobStateWord: Running = "RUNNING" Done = "DONE" Cancelled = "CANCELLED" Stopped = "STOPPED"
}

words! {
    /// The kind of a standstill.
    StuckKindWord:
        ExpiredClaim = "expired_claim" LongClaim = "long_claim" Breaker = "breaker" Failing = "failing"
        Unhandled = "unhandled" Paused = "paused" BlockedKey = "blocked_key" HeldKey = "held_key"
        Refused = "refused" Descendants = "descendants" Old = "old" Lost = "lost"
}

words! {
    /// The kind of a failure; docs/errors.md explains each.
    FailureClassWord:
        Retryable = "retryable" Permanent = "permanent" Deferred = "deferred" Trap = "trap" Timeout = "timeout"
        Cpu = "cpu" Memory = "memory" Denied = "denied" Contract = "contract" Lost = "lost" Plugin = "plugin"
        Host = "host" Conflict = "conflict" Undecodable = "undecodable" Operator = "operator"
}

words! {
    /// What is done to items.
    ActionWord:
        Replay = "replay" Dead = "dead" Restore = "restore" Reschedule = "reschedule" Release = "release"
        Purge = "purge"
}

words! {
    /// What a plugin does now; `unknown` where another version of the host reports another word.
    PluginStateWord:
        Active = "active" Draining = "draining" Loading = "loading" Failed = "failed" Quarantined = "quarantined"
        Unknown = "unknown"
}

words! {
    /// What a breaker does now; `unknown` where another version of the host reports another word.
    BreakerStateWord: Open = "open" Closing = "closing" Expired = "expired" Unknown = "unknown"
}

/// What an entry of the audit trail was done to: some of these.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct SelectionForm {
    /// These items.
    #[schema(required = false)]
    ids: Vec<Id>,
    /// The items of a job, which matched this.
    #[schema(required = false)]
    filter: Option<FilterBody>,
    /// This type.
    #[schema(required = false)]
    r#type: Option<String>,
    /// This ordering key.
    #[schema(required = false)]
    ordering_key: Option<String>,
    /// This fairness key.
    #[schema(required = false)]
    fairness_key: Option<String>,
    /// This job.
    #[schema(required = false)]
    job: Option<String>,
    /// This plugin.
    #[schema(required = false)]
    plugin: Option<String>,
    /// This key of the state of the plugin.
    #[schema(required = false)]
    key: Option<String>,
    /// The component with this SHA-256.
    #[schema(required = false)]
    digest: Option<String>,
    /// The ids up to this one.
    #[schema(required = false)]
    up_to: Option<String>,
    /// The size of what is left out, because it has more than 64 KiB.
    #[schema(required = false)]
    bytes: Option<u64>,
}

/// What an entry of the audit trail changed.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes")]
pub(crate) enum ChangesForm {
    /// Each item with its `id`, and with what it was `before` and `after`; or what else was removed.
    All(Vec<Map<String, Value>>),
    /// They have more than 64 KiB: the trail of one item shows its part.
    Cut(CutForm),
}

/// The size of what is left out.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct CutForm {
    /// In bytes.
    bytes: u64,
}

/// What a signal is about.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct SignalDataForm {
    /// The correlation id of the run.
    cid: String,
    /// Of a step: the item.
    #[schema(required = false)]
    item_id: Option<Id>,
    /// Of a step: the number of the attempt since the last replay, from 1.
    #[schema(required = false)]
    attempt: Option<u32>,
    /// Of a step and of an end: `ok` or another outcome.
    #[schema(required = false)]
    outcome: Option<String>,
    /// Of a step: `done`, or the class of its failure.
    #[schema(required = false)]
    class: Option<String>,
}

/// An action with its options.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct ActionForm {
    /// What is done.
    action: ActionWord,
    /// Of `replay`: `same` idempotency keys or `new` ones.
    #[schema(required = false)]
    keys: Option<String>,
    /// Of `dead`: whether the items behind it `block` or `skip` it.
    #[schema(required = false)]
    on_dead: Option<String>,
    /// Of `dead` and `release`: whether to `respect` or `break` leases.
    #[schema(required = false)]
    lease: Option<String>,
    /// Of `reschedule`: the new time.
    #[schema(required = false)]
    at: Option<UnixMillis>,
}

/// An item that an action does not apply to.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct RefusedItemForm {
    /// The item.
    id: Id,
    /// Why, as docs/errors.md lists it.
    reason: String,
}

/// Items of one status and type that an action would change.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct ItemGroupForm {
    /// Their status.
    status: StatusWord,
    /// Their type.
    r#type: String,
    /// How many.
    count: u64,
    /// Since when the first of them has been in the status.
    oldest: UnixMillis,
    /// Since when the last of them has been in the status.
    newest: UnixMillis,
}

/// One request of an attempt and its answer.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct ExchangeForm {
    /// The method.
    method: String,
    /// The URL.
    url: String,
    /// The name of the effect, if the handler gave one.
    #[schema(required = false)]
    effect: Option<String>,
    /// The headers that the handler set: names and values.
    headers: Vec<Vec<String>>,
    /// The body that the handler sent.
    body: BodyForm,
    /// What the handler got; `null` when the attempt ended first.
    #[schema(required = true)]
    answer: Option<AnswerForm>,
}

/// A response, or an error in place of one.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct AnswerForm {
    /// The HTTP status.
    #[schema(required = false)]
    status: Option<u16>,
    /// Its headers: names and values.
    #[schema(required = false)]
    headers: Option<Vec<Vec<String>>>,
    /// The part of the body that the handler read.
    #[schema(required = false)]
    body: Option<BodyForm>,
    /// The word of the error.
    #[schema(required = false)]
    error: Option<String>,
}

/// A body, or the first part of it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct BodyForm {
    /// Its bytes, where they are text.
    #[schema(required = false)]
    text: Option<String>,
    /// Its bytes, where they are not.
    #[schema(required = false)]
    base64: Option<String>,
    /// How many bytes passed.
    length: u64,
    /// The SHA-256 of all bytes, where not all were kept.
    #[schema(required = false)]
    sha256: Option<String>,
    /// Whether the body did not pass to its end.
    #[schema(required = false)]
    unfinished: bool,
}

/// A plugin of a process.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct PluginForm {
    /// The SHA-256 of the component that runs.
    #[schema(required = true)]
    digest: Option<String>,
    /// Why the newest file does not run.
    #[schema(required = true)]
    error: Option<String>,
    /// The path of the component.
    file: String,
    /// The number of this load in its process.
    #[schema(required = true)]
    generation: Option<u64>,
    /// What its manifest lets it do besides computing.
    grants: Vec<String>,
    /// The image that the component is from, where a registry gave it.
    #[schema(required = true)]
    image: Option<String>,
    /// How much it may use; null while it is not loaded.
    #[schema(required = true)]
    limits: Option<PluginLimitsForm>,
    /// The name of its file without the ending.
    name: String,
    /// The SHA-256 of the component that would run after a rollback.
    #[schema(required = true)]
    previous: Option<String>,
    /// The types that it handles and another plugin owns.
    refused: Vec<RefusedTypeForm>,
    /// The role whose folder the file is in.
    #[schema(required = true)]
    role: Option<String>,
    /// What its attempts in this process came to since it was loaded.
    runs: PluginRunsForm,
    /// What it does now.
    state: PluginStateWord,
    /// The types whose items it gets.
    types: Vec<String>,
    /// The version that the component reports.
    #[schema(required = true)]
    version: Option<String>,
}

/// How much a plugin may use.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct PluginLimitsForm {
    /// Claims of each of its types at a time, in all processes together.
    #[schema(required = true)]
    concurrency: Option<u32>,
    /// Claims of one fairness key at a time, in all processes together.
    #[schema(required = true)]
    concurrency_per_key: Option<u32>,
    /// CPU time of one attempt, in milliseconds.
    cpu_ms: u64,
    /// Memory of one attempt, in bytes.
    memory: u64,
    /// Claims of each of its types per second, in all processes together.
    #[schema(required = true)]
    rate: Option<f64>,
    /// Claims of one fairness key per second, in all processes together.
    #[schema(required = true)]
    rate_per_key: Option<f64>,
}

/// What the attempts of a plugin came to.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct PluginRunsForm {
    /// Attempts that have ended.
    attempts: u64,
    /// Their CPU time, in milliseconds.
    cpu_ms: u64,
    /// Those at whose failure the component was at fault.
    faults: u64,
}

/// A type that a plugin handles and another one owns.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct RefusedTypeForm {
    /// Why the plugin does not get it.
    reason: String,
    /// The type.
    r#type: String,
}

/// Totals of a saga.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes")]
pub(crate) struct SagaForm {
    /// Runs that began.
    began: u64,
    /// Runs that ended with every item DONE.
    ended_ok: u64,
    /// Runs that ended with an item in the DLQ.
    ended_err: u64,
    /// Settled attempts by type and outcome.
    steps: BTreeMap<String, BTreeMap<String, u64>>,
}
