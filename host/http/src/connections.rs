//! Which connections are open: at most so many, and which of them wait for a request.
//!
//! Where there is no room, a new connection takes the place of the one that has waited longest. So connections on which
//! nothing comes keep nobody out. This file does not know HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

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
    /// The connections that wait for a request, the longest wait first.
    waiting: BTreeMap<u64, CancellationToken>,
}

impl Connections {
    /// Room for `max` connections.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), open: Mutex::default() })
    }

    /// Takes a place for a connection that waits for its first request. `None` when all places are taken by
    /// connections with a request.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Arc<ConnectionPlace>> {
        if self.open().count >= self.max && !self.close_longest_waiting() {
            return None;
        }
        let mut open = self.open();
        open.count += 1;
        let close = CancellationToken::new();
        let number = Mutex::new(Some(open.wait(close.clone())));
        Some(Arc::new(ConnectionPlace { connections: Arc::clone(self), close, number }))
    }

    /// Closes the connection that has waited longest for a request. Returns whether there was one.
    pub(crate) fn close_longest_waiting(&self) -> bool {
        match self.open().waiting.pop_first() {
            Some((_, close)) => {
                close.cancel();
                true
            }
            None => false,
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn wait(&mut self, close: CancellationToken) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, close);
        self.next
    }
}

/// The place of one connection. It is free when this is dropped.
pub(crate) struct ConnectionPlace {
    connections: Arc<Connections>,
    close: CancellationToken,
    /// The number under which the connection waits; `None` during a request.
    number: Mutex<Option<u64>>,
}

impl ConnectionPlace {
    /// A request has come. The connection waits for the next one when the returned value is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> RequestInProgress {
        self.stop_waiting();
        RequestInProgress(Arc::clone(self))
    }

    /// Whether no request is in progress.
    pub(crate) fn is_waiting(&self) -> bool {
        self.number().is_some()
    }

    /// Returns when the connection has to make room for another.
    pub(crate) async fn closed(&self) {
        self.close.cancelled().await;
    }

    fn stop_waiting(&self) {
        if let Some(number) = self.number().take() {
            self.connections.open().waiting.remove(&number);
        }
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.stop_waiting();
        self.connections.open().count -= 1;
    }
}

/// A request until the end of its response.
pub(crate) struct RequestInProgress(Arc<ConnectionPlace>);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let number = self.0.connections.open().wait(self.0.close.clone());
        *self.0.number() = Some(number);
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
    fn a_request_is_never_cut_off_for_a_new_connection() {
        let connections = Connections::new(1);
        let only = connections.admit().unwrap();
        let request = only.begin_request();
        assert!(connections.admit().is_none());
        assert!(!only.is_waiting() && !only.close.is_cancelled());
        drop(request);
        assert!(only.is_waiting() && connections.admit().is_some());
    }

    #[test]
    fn a_place_is_free_when_its_connection_has_ended() {
        let connections = Connections::new(1);
        let request = connections.admit().unwrap().begin_request();
        assert!(connections.admit().is_none());
        drop(request);
        assert!(connections.admit().is_some());
        assert!(connections.open().waiting.is_empty());
    }
}
