//! Sends the settlement of one claim until the store has taken it.
//!
//! It does not know how the attempt was made, nor how the lease is kept meanwhile.

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use outbox_core::{
    Circumstances, DESCENDANTS_CODE, Failure, FailureClass, KeyLocks, Outcome, Recording, ServedType, Settlement,
    SpanIds, settlement_for,
};
use outbox_item::{Item, ItemId};
use outbox_store::{ClaimRef, ClaimToken, LeaseState, Queue, Renewal, SettleRequest, StoreError};

use crate::failure_log::FailureLog;
use crate::host_faults::HostFaults;
use crate::leases_in_hand::ItemInHand;
use crate::streak::{Progress, Turn};

/// The wait before a settlement is sent for the second time. Each further wait is twice as long as the one before.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How often the wait doubles: to 1.6 s.
const RETRY_DOUBLINGS: u32 = 3;

/// How often a lease is looked at that another transaction has locked.
const LEASE_LOOKS: u32 = 5;

/// What sending the settlement of an item needs.
pub(crate) struct Settler<'a> {
    pub(crate) queue: &'a dyn Queue,
    pub(crate) key_locks: &'a KeyLocks,
    pub(crate) served_type: &'a ServedType,
    pub(crate) failure_log: &'a FailureLog,
    pub(crate) host_faults: &'a HostFaults,
    pub(crate) item: &'a Item,
    pub(crate) recording: &'a Recording,
    pub(crate) in_hand: &'a ItemInHand,
    pub(crate) turn: &'a Turn,
    /// Cancelled when the worker waits for no settlement any more.
    pub(crate) gave_up: &'a CancellationToken,
}

impl Settler<'_> {
    /// Sends the settlement until the store takes it, or says that the claim has ended. A write that the store refuses
    /// for good becomes a failure of the attempt. Gives up when the settlement keeps failing at a store that can be
    /// reached. Tells the next item of the streak what became of this one. Returns the settlement that the store has
    /// taken; `None` where it has taken none, or nobody knows.
    pub(crate) async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Option<Settlement> {
        let taken = self.send(claim, request).await;
        self.turn.tell(match &taken {
            Some(Settlement::Done { .. }) => Progress::Done,
            Some(_) => Progress::GivenBack,
            None => Progress::Unknown,
        });
        taken
    }

    async fn send(&self, claim: &ClaimRef, mut request: SettleRequest) -> Option<Settlement> {
        let (mut failed_tries, mut failing_since, mut had_turn) = (0, Instant::now(), false);
        while let Err(err) = self.try_once(claim, &request).await {
            if matches!(err, StoreError::ClaimLost) {
                if self.is_settled(claim, &request.settlement).await {
                    tracing::info!(item.id = claim.id.get(), "a try whose answer was lost has settled the claim");
                    return Some(request.settlement);
                }
                log_claim_lost(claim, &request.settlement, failed_tries);
                return None;
            }
            if matches!(err, StoreError::OutOfTurn) {
                if !had_turn {
                    // Also when the answer of the item before it was lost: the store knows what became of that one.
                    self.turn.comes_after_done().await;
                    had_turn = true;
                } else if is_plain_done(&request) {
                    log_out_of_turn(claim);
                    return None;
                } else {
                    request.settlement = Settlement::Release;
                }
                continue;
            }
            if let Some(failure) = permanent_store_failure(&err) {
                self.record_conflict(&err);
                request = self.failed_request(failure, request);
                continue;
            }
            failed_tries += 1;
            if failed_tries == 1 {
                failing_since = Instant::now();
                let (item_id, SpanIds { trace_id, attempt }) = (claim.id.get(), SpanIds::of(self.item));
                tracing::error!(
                    item.id = item_id, error = %err, trace_id, span_id = attempt,
                    "settling failed; trying again until it succeeds"
                );
            }
            if self.is_hopeless(&err, &mut failing_since) {
                log_given_up(claim, &err, failed_tries);
                return None;
            }
            if self.gave_up.run_until_cancelled(sleep(retry_delay(failed_tries))).await.is_none() {
                let item_id = claim.id.get();
                tracing::error!(item.id = item_id, error = %err, "settling failed; the lease will end");
                return None;
            }
        }
        Some(request.settlement)
    }

    /// Sends the settlement once. The next item of the streak may begin while the answer is awaited, unless the attempt
    /// has written what that item may read.
    async fn try_once(&self, claim: &ClaimRef, request: &SettleRequest) -> Result<(), StoreError> {
        let is_plain = is_plain_done(request);
        let mut call = self.queue.settle(claim, request.clone());
        poll_fn(|context| {
            let answer = call.as_mut().poll(context);
            if answer.is_pending() && is_plain {
                self.turn.tell(Progress::Sent);
            }
            answer
        })
        .await
    }

    /// Whether the claim, which has ended, ended by this settlement as DONE: the answer to it was lost. The next item of
    /// the streak tells: any other end of a claim takes it out of the lease, and only this process settles what is in
    /// the lease. False for an item that is the last of its streak, or alone: nobody waits for what became of it.
    async fn is_settled(&self, claim: &ClaimRef, settlement: &Settlement) -> bool {
        let Some(next) = self.turn.next().filter(|_| matches!(settlement, Settlement::Done { .. })) else {
            return false;
        };
        self.held_in_lease(claim.token).await.is_some_and(|ids| ids.contains(&next) && !ids.contains(&claim.id))
    }

    /// What the lease holds, if the store tells within a few tries: another settlement of the lease may be under way.
    async fn held_in_lease(&self, token: ClaimToken) -> Option<Vec<ItemId>> {
        let renewal = Renewal { token, lease: self.in_hand.times().lease() };
        for _ in 0..LEASE_LOOKS {
            match self.queue.renew(std::slice::from_ref(&renewal)).await.ok()?.pop()?.state {
                LeaseState::Held { ids } => return Some(ids),
                LeaseState::Gone => return None,
                LeaseState::Busy => sleep(RETRY_DELAY).await,
            }
        }
        None
    }

    /// Whether the settlement has failed for longer than a lease while each renewal of that lease was answered in time:
    /// then the store can be reached, and it is this settlement that it cannot commit. `failing_since` begins anew with
    /// each try for which the store may just be out of reach, or that waited for another transaction, which will end.
    fn is_hopeless(&self, err: &StoreError, failing_since: &mut Instant) -> bool {
        let now = Instant::now();
        if !self.in_hand.is_renewed_in_time(now) || matches!(err, StoreError::Locked { .. }) {
            *failing_since = now;
        }
        now.duration_since(*failing_since) > self.in_hand.times().lease()
    }

    fn record_conflict(&self, err: &StoreError) {
        if let StoreError::StateConflict { plugin, key } = err {
            self.key_locks.record_conflict(plugin, key);
        }
    }

    /// The request that settles the attempt as failed, after the store has refused the writes of `request`.
    fn failed_request(&self, failure: Failure, request: SettleRequest) -> SettleRequest {
        let settlement = decide(Outcome::Failed(failure), self.item, self.served_type, self.host_faults);
        self.failure_log.attempt_settled(self.item, &settlement, Instant::now());
        SettleRequest { exchanges: exchanges_to_keep(&settlement, self.recording), settlement, ..request }
    }
}

