//! The time by which tokens and sessions end: that of the store, which all processes share.
//!
//! The store is asked once a minute at most, so that a request costs no read, and callers are known while the store does
//! not answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use outbox_item::Millis;
use outbox_store::{Inspect, StoreError};

/// How long a time of the store is counted on from.
const USED_FOR: Duration = Duration::from_mins(1);

/// The store's time, as far as this process knows it.
#[derive(Default)]
pub(crate) struct AccessClock {
    read: Mutex<Option<(Millis, Instant)>>,
}

impl AccessClock {
    /// The present time. Errors when the store has never answered.
    pub(crate) async fn now(&self, store: &dyn Inspect) -> Result<Millis, StoreError> {
        let known = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = known.map(|(read, at)| (read.saturating_add(at.elapsed()), at.elapsed() < USED_FOR));
        if let Some((now, true)) = counted {
            return Ok(now);
        }
        match (store.now().await, counted) {
            (Ok(now), _) => {
                *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, Instant::now()));
                Ok(now)
            }
            (Err(_), Some((now, _))) => Ok(now),
            (Err(err), None) => Err(err),
        }
    }
}
