//! The generations of one file: what serves, what it can fall back on, and why the file as it is does not.

use std::sync::Arc;

use tokio::time::Instant;

use super::load::{Generation, LoadError, Source};
use super::trial::{Standing, Trial};
use crate::handler::Withdrawal;

/// What is known of one file.
#[derive(Default)]
pub(super) struct Lineage {
    /// What serves items.
    pub live: Option<Arc<Generation>>,
    /// What served before under another digest and had passed its own probation.
    pub standby: Option<Arc<Generation>>,
    /// Why the file as it is now was not loaded.
    pub error: Option<LoadError>,
    /// Why a component of it was withdrawn, and which generation that was.
    pub withdrawn: Option<(Withdrawal, Option<u64>)>,
    /// What `live` was loaded from, until it is kept as good.
    unproven: Option<Source>,
}

/// What a look at a probation came to.
pub(super) enum Turn {
    /// Nothing to do.
    None,
    /// It was passed, and this is to be kept.
    Keep(Source),
    /// The live generation has to go.
    Withdraw(String),
}

impl Lineage {
    /// Makes a generation the live one, on probation if it follows another component. Returns the one
    /// that it replaces.
    pub(super) fn succeed(&mut self, mut next: Generation, source: Source, now: Instant) -> Option<Arc<Generation>> {
        let is_proven = |live: &&Arc<Generation>| live.trial.review(now) == Standing::Passed;
        let proven = self.live.as_ref().filter(is_proven).or(self.standby.as_ref()).cloned();
        if let Some(proven) = proven.filter(|proven| proven.digest != next.digest) {
            next.trial = Trial::begin(next.manifest.reload, now);
            self.standby = Some(proven);
        }
        self.error = None;
        self.withdrawn = None;
        self.unproven = Some(source);
        self.live.replace(Arc::new(next))
    }

    /// Makes a version live that has been found good before.
    pub(super) fn fall_back(&mut self, good: Generation) {
        self.live = Some(Arc::new(good));
        self.unproven = None;
    }

    /// What follows from the live generation's probation by now.
    pub(super) fn review(&mut self, now: Instant) -> Turn {
        let Some(live) = &self.live else { return Turn::None };
        match live.trial.review(now) {
            Standing::Watched => Turn::None,
            Standing::Passed => self.unproven.take().map_or(Turn::None, Turn::Keep),
            Standing::Failed { settled, faults } => Turn::Withdraw(format!(
                "{faults} of the first {settled} items of generation {} met with its own faults (trap, memory, CPU \
                 or instantiation)",
                live.number
            )),
        }
    }

    /// Takes the live generation away and puts back what served before. Returns what was taken.
    pub(super) fn withdraw(&mut self, withdrawal: Withdrawal) -> Option<Arc<Generation>> {
        let bad = std::mem::replace(&mut self.live, self.standby.take());
        self.unproven = None;
        self.refuse(withdrawal, bad.as_ref().map(|bad| bad.number));
        bad
    }

    /// Says that the component of the file is withdrawn.
    pub(super) fn refuse(&mut self, withdrawal: Withdrawal, generation: Option<u64>) {
        self.error = Some(LoadError::new(quarantined(&withdrawal)));
        self.withdrawn = Some((withdrawal, generation));
    }
}

/// Says that a component is withdrawn, and what an operator can do about it.
pub(super) fn quarantined(withdrawal: &Withdrawal) -> String {
    let Withdrawal { digest, reason, .. } = withdrawal;
    format!("its component is quarantined: {reason}; `outbox plugin release {digest}` lifts that")
}
