//! Keeps what runs equal to what lies in the folder, as far as that is any good.
//!
//! Events of the file system are hints, and a rescan every few seconds makes up for those that are
//! lost. A file that cannot be loaded leaves what ran before in place; a component that keeps faulting
//! is put back and withdrawn everywhere; and where nothing ran before, the last good one of an earlier
//! run does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use super::followed::{Cause, Followed, Look, Print};
use super::good::LastGood;
use super::hints::Watch;
use super::lineage::{Lineage, Turn};
use super::load::{Generation, Loader, Source};
use super::registry::{Place, Registry};
use super::withdrawn::Withdrawn;
use crate::handler::Withdrawal;

/// The time between two looks that must agree.
const SETTLE: Duration = Duration::from_millis(100);
/// How long a change without an event stays unnoticed.
const RESCAN: Duration = Duration::from_secs(2);
/// The looks that a start waits for a folder whose files keep changing.
const FIRST_LOOKS: u32 = 20;

/// Follows one folder.
pub(super) struct Reloader {
    folder: Folder,
    loader: Arc<Loader>,
    registry: Arc<Registry>,
    good: Arc<LastGood>,
    withdrawn: Withdrawn,
    files: BTreeMap<Place, Followed>,
}

impl Reloader {
    /// A reloader that has not looked yet.
    pub(super) fn new(
        folder: Folder,
        loader: Arc<Loader>,
        registry: Arc<Registry>,
        good: LastGood,
        withdrawn: Withdrawn,
    ) -> Self {
        Self { folder, loader, registry, good: Arc::new(good), withdrawn, files: BTreeMap::new() }
    }

    /// Looks until the folder has settled, or keeps changing for too long to wait.
    async fn scan_first(&mut self) {
        self.withdrawn.refresh().await;
        for _ in 0..FIRST_LOOKS {
            if !self.look(Cause::Hint).await {
                break;
            }
            sleep(SETTLE).await;
        }
        self.review().await;
        self.registry.finish_scan();
    }

