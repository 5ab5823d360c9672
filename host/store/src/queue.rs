//! Writing items into a store, claiming them, and settling the claims.
//!
//! The worker decides each settlement, and each engine decides how it claims and settles.

use async_trait::async_trait;

use outbox_item::{ItemId, Millis, NewItem};

use crate::changes::Changes;
use crate::claim::{ClaimBatch, ClaimRef, ClaimRequest, SettleRequest};
use crate::engine::counters::Violation;
use crate::error::StoreError;
use crate::ids::ClaimToken;
use crate::long_poll::LongPoll;
use crate::renewal::{Renewal, RenewedLease};

/// The writers' side of a store. The HTTP server and the command line call it, once for each write request.
///
/// A caller may not assume that a failed write did not happen: after [`StoreError::Unavailable`] it repeats the write
/// with the same keys, and an item that exists already with the same content counts as written.
#[async_trait]
pub trait Enqueue: Send + Sync + 'static {
    /// Enqueues the items in one transaction. Returns after the commit. After [`StoreError::Unavailable`] the items may
    /// or may not be committed: the caller repeats the call with the same keys.
    async fn enqueue(&self, items: Vec<NewItem>, mode: BatchMode) -> Result<EnqueueReport, StoreError>;

    /// Adds one to the count of requests without a header that the HTTP contract asks for.
    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError>;
}

/// The workers' side of a store. A worker claims whenever it has room for attempts, renews the leases of what it has in
/// hand, settles each claim, and ends expired leases about once a second.
///
/// A caller may not assume that it still holds a claim: after the lease another process may have the item, and then
/// settling fails with [`StoreError::ClaimLost`]. It may not assume any order between items without a common ordering
/// key.
///
/// After [`StoreError::Unavailable`] a caller cannot know whether the call was committed. It names the tokens of a
/// claim to [`Queue::abandon`], and repeats everything else.
#[async_trait]
pub trait Queue: Changes {
    /// Claims what the request allows, fairly over its types. An item without an attempt left by its type's policy is
    /// dead-lettered instead.
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError>;

    /// Claims like [`Queue::claim`]. An engine that has long polls leaves the rest of the request as a long poll: the
    /// transaction that makes work for it also claims that work. Other engines return no long poll.
    async fn claim_long_poll(&self, request: &ClaimRequest) -> Result<(ClaimBatch, Option<LongPoll>), StoreError> {
        Ok((self.claim(request).await?, None))
    }

    /// Gives back, uncounted and at once, what the leases with these tokens hold. A worker calls it when the answer to
    /// a claim was lost: no attempt has begun. A token without a lease is ignored. Returns the number of items.
    async fn abandon(&self, tokens: &[ClaimToken]) -> Result<u32, StoreError>;

    /// Extends leases, all in one transaction: each that exists holds for its length from now, whether or not it has
    /// run out. Returns what became of each.
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<RenewedLease>, StoreError>;

    /// Settles a claim, with its history row, signals and host writes, in one transaction.
    ///
    /// The items of a streak are settled in order: after an earlier one, or in the same transaction. Otherwise the call
    /// errors with [`StoreError::OutOfTurn`]; only a release may come at any time. An end that is not DONE gives back,
    /// uncounted and in the same transaction, what follows the item in its streak.
    ///
    /// A claim ends once: when an earlier call was committed and its answer was lost, a repetition changes nothing and
    /// errors with [`StoreError::ClaimLost`]. So the repeating caller takes that error for success: either the item is
    /// settled, or its claim has ended otherwise and there is nothing left to settle.
    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError>;

    /// Ends a bounded batch of leases that have run out both by now and by `latest`, a reading of the store's clock that
    /// the caller trusts; but not the `spared` ones, which this process has in hand. Returns the number of claims that
    /// it ended. Called about once a second in every process that has the store open.
    async fn expire_leases_until(&self, latest: Millis, spared: &[ClaimToken]) -> Result<u32, StoreError>;

    /// Like [`Queue::expire_leases_until`], for a caller that trusts the store's clock whatever it says.
    async fn expire_leases(&self, spared: &[ClaimToken]) -> Result<u32, StoreError> {
        self.expire_leases_until(Millis::new(i64::MAX), spared).await
    }

    /// Enqueues an alert for operators, if alerts are configured and no alert of the same kind and subject was sent
    /// within [`AlertSettings::min_interval`](crate::AlertSettings::min_interval).
    async fn send_alert(&self, alert: &Alert) -> Result<(), StoreError>;
}

/// What an enqueue of several items does when some of them exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// The items are one write: if any of them exists with the same content, none is created.
    AllOrNothing,
    /// Each item is a write of its own: items that exist are kept, the others are created.
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
    /// The type that it happened to.
    pub subject: String,
    /// The text for operators.
    pub message: String,
}

/// What an [`Alert`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertKind {
    /// A process does not claim the type for a while, because its attempts keep failing.
    BreakerOpen,
}
