//! Versions of one plugin file: the live one, the rollback target, and the load error of the file on disk.

use std::sync::Arc;

use tokio::time::Instant;

use outbox_core::{ComponentDigest, QuarantineEntry};

use crate::load::loader::Generation;
use crate::load::source::{LoadError, PluginSource};
use crate::reload::canary::{Canary, CanaryState};
use crate::reload::conduct::CanarySample;

/// The versions of one file.
#[derive(Default)]
pub(crate) struct PluginVersions {
    /// The version that gets items.
    pub live: Option<Arc<Generation>>,
    /// The version before it: it has another component or manifest, and has passed its canary.
    pub rollback_target: Option<Arc<Generation>>,
    /// A version before it that an earlier run has kept.
    pub kept: Option<ComponentDigest>,
    /// Why the file on disk was not loaded.
    pub error: Option<LoadError>,
    /// The quarantine of a component of this file, with the number of its generation if it was loaded.
    pub quarantined: Option<(QuarantineEntry, Option<u64>)>,
    /// The source of `live`, until it is kept as good.
    unproven_source: Option<PluginSource>,
}

/// The result of reviewing a canary.
pub(crate) enum CanaryReview {
    /// Nothing to do.
    None,
    /// The canary passed: keep this source as good.
    Keep(PluginSource),
    /// The canary failed for this reason: roll the live generation back.
    RollBack(String),
    /// The first version has not worked yet, for this reason: pause its types.
    Pause(String),
}

impl PluginVersions {
    /// Makes a generation live, with a canary if it replaces another component or manifest. Returns the replaced generation.
    pub(crate) fn publish(
        &mut self,
        mut next: Generation,
        source: PluginSource,
        now: Instant,
    ) -> Option<Arc<Generation>> {
        let is_proven = |live: &&Arc<Generation>| live.canary.review(now) == CanaryState::Passed;
        let proven = self.live.as_ref().filter(is_proven).or(self.rollback_target.as_ref()).cloned();
        if let Some(proven) = proven.filter(|proven| proven.edition != next.edition) {
            next.canary = Canary::begin(next.manifest.canary, proven.conduct.shares(), now);
            next.is_first = false;
            self.rollback_target = Some(proven);
        }
        self.error = None;
        self.quarantined = None;
        self.unproven_source = Some(source);
        self.live.replace(Arc::new(next))
    }

    /// Makes a last good version live.
    pub(crate) fn restore(&mut self, good: Generation) {
        self.live = Some(Arc::new(good));
        self.unproven_source = None;
    }

    /// Reviews the live generation's canary.
    pub(crate) fn review(&mut self, now: Instant) -> CanaryReview {
        let Some(live) = &self.live else { return CanaryReview::None };
        if live.take_hopeless() {
            return CanaryReview::Pause(format!(
                "all of the first items of generation {} failed for good{}, and no version before it is known; {}",
                live.number,
                live.canary.example(CanarySample::Permanent),
                replay_line(live)
            ));
        }
        match live.canary.review(now) {
            CanaryState::Running => CanaryReview::None,
            CanaryState::Passed => self.unproven_source.take().map_or(CanaryReview::None, CanaryReview::Keep),
            CanaryState::Failed { settled, failed, cause } => {
                CanaryReview::RollBack(failure_reason(live, settled, failed, cause))
            }
        }
    }

    /// The digest to quarantine for the live generation: that of its component, or, where its predecessor has the same
    /// component, that of both component and manifest.
    pub(crate) fn condemned(&self) -> Option<ComponentDigest> {
        let live = self.live.as_ref()?;
        let is_shared = self.rollback_target.as_ref().is_some_and(|target| target.digest == live.digest);
        Some(if is_shared { live.edition.clone() } else { live.digest.clone() })
    }

    /// The component of the version that would run after a rollback, if one is known.
    pub(crate) fn previous(&self) -> Option<&ComponentDigest> {
        let target = self.rollback_target.as_ref().map(|target| &target.digest);
        let live = self.live.as_ref().map(|live| &live.digest);
        target.or(self.kept.as_ref()).filter(|previous| Some(*previous) != live)
    }

    /// Replaces the live generation by the rollback target, if there is one. Returns the replaced generation.
    pub(crate) fn roll_back(&mut self, entry: QuarantineEntry) -> Option<Arc<Generation>> {
        let bad = std::mem::replace(&mut self.live, self.rollback_target.take());
        self.unproven_source = None;
        self.mark_quarantined(entry, bad.as_ref().map(|bad| bad.number));
        bad
    }

    /// Records that the file's component is quarantined.
    pub(crate) fn mark_quarantined(&mut self, entry: QuarantineEntry, generation: Option<u64>) {
        self.error = Some(LoadError::new(quarantine_message(&entry)));
        self.quarantined = Some((entry, generation));
    }
}

/// Why a canary failed, with what helps its dead items.
fn failure_reason(live: &Generation, settled: usize, failed: usize, cause: CanarySample) -> String {
    let of = format!("{failed} of the first {settled} items of generation {}", live.number);
    let (before, example) = ("more than of the version before", live.canary.example(cause));
    match cause {
        CanarySample::Fault => format!("{of} met with its own faults (trap, memory, CPU or instantiation){example}"),
        CanarySample::Permanent => format!("{of} failed for good, {before}{example}; {}", replay_line(live)),
        CanarySample::Retry | CanarySample::Fine => {
            format!("{of} had to be retried, {before}{example}; {}", replay_line(live))
        }
    }
}

/// How an operator replays what a version has dead-lettered.
pub(crate) fn replay_line(live: &Generation) -> String {
    format!("`outbox replay --status DLQ --handler-digest {}` replays what it dead-lettered", live.digest)
}

/// The message about a quarantined component, with what an operator can do.
pub(crate) fn quarantine_message(entry: &QuarantineEntry) -> String {
    let QuarantineEntry { digest, reason, .. } = entry;
    format!("its component is quarantined: {reason}; `outbox plugin release {digest}` lifts that")
}