    /// Follows the folder until it is told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        if stop.run_until_cancelled(self.scan_first()).await.is_none() {
            return;
        }
        let (hint, mut hints) = mpsc::channel(1);
        let mut watch = Watch::new(self.folder.directories(), hint);
        let mut rescan = interval(RESCAN);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_unsettled = true;
        loop {
            let cause = tokio::select! {
                () = stop.cancelled() => return,
                _ = rescan.tick() => Cause::Rescan,
                () = self.registry.verdict() => Cause::Hint,
                Some(()) = hints.recv(), if !is_unsettled => Cause::Hint,
                () = sleep(SETTLE), if is_unsettled => Cause::Hint,
            };
            if cause == Cause::Rescan {
                watch.renew();
                self.withdrawn.refresh().await;
                self.release();
            }
            self.review().await;
            is_unsettled = self.look(cause).await;
        }
    }

    /// Looks at every file once and loads what has settled; answers whether something has not.
    async fn look(&mut self, cause: Cause) -> bool {
        let places = match self.folder.list() {
            Ok(places) => places,
            Err(reason) => {
                tracing::warn!(folder = ?self.folder, %reason, "the plugin folder could not be read");
                return false;
            }
        };
        let gone = self.look_for_gone(&places);
        let mut looks = vec![gone];
        for place in places {
            looks.push(self.look_at(place, cause).await);
        }
        if looks.contains(&Look::Changed) {
            self.publish();
        }
        looks.contains(&Look::Unsettled)
    }

    fn look_for_gone(&mut self, places: &[Place]) -> Look {
        let absent: Vec<_> = self.files.keys().filter(|place| !places.contains(place)).cloned().collect();
        let mut look = Look::Same;
        for place in absent {
            let Some(file) = self.files.get_mut(&place) else { continue };
            if !std::mem::replace(&mut file.is_absent, true) {
                look = if look == Look::Same { Look::Unsettled } else { look };
                continue;
            }
            self.remove(&place);
            look = Look::Changed;
        }
        look
    }

    async fn look_at(&mut self, place: Place, cause: Cause) -> Look {
        let file = self.files.entry(place.clone()).or_default();
        file.is_absent = false;
        let Ok(stamp) = Folder::stamp(&place) else { return Look::Unsettled };
        if file.is_tried(stamp) || file.waits_for_manifest(stamp, cause) || file.waits_out(cause) {
            return Look::Same;
        }
        let source = match self.folder.read(&place) {
            Ok(source) => source,
            Err(reason) => {
                tracing::warn!(file = %place.file.display(), %reason, "a plugin could not be read");
                return Look::Unsettled;
            }
        };
        let look = file.compare(stamp, Print::of(&source));
        if look == Look::Changed {
            self.load(place, source).await;
        }
        look
    }

    fn remove(&mut self, place: &Place) {
        let lineage = self.files.remove(place).map(|file| file.lineage).unwrap_or_default();
        if let Err(reason) = self.good.forget(&place.file) {
            tracing::warn!(file = %place.file.display(), %reason, "the last good components of a removed file stay");
        }
        if let Some(live) = &lineage.live {
            self.registry.retire(live);
            tracing::info!(plugin.name = live.name, "plugin removed");
        }
    }

    async fn load(&mut self, place: Place, source: Source) {
        if let Some(withdrawal) = self.withdrawn.get(&source.digest).cloned() {
            tracing::error!(plugin.name = source.name, digest = source.digest, "plugin refused: it is quarantined");
            self.lineage(&place).refuse(withdrawal, None);
            return self.fall_back(&place).await;
        }
        match self.loader.load(source.clone()).await {
            Ok(generation) => self.succeed(&place, generation, source).await,
            Err(reason) => {
                tracing::error!(plugin.name = source.name, %reason, "plugin refused");
                let file = self.files.entry(place.clone()).or_default();
                if reason.is_transient {
                    file.try_later();
                }
                file.lineage.error = Some(reason);
                self.fall_back(&place).await;
            }
        }
    }

    async fn succeed(&mut self, place: &Place, generation: Generation, source: Source) {
        tracing::info!(
            plugin.name = generation.name, generation = generation.number, types = ?generation.types, "plugin loaded"
        );
        let is_first = self.files.get(place).is_none_or(|file| file.lineage.live.is_none());
        // What another run of this host found good is what a new component has to measure up to.
        let standby = if is_first { self.newest_good(place, Some(&generation.digest)).await } else { None };
        let lineage = self.lineage(place);
        lineage.standby = standby.map(Arc::new).or(lineage.standby.take());
        if let Some(old) = lineage.succeed(generation, source, Instant::now()) {
            self.registry.retire(&old);
        }
    }

    /// Runs what was good before where nothing else does.
    async fn fall_back(&mut self, place: &Place) {
        if self.lineage(place).live.is_some() {
            return;
        }
        if let Some(good) = self.newest_good(place, None).await {
            tracing::warn!(plugin.name = good.name, digest = good.digest, "running the last good component instead");
            self.lineage(place).fall_back(good);
        }
    }

    /// The newest kept version that may run; none when the newest is `but`, which needs no predecessor.
    async fn newest_good(&self, place: &Place, but: Option<&str>) -> Option<Generation> {
        let (good, file, role) = (Arc::clone(&self.good), place.file.clone(), self.folder.role_of(place));
        let kept = tokio::task::spawn_blocking(move || good.of(&file, role.as_deref())).await.ok()?;
        for source in kept.into_iter().filter(|source| self.withdrawn.get(&source.digest).is_none()) {
            if Some(source.digest.as_str()) == but {
                return None;
            }
            match self.loader.load(source).await {
                Ok(generation) => return Some(generation),
                Err(reason) => {
                    tracing::warn!(file = %place.file.display(), %reason, "a last good component is refused");
                }
            }
        }
        None
    }

    /// Looks at the probations and at what other processes have withdrawn.
    async fn review(&mut self) {
        let now = Instant::now();
        for place in self.files.keys().cloned().collect::<Vec<_>>() {
            match self.lineage(&place).review(now) {
                Turn::None => {}
                Turn::Keep(source) => self.keep(source).await,
                Turn::Withdraw(reason) => self.withdraw_live(&place, reason).await,
            }
            while let Some(withdrawal) = self.withdrawn_elsewhere(&place) {
                self.replace(&place, withdrawal).await;
            }
        }
    }

    async fn keep(&self, source: Source) {
        let (good, name) = (Arc::clone(&self.good), source.name.clone());
        let kept = tokio::task::spawn_blocking(move || good.keep(&source)).await;
        if let Err(reason) = kept.map_err(anyhow::Error::from).flatten() {
            tracing::warn!(plugin.name = name, %reason, "a good component could not be kept for the next start");
        }
    }

    async fn withdraw_live(&mut self, place: &Place, reason: String) {
        let Some(live) = self.lineage(place).live.clone() else { return };
        let withdrawal = Withdrawal { digest: live.digest.clone(), plugin: live.name.clone(), reason };
        self.replace(place, withdrawal.clone()).await;
        self.withdrawn.add(withdrawal).await;
    }

    fn withdrawn_elsewhere(&self, place: &Place) -> Option<Withdrawal> {
        let live = self.files.get(place)?.lineage.live.as_ref()?;
        self.withdrawn.get(&live.digest).cloned()
    }

    /// Puts what served before in the place of a withdrawn generation.
    async fn replace(&mut self, place: &Place, withdrawal: Withdrawal) {
        tracing::error!(
            plugin.name = withdrawal.plugin,
            digest = withdrawal.digest,
            reason = withdrawal.reason,
            "plugin quarantined and rolled back"
        );
        if let Some(bad) = self.lineage(place).withdraw(withdrawal) {
            self.registry.retire(&bad);
        }
        self.publish();
        if self.lineage(place).live.is_none() {
            self.fall_back(place).await;
            self.publish();
        }
    }

    /// Has files loaded again whose quarantine an operator has lifted.
    fn release(&mut self) {
        for file in self.files.values_mut() {
            let is_lifted = |(withdrawal, _): &(Withdrawal, _)| self.withdrawn.get(&withdrawal.digest).is_none();
            if file.lineage.withdrawn.as_ref().is_some_and(is_lifted) {
                file.try_again();
            }
        }
    }

    fn lineage(&mut self, place: &Place) -> &mut Lineage {
        &mut self.files.entry(place.clone()).or_default().lineage
    }

    fn publish(&self) {
        self.registry.publish(self.files.iter().map(|(place, file)| (place, &file.lineage)));
    }
}
