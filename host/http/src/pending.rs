//! Whether there is room for more waiting items: `OUTBOX_MAX_PENDING`.
//!
//! The number of waiting items is that of the store, read at most once a second, and what this process has accepted
//! since. So a write costs no count, and the limit is exact for one process and holds within a second for several. This
//! file does not know what is written.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use outbox_item::Status;
use outbox_store::Inspect;

use crate::problem::ApiError;

/// How long a number of the store is used.
const USED_FOR: Duration = Duration::from_secs(1);

/// The number of waiting items, as far as this process knows it.
#[derive(Default)]
pub(crate) struct PendingItems {
    known: Mutex<KnownPending>,
}

#[derive(Default)]
struct KnownPending {
    waiting: u64,
    /// When the store was asked; `None` before the first time.
    read_at: Option<Instant>,
}

impl PendingItems {
    /// Admits `items` more. Errors with [`ApiError::TooManyPending`] when `max` or more wait already.
    pub(crate) async fn admit(&self, inspect: &dyn Inspect, max: u64, items: usize) -> Result<(), ApiError> {
        let mut known = self.known.lock().await;
        if known.read_at.is_none_or(|read_at| read_at.elapsed() >= USED_FOR) {
            let by_status = inspect.overview().await?.by_status;
            let waiting = by_status.get(Status::Pending.as_str()).copied().unwrap_or_default();
            *known = KnownPending { waiting, read_at: Some(Instant::now()) };
        }
        if known.waiting >= max {
            return Err(ApiError::TooManyPending { max });
        }
        known.waiting = known.waiting.saturating_add(items as u64);
        Ok(())
    }
}
