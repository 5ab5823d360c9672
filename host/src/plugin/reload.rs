//! Keeps what runs equal to what lies in the folder.
//!
//! Events of the file system are hints, and a rescan every few seconds makes up for those that are
//! lost. A file is loaded when two looks at it, some time apart, find the same contents, so that one
//! being written is left alone. A file that cannot be loaded leaves what ran before in place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::folder::{Folder, Stamp};
use super::load::{Loader, Source};
use super::registry::{Known, Place, Registry};

/// The time between two looks that must agree.
const SETTLE: Duration = Duration::from_millis(100);
/// How long a change without an event stays unnoticed.
const RESCAN: Duration = Duration::from_secs(2);
/// A manifest that was there must be missing at so many rescans before its absence counts.
const MISSES_THAT_COUNT: u32 = 2;
/// The looks that a start waits for a folder whose files keep changing.
const FIRST_LOOKS: u32 = 20;

/// Follows one folder.
pub(super) struct Reloader {
    folder: Folder,
    loader: Arc<Loader>,
    registry: Arc<Registry>,
    files: BTreeMap<Place, Followed>,
}

/// One file that is followed.
#[derive(Default)]
struct Followed {
    known: Known,
    /// The state of the files that the last load was tried with.
    tried: Option<(Stamp, Print)>,
    /// What the last look found, if it differs from what was tried.
    found: Option<Print>,
    manifest_misses: u32,
    is_absent: bool,
    /// Whether the last load failed for a reason that may pass.
    waits_for_rescan: bool,
}

/// What makes two contents the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Print {
    digest: String,
    manifest: Option<String>,
}

impl Print {
    fn of(source: &Source) -> Self {
        Self { digest: source.digest.clone(), manifest: source.manifest.clone() }
    }
}

/// What made the reloader look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Hint,
    Rescan,
}

/// What a look at one file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Same,
    Unsettled,
    Changed,
}

impl Reloader {
    /// A reloader that has not looked yet.
    pub(super) fn new(folder: Folder, loader: Arc<Loader>, registry: Arc<Registry>) -> Self {
        Self { folder, loader, registry, files: BTreeMap::new() }
    }

    /// Looks until the folder has settled, or keeps changing for too long to wait.
    pub(super) async fn scan_first(&mut self) {
        for _ in 0..FIRST_LOOKS {
            if !self.look(Cause::Hint).await {
                break;
            }
            sleep(SETTLE).await;
        }
        self.publish();
    }

    /// Follows the folder until it is told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let (hint, mut hints) = mpsc::channel(1);
        let mut watch = Watch::new(self.folder.directories(), hint);
        let mut rescan = interval(RESCAN);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_unsettled = true;
        loop {
            let cause = tokio::select! {
                () = stop.cancelled() => return,
                _ = rescan.tick() => Cause::Rescan,
                Some(()) = hints.recv(), if !is_unsettled => Cause::Hint,
                () = sleep(SETTLE), if is_unsettled => Cause::Hint,
            };
            if cause == Cause::Rescan {
                watch.renew();
            }
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
            if let Some(live) = self.files.remove(&place).and_then(|file| file.known.live) {
                self.registry.retire(&live);
                tracing::info!(plugin.name = live.name, "plugin removed");
            }
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

    async fn load(&mut self, place: Place, source: Source) {
        let name = source.name.clone();
        let loaded = self.loader.load(source).await;
        let file = self.files.entry(place).or_default();
        let known = &mut file.known;
        match loaded {
            Ok(generation) => {
                tracing::info!(plugin.name = name, generation = generation.number, types = ?generation.types, "plugin loaded");
                if let Some(old) = known.live.replace(Arc::new(generation)) {
                    self.registry.retire(&old);
                }
                known.error = None;
            }
            Err(reason) => {
                tracing::error!(plugin.name = name, %reason, "plugin refused");
                if reason.is_transient {
                    file.tried = None;
                    file.waits_for_rescan = true;
                }
                known.error = Some(reason);
            }
        }
    }

    fn publish(&self) {
        self.registry.publish(self.files.iter().map(|(place, file)| (place, &file.known)));
    }
}

impl Followed {
    fn is_tried(&self, stamp: Stamp) -> bool {
        self.tried.as_ref().is_some_and(|(tried, _)| *tried == stamp)
    }

    /// Whether the manifest has vanished too recently to mean it: whoever replaces both files may be
    /// between the two.
    fn waits_for_manifest(&mut self, stamp: Stamp, cause: Cause) -> bool {
        let had_one = self.tried.as_ref().is_some_and(|(tried, _)| tried.has_manifest());
        if stamp.has_manifest() || !had_one {
            self.manifest_misses = 0;
            return false;
        }
        if cause == Cause::Rescan {
            self.manifest_misses += 1;
        }
        self.manifest_misses < MISSES_THAT_COUNT
    }

    /// Whether it is too early to try again what failed for a reason that may pass.
    fn waits_out(&mut self, cause: Cause) -> bool {
        self.waits_for_rescan &= cause != Cause::Rescan;
        self.waits_for_rescan
    }

    /// Whether this look agrees with the one before.
    fn compare(&mut self, stamp: Stamp, print: Print) -> Look {
        if self.tried.as_ref().is_some_and(|(_, tried)| *tried == print) {
            self.tried = Some((stamp, print));
            self.found = None;
            return Look::Same;
        }
        if self.found.as_ref() != Some(&print) {
            self.found = Some(print);
            return Look::Unsettled;
        }
        self.found = None;
        self.tried = Some((stamp, print));
        Look::Changed
    }
}

/// The watches on the folders. Those that do not exist yet are tried again at every rescan.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    missing: BTreeSet<PathBuf>,
}

impl Watch {
    fn new(directories: Vec<PathBuf>, hint: mpsc::Sender<()>) -> Self {
        let told = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_change(event.kind)) && hint.try_send(()).is_err() {
                tracing::trace!("a hint is waiting already");
            }
        };
        let watcher = notify::recommended_watcher(told);
        let watcher = watcher.inspect_err(|reason| tracing::warn!(%reason, "the plugin folder is only rescanned")).ok();
        Self { watcher, missing: directories.into_iter().collect() }
    }

    fn renew(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        self.missing.retain(|dir| watcher.watch(dir, RecursiveMode::NonRecursive).is_err());
    }
}

/// Whether an event may mean a change. Reading causes events too, and must not cause reading.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(digest: &str) -> Print {
        Print { digest: digest.to_owned(), manifest: None }
    }

    #[test]
    fn contents_are_taken_when_two_looks_agree_and_never_twice() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { is_root: true, file: dir.path().join("p.wasm") };
        std::fs::write(&place.file, "").unwrap();
        let stamp = Folder::stamp(&place).unwrap();
        let mut file = Followed::default();
        let looks = ["half", "whole", "whole", "whole", "half", "whole"].map(|found| file.compare(stamp, print(found)));
        assert_eq!(looks, [Look::Unsettled, Look::Unsettled, Look::Changed, Look::Same, Look::Unsettled, Look::Same]);
    }

    #[test]
    fn reading_a_file_is_no_change_and_writing_it_is() {
        assert!(!is_change(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!is_change(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(is_change(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(is_change(EventKind::Create(notify::event::CreateKind::File)));
    }
}
