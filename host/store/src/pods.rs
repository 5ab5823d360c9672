//! Pods: the processes that have the store open, as they report themselves, and for how long a silent one counts.
//!
//! For display only: no promise of a store depends on a pod. The engines write and read the rows.

use std::time::Duration;

use serde::Serialize;

use outbox_core::{BreakerStatus, PluginStatus};
use outbox_item::Millis;

/// How long a silent pod is still shown.
pub const POD_SHOWN: Duration = Duration::from_mins(2);
/// How long a pod may be silent and still count as live: three heartbeats.
const POD_GONE: Duration = Duration::from_secs(15);
/// How long the row of a silent pod is kept. One day, so that an incident of the last night can still be read.
pub const POD_KEPT: Duration = Duration::from_hours(24);

/// A process that has the store open, for display.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pod {
    /// Unique per boot.
    pub instance: String,
    /// Its role, if it has one.
    pub role: Option<String>,
    /// Whether it answers `/readyz` with 200.
    pub ready: bool,
    /// When it last reported, in the store's time. The store writes it.
    pub heartbeat_at: Millis,
    /// Its plugins as it reports them itself.
    pub plugins: Vec<PluginStatus>,
    /// Its breakers that are not closed.
    pub breakers: Vec<BreakerStatus>,
}

impl Pod {
    /// Whether the pod is ready and reports regularly, at the store's time `now`.
    pub fn is_live(&self, now: Millis) -> bool {
        self.ready && !self.is_silent(now)
    }

    /// Whether the pod has missed so many reports that it is most likely gone.
    pub fn is_silent(&self, now: Millis) -> bool {
        self.heartbeat_at <= last_sign_of_silent(now)
    }
}

/// A pod that has not reported since then, or since earlier, is silent at `now`.
pub fn last_sign_of_silent(now: Millis) -> Millis {
    now.saturating_sub(POD_GONE)
}
