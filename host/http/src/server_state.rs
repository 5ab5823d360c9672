//! What the routes share: the state that the host gave, and what the server keeps besides.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use outbox_store::Filter;

use crate::access::{AccessClock, Sessions, Throttle};
use crate::glance::Glances;
use crate::newest_signal::NewestSignal;
use crate::pending::PendingItems;
use crate::state::HttpState;

/// Streams of signals at a time. Each keeps a connection, and the rest of the connections is for requests that end.
const STREAMS_MAX: usize = 512;

/// The state of one server.
pub(crate) struct ServerState {
    given: HttpState,
    pub(crate) pending: PendingItems,
    pub(crate) newest_signal: NewestSignal,
    pub(crate) stream_places: Arc<Semaphore>,
    pub(crate) clock: AccessClock,
    pub(crate) sessions: Sessions,
    pub(crate) throttle: Throttle,
    pub(crate) glances: Glances,
    /// One look at a time at what an action would change: it can read every item.
    pub(crate) previews: Semaphore,
    /// One trial at a time: it runs a component beside those that work.
    pub(crate) trial_place: Semaphore,
    /// One read of what items contain at a time: it takes as long as many other views.
    pub(crate) content_reads: Semaphore,
}

impl ServerState {
    pub(crate) fn new(given: HttpState) -> Arc<Self> {
        let stream_places = Arc::new(Semaphore::new(STREAMS_MAX));
        Arc::new(Self {
            given,
            pending: PendingItems::default(),
            newest_signal: NewestSignal::default(),
            stream_places,
            clock: AccessClock::default(),
            sessions: Sessions::default(),
            throttle: Throttle::default(),
            glances: Glances::default(),
            previews: Semaphore::new(1),
            trial_place: Semaphore::new(1),
            content_reads: Semaphore::new(1),
        })
    }

    /// The place for a read with this filter, if it reads what items contain.
    pub(crate) async fn content_place(&self, filter: &Filter) -> Option<SemaphorePermit<'_>> {
        if filter.reads_content() { self.content_reads.acquire().await.ok() } else { None }
    }
}

impl Deref for ServerState {
    type Target = HttpState;

    fn deref(&self) -> &HttpState {
        &self.given
    }
}
