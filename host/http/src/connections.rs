//! Which connections are open: at most a fixed number, and which of them wait for the client.
//!
//! Where there is no room, a new connection takes the place of the one that has waited longest for a request or for the
//! rest of one. So silent connections keep no client out. This file does not know HTTP.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// When the system has no file descriptors left, the server closes one in this number of the waiting connections at a
/// time. A crowd of silent connections is gone after a few rounds, and of a few connections only one is closed.
const WAITING_SHARE: usize = 8;

/// The connections of one server.
pub(crate) struct Connections {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    count: usize,
    /// The number that the next connection gets when it begins to wait.
    next: u64,
    /// The connections that wait for their clients, the longest wait first.
    waiting: BTreeMap<u64, WaitingConnection>,
}

/// A connection that waits for its client.
struct WaitingConnection {
    since: Instant,
    close: CancellationToken,
}

impl Connections {
    /// Room for `max` connections.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), open: Mutex::default() })
    }

    /// Takes a place for a connection that waits for its first request. `None` when all places are taken by
    /// connections whose requests are being answered.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Arc<ConnectionPlace>> {
        if self.open().count >= self.max && !self.close_longest_waiting() {
            return None;
        }
        let mut open = self.open();
        open.count += 1;
        let close = CancellationToken::new();
        let number = Mutex::new(Some(open.wait(close.clone())));
        let (connections, has_request) = (Arc::clone(self), AtomicBool::new(false));
        Some(Arc::new(ConnectionPlace { connections, close, number, has_request }))
    }

    /// Closes the connection that has waited longest for its client. Returns whether there was one.
    fn close_longest_waiting(&self) -> bool {
        match self.open().waiting.pop_first() {
            Some((_, longest)) => {
                longest.close.cancel();
                true
            }
            None => false,
        }
    }

    /// Closes an eighth of the connections that wait for their clients: those that have waited longest, and for this
    /// time at least. Returns how many.
    pub(crate) fn close_some_waiting(&self, least: Duration) -> usize {
        let (mut open, now, mut closed) = (self.open(), Instant::now(), 0);
        let some = open.waiting.len().div_ceil(WAITING_SHARE);
        while closed < some
            && let Some(longest) = open.waiting.first_entry()
            && now.duration_since(longest.get().since) >= least
        {
            longest.remove().close.cancel();
            closed += 1;
        }
        closed
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn wait(&mut self, close: CancellationToken) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, WaitingConnection { since: Instant::now(), close });
        self.next
    }
}

/// The place of one connection. It is free when this is dropped.
pub(crate) struct ConnectionPlace {
    connections: Arc<Connections>,
    close: CancellationToken,
    /// The number under which the connection waits; `None` while a whole request is answered.
    number: Mutex<Option<u64>>,
    has_request: AtomicBool,
}

impl ConnectionPlace {
    /// The head of a request has come. The connection waits for the next one when the returned value is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> RequestInProgress {
        self.has_request.store(true, Ordering::Relaxed);
        self.wait_anew();
        RequestInProgress(Arc::clone(self))
    }

    /// A connection whose client has sent a head comes behind all that were silent meanwhile.
    fn wait_anew(&self) {
        let (mut number, mut open) = (self.number(), self.connections.open());
        if let Some(known) = *number
            && open.waiting.remove(&known).is_some()
        {
            *number = Some(open.wait(self.close.clone()));
        }
    }

    /// The whole request has come, or the rest of it is not waited for.
    pub(crate) fn request_received(&self) {
        if let Some(number) = self.number().take() {
            self.connections.open().waiting.remove(&number);
        }
    }

    /// Whether the head of no request has come.
    pub(crate) fn is_idle(&self) -> bool {
        !self.has_request.load(Ordering::Relaxed)
    }

    /// Returns when the connection has to make room for another.
    pub(crate) async fn closed(&self) {
        self.close.cancelled().await;
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.request_received();
        self.connections.open().count -= 1;
    }
}

/// A request until the end of its response.
pub(crate) struct RequestInProgress(Arc<ConnectionPlace>);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.0.request_received();
        let number = self.0.connections.open().wait(self.0.close.clone());
        *self.0.number() = Some(number);
        self.0.has_request.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_takes_the_place_of_the_one_that_has_waited_longest() {
        let connections = Connections::new(2);
        let (first, second) = (connections.admit().unwrap(), connections.admit().unwrap());
        drop(first.begin_request());
        let third = connections.admit().unwrap();
        assert!(second.close.is_cancelled(), "the first has waited since its request only");
        assert!(!first.close.is_cancelled() && !third.close.is_cancelled());
    }

    #[test]
    fn a_whole_request_is_never_cut_off_for_a_new_connection_and_half_of_one_is() {
        let connections = Connections::new(1);
        let only = connections.admit().unwrap();
        let request = only.begin_request();
        only.request_received();
        assert!(connections.admit().is_none());
        assert!(!only.is_idle() && !only.close.is_cancelled());
        drop(request);
        assert!(only.is_idle());
        let _half = only.begin_request();
        assert!(connections.admit().is_some() && only.close.is_cancelled());
    }

    #[test]
    fn a_connection_that_sends_a_request_comes_behind_those_that_are_silent() {
        let connections = Connections::new(2);
        let (first, second) = (connections.admit().unwrap(), connections.admit().unwrap());
        let _half = first.begin_request();
        let _third = connections.admit().unwrap();
        assert!(second.close.is_cancelled() && !first.close.is_cancelled());
    }

    #[test]
    fn a_place_is_free_when_its_connection_has_ended() {
        let connections = Connections::new(1);
        let request = connections.admit().unwrap().begin_request();
        request.0.request_received();
        assert!(connections.admit().is_none());
        drop(request);
        assert!(connections.admit().is_some());
        assert!(connections.open().waiting.is_empty());
    }
}
