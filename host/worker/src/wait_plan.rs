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
}

impl WaitPlan {
    pub(crate) fn of(wait: Duration) -> Self {
        Self { wait, long_poll: None }
    }

    /// Whether the loop claims again when a permit is freed. With a long poll at the store this is only needed for
    /// types with a limit that the end of an attempt can lift.
    pub(crate) fn needs_permits(&self) -> bool {
        let depends =
            |served_type: &Arc<ServedType>| served_type.concurrency.is_some() || served_type.breaker.is_some();
        self.long_poll.as_ref().is_none_or(|(_, served_types)| served_types.iter().any(depends))
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