/// The settlement of an attempt that ended now.
pub(crate) fn decide(outcome: Outcome, item: &Item, served_type: &ServedType, host_faults: &HostFaults) -> Settlement {
    let circumstances = Circumstances { draw: fastrand::f64(), others_fail_too: host_faults.others_fail_too(item) };
    settlement_for(outcome, item, served_type, circumstances)
}

/// Whether the attempt is DONE and has written nothing that the next item may read: then that item begins while the
/// answer is awaited.
fn is_plain_done(request: &SettleRequest) -> bool {
    matches!(&request.settlement, Settlement::Done { writes, .. } if writes.is_empty())
}

fn retry_delay(failed_tries: u32) -> Duration {
    RETRY_DELAY * 2u32.pow(failed_tries.saturating_sub(1).min(RETRY_DOUBLINGS))
}

fn log_given_up(claim: &ClaimRef, err: &StoreError, failed_tries: u32) {
    tracing::error!(
        item.id = claim.id.get(), error = %err, failed_tries,
        "the settlement fails although the store can be reached: gave up. The lease ends within its length after the \
         other items of its claim are settled; then the item is attempted again, and this attempt counts as lost"
    );
}

/// An item of a streak cannot be settled, because the one before it was not, and what follows it may have begun. A
/// release would give all of them back as if they had not: the end of the lease marks them.
fn log_out_of_turn(claim: &ClaimRef) {
    tracing::error!(
        item.id = claim.id.get(),
        "the settlement of an earlier item of the ordering key failed: this one and those after it wait for their lease \
         to end, and are attempted again"
    );
}

/// Logs that the store knows the claim no more. After a failed try that is expected: the answer to that try was lost,
/// not the settlement. So it is for a release, which only hands back what the store has taken already.
fn log_claim_lost(claim: &ClaimRef, settlement: &Settlement, failed_tries: u32) {
    let item_id = claim.id.get();
    match settlement {
        Settlement::Release => tracing::debug!(item.id = item_id, "the claim had ended before it was released"),
        _ if failed_tries > 0 => tracing::info!(
            item.id = item_id,
            failed_tries,
            "the claim has ended: a try whose answer was lost settled it, or its lease ended"
        ),
        _ => tracing::warn!(item.id = item_id, "the claim was lost before its settlement; dropped it"),
    }
}

/// The recorded requests and responses, compressed, for the history row. `None` without a failure, because then there
/// is no row.
pub(crate) fn exchanges_to_keep(settlement: &Settlement, recording: &Recording) -> Option<Vec<u8>> {
    settlement.failure().and_then(|_| recording.compress())
}

/// The failure of an attempt whose writes the store can never commit; `None` for an error that may pass.
fn permanent_store_failure(err: &StoreError) -> Option<Failure> {
    let (class, code) = match err {
        StoreError::StateConflict { .. } => (FailureClass::Conflict, "state.conflict"),
        StoreError::StateQuota { .. } => (FailureClass::Contract, "state.quota"),
        StoreError::StateValueTooLarge { .. } => (FailureClass::Contract, "state.too_large"),
        StoreError::Descendants { .. } => (FailureClass::Contract, DESCENDANTS_CODE),
        StoreError::Invalid(_) => (FailureClass::Contract, "followups.invalid"),
        _ => return None,
    };
    Some(Failure::new(class, code, err.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_between_tries_double_up_to_a_bound() {
        let waits = [1, 2, 3, 4, 5, 1_000].map(|failed_tries| retry_delay(failed_tries).as_millis());
        assert_eq!(waits, [200, 400, 800, 1_600, 1_600, 1_600]);
    }
}
