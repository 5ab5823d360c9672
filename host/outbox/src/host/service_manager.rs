//! Tells the service manager that started the process, such as systemd, when the host serves and when it stops, and
//! that it still runs.
//!
//! Without the variable `NOTIFY_SOCKET` nobody is told. This file does not know what the host does.

use sd_notify::NotifyState;
use tokio::time::{Instant, interval_at};

/// Tells that the host serves: `READY=1`.
pub(crate) fn tell_ready() {
    tell(NotifyState::Ready);
}

/// Tells that the host has begun to stop: `STOPPING=1`.
pub(crate) fn tell_stopping() {
    tell(NotifyState::Stopping);
}

/// Tells that the process runs, `WATCHDOG=1`, twice in each time after which the service manager kills a process that
/// says nothing. Does not return. A store that is down does not end this: killing hosts would not bring it back.
pub(crate) async fn tell_alive() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let period = limit / 2;
    let mut ticks = interval_at(Instant::now() + period, period);
    loop {
        tell(NotifyState::Watchdog);
        ticks.tick().await;
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(err) = sd_notify::notify(&[state]) {
        tracing::warn!(error = %err, "cannot tell the service manager the state of this host at NOTIFY_SOCKET");
    }
}
