//! Versions of one plugin file: the live one, the rollback target, and the load error of the file on disk.

use std::sync::Arc;

use tokio::time::Instant;

use crate::load::loader::{Generation, LoadError, PluginSource};
use crate::reload::canary::{Canary, CanaryState};
use outbox_core::QuarantineEntry;

/// What is known of one file.
#[derive(Default)]
pub(crate) struct PluginVersions {
    /// What serves items.
    pub live: Option<Arc<Generation>>,
    /// What served before under another digest and had passed its own canary.
    pub rollback_target: Option<Arc<Generation>>,
    /// Why the file as it is now was not loaded.
    pub error: Option<LoadError>,
    /// Why a component of it was quarantined, and which generation that was.
    pub quarantined: Option<(QuarantineEntry, Option<u64>)>,
    /// What `live` was loaded from, until it is kept as good.
    unproven_source: Option<PluginSource>,
}

/// What the review of a canary came to.
pub(crate) enum CanaryReview {
    /// Nothing to do.
    None,
    /// It was passed, and this is to be kept.
    Keep(PluginSource),
    /// The live generation has to be rolled back.
    RollBack(String),
}

impl PluginVersions {
    /// Makes a generation the live one, with a canary if it follows another component. Returns the one
    /// that it replaces.
    pub(crate) fn publish(
        &mut self,
        mut next: Generation,
        source: PluginSource,
        now: Instant,
    ) -> Option<Arc<Generation>> {
        let is_proven = |live: &&Arc<Generation>| live.canary.review(now) == CanaryState::Passed;
        let proven = self.live.as_ref().filter(is_proven).or(self.rollback_target.as_ref()).cloned();
        if let Some(proven) = proven.filter(|proven| proven.digest != next.digest) {
            next.canary = Canary::begin(next.manifest.canary, now);
            self.rollback_target = Some(proven);
        }
        self.error = None;
        self.quarantined = None;
        self.unproven_source = Some(source);
        self.live.replace(Arc::new(next))
    }

    /// Makes a version live that has been found good before.
    pub(crate) fn restore(&mut self, good: Generation) {
        self.live = Some(Arc::new(good));
        self.unproven_source = None;
    }

    /// What follows from the live generation's canary by now.
    pub(crate) fn review(&mut self, now: Instant) -> CanaryReview {
        let Some(live) = &self.live else { return CanaryReview::None };
        match live.canary.review(now) {
            CanaryState::Running => CanaryReview::None,
            CanaryState::Passed => self.unproven_source.take().map_or(CanaryReview::None, CanaryReview::Keep),
            CanaryState::Failed { settled, faults } => CanaryReview::RollBack(format!(
                "{faults} of the first {settled} items of generation {} met with its own faults (trap, memory, CPU \
                 or instantiation)",
                live.number
            )),
        }
    }

    /// Takes the live generation away and puts back what served before. Returns what was taken.
    pub(crate) fn roll_back(&mut self, entry: QuarantineEntry) -> Option<Arc<Generation>> {
        let bad = std::mem::replace(&mut self.live, self.rollback_target.take());
        self.unproven_source = None;
        self.mark_quarantined(entry, bad.as_ref().map(|bad| bad.number));
        bad
    }

    /// Records that the component of the file is quarantined.
    pub(crate) fn mark_quarantined(&mut self, entry: QuarantineEntry, generation: Option<u64>) {
        self.error = Some(LoadError::new(quarantine_message(&entry)));
        self.quarantined = Some((entry, generation));
    }
}

/// Says that a component is quarantined, and what an operator can do about it.
pub(crate) fn quarantine_message(entry: &QuarantineEntry) -> String {
    let QuarantineEntry { digest, reason, .. } = entry;
    format!("its component is quarantined: {reason}; `outbox plugin release {digest}` lifts that")
}
