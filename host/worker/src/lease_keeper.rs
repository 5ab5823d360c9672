//! Keeps the leases of a worker: renews them, interrupts attempts whose leases end, and gives back items on which no
//! attempt works.
//!
//! The lease book decides what is due. This file asks the store, logs, and knows no handler.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use outbox_core::{Failure, FailureClass, Outage, Settlement};
use outbox_store::{ClaimRef, ClaimToken, LeaseState, Queue, Renewal, RenewedLease, SettleRequest, StoreError};

use crate::leases_in_hand::LeasesInHand;

/// The time between two tries to give back what lost claims may hold.
const ABANDON_PERIOD: Duration = Duration::from_secs(1);
/// How long a shutdown waits until what lost claims hold is given back.
const ABANDON_AT_END_MAX: Duration = Duration::from_secs(1);

/// The tasks of a worker that keep its leases.
pub(crate) struct LeaseKeeper {
    queue: Arc<dyn Queue>,
    leases: LeasesInHand,
}

impl LeaseKeeper {
    pub(crate) fn new(queue: Arc<dyn Queue>, leases: LeasesInHand) -> Self {
        Self { queue, leases }
    }

    /// Runs until it is dropped. A store that does not answer one task delays no other.
    pub(crate) async fn run(&self) {
        tokio::join!(self.renew(), self.interrupt(), self.abandon_lost_claims(), self.give_back_overdue());
    }

    async fn renew(&self) {
        let (times, outage) = (self.leases.times(), Outage::default());
        loop {
            // Read before the renewals are requested: no lease begins earlier.
            let sent = Instant::now();
            let pause =
                if self.renew_once(sent, &outage).await { times.renewal_period() } else { times.renewal_retry() };
            sleep_until(sent + pause).await;
        }
    }

    /// Renews everything in hand. Returns false when a lease has to be asked for again soon.
    async fn renew_once(&self, sent: Instant, outage: &Outage) -> bool {
        let renewals = self.leases.book().renewals(sent);
        if renewals.is_empty() {
            return true;
        }
        match self.ask_to_renew(&renewals).await {
            Ok(renewed) => {
                if outage.succeeded() {
                    tracing::info!("renewing leases goes on");
                }
                self.record_renewals(sent, renewed, renewals.len())
            }
            Err(err) => {
                if outage.failed() {
                    tracing::error!(error = %err, "renewing leases failed; trying again until it succeeds");
                }
                false
            }
        }
    }

    /// Waits for the answer for one renewal period, so that a connection that is dead without an error does not hold up
    /// the next try.
    async fn ask_to_renew(&self, renewals: &[Renewal]) -> Result<Vec<RenewedLease>, StoreError> {
        let longest = self.leases.times().renewal_period();
        timeout(longest, self.queue.renew(renewals)).await.unwrap_or_else(|elapsed| {
            Err(StoreError::Unavailable { tried: "renewing leases within a third of a lease", source: elapsed.into() })
        })
    }

    /// Returns whether each of the requested renewals has an answer that settles it.
    fn record_renewals(&self, sent: Instant, renewed: Vec<RenewedLease>, requested: usize) -> bool {
        let answered = renewed.iter().filter(|renewed| renewed.state != LeaseState::Busy).count();
        for id in self.leases.book().record_renewals(sent, renewed) {
            tracing::warn!(item.id = id.get(), "the item was taken out of its lease: its attempt is interrupted");
        }
        answered == requested
    }

    async fn interrupt(&self) {
        loop {
            let now = Instant::now();
            let unheld = self.leases.book().interrupt_unheld(now).len();
            if unheld > 0 {
                tracing::warn!(
                    items = unheld,
                    "no renewal of their leases came through in time: the attempts are interrupted"
                );
            }
            let waited = self.leases.book().interrupt_waiting(now).len();
            if waited > 0 {
                tracing::info!(items = waited, "the items waited a whole lease for their attempts: they are released");
            }
            let latest = now + self.leases.times().watch_period();
            let next = self.leases.book().next_interruption();
            sleep_until(next.map_or(latest, |next| next.min(latest))).await;
        }
    }

    async fn abandon_lost_claims(&self) {
        loop {
            let tokens = self.leases.lost_claims().tokens();
            if tokens.is_empty() {
                self.leases.claim_was_lost().await;
                continue;
            }
            self.abandon(&tokens).await;
            sleep(ABANDON_PERIOD).await;
        }
    }

    async fn abandon(&self, tokens: &[ClaimToken]) {
        let sent = Instant::now();
        match self.queue.abandon(tokens).await {
            Ok(items) => {
                self.leases.lost_claims().record_abandoned(tokens, sent);
                if items > 0 {
                    tracing::warn!(items, "gave back what was claimed without an answer");
                }
            }
            // The claim that was lost is logged as an outage, and so is the next one while the store is down.
            Err(err) => tracing::debug!(error = %err, "giving back what was claimed without an answer failed"),
        }
    }

    /// Gives back what lost claims hold, when the worker ends. Tries once, and for a short time only.
    pub(crate) async fn abandon_at_end(&self) {
        let tokens = self.leases.lost_claims().tokens();
        if !tokens.is_empty() && timeout(ABANDON_AT_END_MAX, self.abandon(&tokens)).await.is_err() {
            tracing::warn!("what was claimed without an answer could not be given back: it waits for its lease to end");
        }
    }

    /// Gives back items whose attempts the host cannot end, so that others can work on them. While that fails, nobody
    /// renews their leases for them.
    async fn give_back_overdue(&self) {
        let mut overdue: Vec<ClaimRef> = Vec::new();
        loop {
            let new = self.leases.book().take_overdue(Instant::now());
            for claim in &new {
                tracing::error!(
                    item.id = claim.id.get(),
                    "the attempt did not end after its deadline, and the host cannot stop it: gives the item back"
                );
            }
            overdue.extend(new);
            let mut left = Vec::new();
            for claim in overdue {
                if !self.give_back(&claim).await {
                    left.push(claim);
                }
            }
            overdue = left;
            sleep(self.leases.times().watch_period()).await;
        }
    }

    /// Returns whether the claim has ended.
    async fn give_back(&self, claim: &ClaimRef) -> bool {
        let request = overdue_request(self.leases.times().lease());
        matches!(self.queue.settle(claim, request).await, Ok(()) | Err(StoreError::ClaimLost))
    }
}

/// The settlement of an attempt that may still be acting: the next one waits for `delay`.
fn overdue_request(delay: Duration) -> SettleRequest {
    let message = "the attempt did not end after its deadline, and the host could not stop it";
    let failure = Failure::new(FailureClass::Host, "host.overdue", message);
    SettleRequest {
        settlement: Settlement::GiveBack { failure, delay },
        maybe_executed: true,
        stderr: None,
        handler_digest: None,
        exchanges: None,
    }
}
