//! What the claim loop waits for between two claims.
//!
//! It does not claim and knows no item.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use outbox_core::ServedType;
use outbox_store::LongPoll;

/// What the loop waits for between two claims.
pub(crate) struct WaitPlan {
    /// The longest wait.
    pub(crate) wait: Duration,
    /// The long poll at the store, with the types that it asks for.
    pub(crate) long_poll: Option<(LongPoll, Vec<Arc<ServedType>>)>,
    /// Whether the worker has suspects in flight, whose end lets it take others.
    pub(crate) has_suspects: bool,
    /// Whether the claim left out a type of which the worker has enough in hand.
    pub(crate) leaves_out: bool,
}

impl WaitPlan {
    pub(crate) fn of(wait: Duration) -> Self {
        Self { wait, long_poll: None, has_suspects: false, leaves_out: false }
    }

    /// Whether the loop claims again when a permit is freed. With a long poll at the store this is only needed for
    /// items with a limit that the end of an attempt can lift.
    pub(crate) fn needs_permits(&self) -> bool {
        let depends = |served_type: &Arc<ServedType>| {
            let ServedType { concurrency, breaker, retry, .. } = &**served_type;
            concurrency.is_some() || breaker.is_some() || retry.max_retries == 0
        };
        let waits_for_end = self.has_suspects || self.leaves_out;
        self.long_poll.as_ref().is_none_or(|(_, served_types)| waits_for_end || served_types.iter().any(depends))
    }

    /// Returns when the wait is over or the long poll is fulfilled.
    pub(crate) async fn elapsed_or_fulfilled(&mut self) {
        let fulfilled = async {
            match &mut self.long_poll {
                Some((long_poll, _)) => long_poll.fulfilled().await,
                None => std::future::pending().await,
            }
        };
        drop(timeout(self.wait, fulfilled).await);
    }
}
