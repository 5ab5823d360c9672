//! Ends leases that have run out, once a second in every process that has the store open.
//!
//! It does not know what the store does with the items.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use outbox_core::Outage;
use outbox_store::{Inspect, Queue, StoreError};

use crate::clock_watch::{ClockReading, ClockWatch};
use crate::leases_in_hand::LeasesInHand;

/// The time between two looks for leases that have run out.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// The most calls of the store in one look. Each ends a few leases in a short transaction, and a process that died may
/// have left hundreds.
const CALLS_MAX: usize = 200;

/// Ends leases that have run out, so that they end even when no worker claims. It spares those that this process has in
/// hand: after the process stood still, this look may come before their renewal. While the clock of the store cannot be trusted, it ends none: the others may be alive as well. So it is for
/// half a lease after the start, and for a lease after somebody moved the clock.
#[derive(Clone)]
pub struct LeaseExpiry {
    /// The store.
    pub queue: Arc<dyn Queue>,
    /// The clock of the store.
    pub clock: Arc<dyn Inspect>,
    /// What the worker of this process has in hand; `None` without a worker.
    pub in_hand: Option<LeasesInHand>,
    /// The length of a lease.
    pub lease: Duration,
}

impl LeaseExpiry {
    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let (mut watch, outage) = (ClockWatch::new(self.lease, Instant::now()), Outage::default());
        while stop.run_until_cancelled(sleep(EXPIRY_INTERVAL)).await.is_some() {
            match self.expire(&mut watch).await {
                Ok(expired) => {
                    outage.succeeded();
                    if expired > 0 {
                        tracing::warn!(expired, "ended leases whose attempts were lost");
                    }
                }
                Err(err) => {
                    if outage.failed() {
                        tracing::error!(error = %err, "ending expired leases failed; trying again each second");
                    }
                }
            }
        }
    }

    async fn expire(&self, watch: &mut ClockWatch) -> Result<u32, StoreError> {
        let before = Instant::now();
        let store_time = self.clock.now().await;
        let after = Instant::now();
        let store_time = store_time.inspect_err(|_| watch.missed(after))?;
        if let Some(jump) = watch.observe(ClockReading { before, store_time, after }) {
            tracing::warn!(
                jump_ms = jump, pause = ?self.lease,
                "the clock of the store was moved: no lease is ended until every process can have renewed its own"
            );
        }
        if !watch.is_trusted(after) {
            return Ok(0);
        }
        let spared = self.in_hand.as_ref().map(LeasesInHand::tokens).unwrap_or_default();
        let mut expired = 0;
        for _ in 0..CALLS_MAX {
            // The clock may be moved before the store looks again: it ends what has run out by the time that was judged.
            match self.queue.expire_leases_until(store_time, &spared).await? {
                0 => break,
                more => expired += more,
            }
        }
        Ok(expired)
    }
}
