//! The end of a host: the signals that ask for it or for a reload, and the time that it may take.
//!
//! This file does not know which parts end. It ends the process when they have not ended by themselves.

use std::sync::Once;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::host::service_manager;

/// How long the parts may take to end, in addition to the time for attempts in flight.
pub(crate) const PARTS_MAX: Duration = Duration::from_millis(800);
/// How long the background work may take to end, after that. Its last heartbeat flushes to a disk, which takes long on a
/// busy machine. Where the parts took all of their time, the process ends before.
pub(crate) const BACKGROUND_MAX: Duration = Duration::from_millis(500);
/// When the process ends whatever its parts do, after the time for attempts in flight.
const PROCESS_MAX: Duration = Duration::from_millis(950);

/// The end of this process.
pub(crate) struct Shutdown {
    /// Cancelled when the host has to stop.
    pub(crate) stop: CancellationToken,
    drain: Duration,
    begun: Once,
}

impl Shutdown {
    /// An end that waits for attempts in flight for `drain`.
    pub(crate) fn new(drain: Duration) -> Self {
        Self { stop: CancellationToken::new(), drain, begun: Once::new() }
    }

    /// Stops the host. The process ends with `exit_code` in bounded time, also when a thread of it waits for a disk, a
    /// lock or a compiler.
    pub(crate) fn begin(&self, exit_code: i32) {
        self.stop.cancel();
        let limit = self.drain + PROCESS_MAX;
        self.begun.call_once(|| {
            service_manager::tell_stopping();
            // Without a thread the process ends when its parts do.
            std::thread::Builder::new()
                .name("outbox-shutdown".to_owned())
                .spawn(move || {
                    std::thread::sleep(limit);
                    std::process::exit(exit_code);
                })
                .ok();
        });
    }

    /// Returns when the time for attempts in flight and for the parts is over.
    pub(crate) async fn time_is_up(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(self.drain + PARTS_MAX).await;
    }
}

/// Follows the signals of the system until the process ends: SIGTERM and SIGINT stop it. The returned number rises with
/// each SIGHUP.
pub(crate) fn follow_signals(shutdown: std::sync::Arc<Shutdown>) -> anyhow::Result<watch::Receiver<u64>> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let (hangups, received) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    hangups.send_modify(|count| *count += 1);
                    continue;
                }
            };
            shutdown.begin(0);
            tracing::info!(signal = name, "stopping: no more claims, attempts under way are drained");
        }
    });
    Ok(received)
}
