//! How a process learns that a store may have new work or new signals.

use tokio::sync::watch;

/// Ticks after changes. The worker sleeps on it between claims, and the HTTP server between signals.
///
/// A caller subscribes once and then waits. It must not count ticks: one tick can follow many commits, and a tick
/// may come without any work. It must not rely on ticks alone either: a notice of another process can be late or
/// lost, so a caller also looks again after a while.
pub trait Changes: Send + Sync + 'static {
    /// Ticks after every change that may have made work available, by this process or another.
    fn subscribe(&self) -> watch::Receiver<u64>;
}
