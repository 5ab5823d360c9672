//! Writing items into a store, claiming them, and settling the claims.
//!
//! What a settlement should be is decided by the worker; how an engine claims and settles is the engine's.

use async_trait::async_trait;

use outbox_item::{ItemId, NewItem};

use crate::changes::Changes;
use crate::claim::{ClaimBatch, ClaimRef, ClaimRequest, SettleRequest};
use crate::engine::counters::Violation;
use crate::error::StoreError;
use crate::long_poll::LongPoll;

/// The writers' side of a store. The HTTP server and the command line call it, once for each write request.
///
/// A caller may not assume that a failed write did not happen: after [`StoreError::Unavailable`] it repeats the write
/// with the same keys, and an item that exists already with the same content counts as written.
#[async_trait]
pub trait Enqueue: Send + Sync + 'static {
    /// Enqueues the items in one transaction. Returns after the commit. When it returns
    /// [`StoreError::Unavailable`], the fate of the commit is unknown: repeat it with the same keys.
    async fn enqueue(&self, items: Vec<NewItem>, mode: BatchMode) -> Result<EnqueueReport, StoreError>;

    /// Adds one to the count of requests that lacked what the contract asks for.
    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError>;
}

/// The workers' side of a store. A worker claims whenever it has room for attempts, settles each claim once, and ends
/// expired leases about once a second.
///
/// A caller may not assume that it still holds a claim: after the lease another process may have the item, and then
/// settling fails with [`StoreError::ClaimLost`]. It may not assume any order between items without a common ordering
/// key.
#[async_trait]
pub trait Queue: Changes {
    /// Ends expired leases, then claims what the request allows, fairly over its types. An item without an attempt
    /// left by its type's policy is dead-lettered instead.
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError>;

    /// Claims, and leaves the rest of the request as a long poll: where the engine can, the transaction that makes
    /// work for it also claims that work. The answer to the claim itself is that of [`Queue::claim`].
    async fn claim_long_poll(&self, request: &ClaimRequest) -> Result<(ClaimBatch, Option<LongPoll>), StoreError> {
        Ok((self.claim(request).await?, None))
    }

    /// Settles a claim, with its history row, signals and host writes, in one transaction.
    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError>;

    /// Ends a bounded batch of leases that have run out and returns how many. Called at least once a second in every
    /// process that has the store open.
    async fn expire_leases(&self) -> Result<u32, StoreError>;

    /// Enqueues an alert for operators, where alerts are configured and none of its kind about the subject was sent a
    /// short time ago.
    async fn send_alert(&self, alert: &Alert) -> Result<(), StoreError>;
}

/// How several items are told apart from items that exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// They are one write: if any key exists with the same content, nothing is created.
    AllOrNothing,
    /// Each is a write of its own: items that exist are kept, the others are created.
    PerItem,
}

/// The result of an enqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnqueueReport {
    /// The id of each item, in the order given; `None` for one that was purged since the first write.
    pub ids: Vec<Option<ItemId>>,
    /// How many were created now; the others existed with the same content.
    pub created: usize,
}

/// An event that operators want to know of and that no transition of an item causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// What happened.
    pub kind: AlertKind,
    /// To what: a type.
    pub subject: String,
    /// In words.
    pub message: String,
}

/// What an [`Alert`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertKind {
    /// A process does not claim the type for a while, because its attempts keep failing.
    BreakerOpen,
}
