//! Keeps the running plugins equal to the plugin folder.
//!
//! Events of the file system start a scan, and a rescan every few seconds finds changes whose events were lost. Changed
//! files are loaded beside each other, the smallest first, and each is published as soon as it is ready. If a file
//! cannot be loaded, the version before it runs on. If a component keeps faulting, it is rolled back and quarantined for
//! every process. If nothing ran before, the last good version of an earlier run does. The canary decides about
//! rollbacks; this module carries them out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use outbox_core::{ComponentDigest, PresentPlugin, QuarantineEntry};

use crate::load::folder::Folder;
use crate::load::loader::{Generation, Loader};
use crate::load::source::{LoadError, PluginPath, PluginSource};
use crate::reload::background_loads::{BackgroundLoads, EndedLoad};
use crate::reload::fs_events::FolderWatcher;
use crate::reload::last_good::LastGoodStore;
use crate::reload::owner_cache::OwnerCache;
use crate::reload::quarantine_cache::QuarantineCache;
use crate::reload::routing::Routing;
use crate::reload::versions::{CanaryReview, PluginVersions};
use crate::reload::watched_file::{ContentId, ScanResult, ScanTrigger, WatchedFile};

/// The time between two scans that must find the same contents: longer than the pause between two writes of a copy.
const SETTLE_TIME: Duration = Duration::from_millis(100);
/// How long a file must have been unchanged at a start, so that one look is enough: longer than the clocks of a host and
/// its file server differ.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// The longest time until a change without an event is noticed.
const RESCAN_INTERVAL: Duration = Duration::from_secs(2);
/// The scans of a start. After these, files that still change are loaded later.
const FIRST_SCANS_MAX: u32 = 20;
/// How often a start asks for the owners of types while the store does not answer, and the pause between: for a minute.
/// A host whose store does not answer would have no items to handle.
const FIRST_EXCHANGES_MAX: u32 = 120;
const EXCHANGE_RETRY: Duration = Duration::from_millis(500);

/// Follows one plugin folder.
pub(crate) struct Reloader {
    folder: Folder,
    loader: Arc<Loader>,
    routing: Arc<Routing>,
    good: Arc<LastGoodStore>,
    quarantine: QuarantineCache,
    owners: OwnerCache,
    files: BTreeMap<PluginPath, WatchedFile>,
    loads: BackgroundLoads,
    /// Notified when somebody asks for a scan.
    rescan: Arc<Notify>,
}

/// What earlier runs have kept of the versions before one.
#[derive(Default)]
struct KeptBefore {
    /// The version to roll back to; `None` for a version that is good itself.
    target: Option<Generation>,
    /// The component of the newest other version.
    digest: Option<ComponentDigest>,
    /// Whether nothing is kept of this file.
    knows_nothing: bool,
}

impl Reloader {
    /// A reloader that has not scanned yet.
    pub(crate) fn new(
        folder: Folder,
        loader: Arc<Loader>,
        routing: Arc<Routing>,
        good: LastGoodStore,
        quarantine: QuarantineCache,
        owners: OwnerCache,
        rescan: Arc<Notify>,
    ) -> Self {
        let (good, files, loads) = (Arc::new(good), BTreeMap::new(), BackgroundLoads::default());
        Self { folder, loader, routing, good, quarantine, owners, files, loads, rescan }
    }

    /// Scans until the folder has settled, up to [`FIRST_SCANS_MAX`] times, and waits for what it loads.
    async fn first_scan(&mut self) {
        self.quarantine.refresh().await;
        self.first_exchange().await;
        for _ in 0..FIRST_SCANS_MAX {
            if !self.scan(ScanTrigger::Start).await {
                break;
            }
            sleep(SETTLE_TIME).await;
        }
        while let Some(ended) = self.loads.next().await {
            self.finish_load(ended).await;
        }
        self.review().await;
        self.exchange_owners().await;
        self.routing.finish_scan();
    }

    /// Follows the folder until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        if stop.run_until_cancelled(Box::pin(self.first_scan())).await.is_none() {
            return;
        }
        let (sender, mut events) = mpsc::channel(1);
        let mut watcher = FolderWatcher::new(self.folder.directories(), sender);
        let mut rescan = interval(RESCAN_INTERVAL);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_settling = true;
        loop {
            let trigger = tokio::select! {
                () = stop.cancelled() => return,
                _ = rescan.tick() => ScanTrigger::Rescan,
                () = self.rescan.notified() => ScanTrigger::Rescan,
                () = self.routing.canary_ended() => ScanTrigger::Event,
                ended = self.loads.next_or_wait() => {
                    self.finish_load(ended).await;
                    self.exchange_owners().await;
                    continue;
                }
                Some(()) = events.recv(), if !is_settling => ScanTrigger::Event,
                () = sleep(SETTLE_TIME), if is_settling => ScanTrigger::Event,
            };
            if trigger == ScanTrigger::Rescan {
                watcher.watch_missing();
                self.quarantine.refresh().await;
                self.reload_released();
            }
            self.review().await;
            is_settling = self.scan(trigger).await;
            if trigger == ScanTrigger::Rescan {
                self.exchange_owners().await;
            }
        }
    }

    /// Learns the owners before anything is loaded, so that no type goes by file name that has an owner.
    async fn first_exchange(&mut self) {
        for _ in 0..FIRST_EXCHANGES_MAX {
            self.exchange_owners().await;
            if !self.owners.is_failing() {
                return;
            }
            sleep(EXCHANGE_RETRY).await;
        }
    }

    /// Tells the store which plugins are here. A folder that cannot be read is not an empty one.
    async fn exchange_owners(&mut self) {
        let Ok(paths) = self.folder.list() else { return };
        let running = paths.iter().filter(|path| self.folder.namesake(path).is_none());
        let present: Vec<_> = running.map(|path| self.present(path)).collect();
        if self.owners.exchange(&present).await {
            self.publish();
        }
    }

    /// A plugin with the types that it handles, unless some are still being loaded: the first file gets a type without an
    /// owner, and not the one that is ready first.
    fn present(&self, path: &PluginPath) -> PresentPlugin {
        let live = self.files.get(path).and_then(|file| file.versions.live.as_ref());
        let types = live.filter(|_| self.loads.is_empty()).map(|live| live.types.clone());
        PresentPlugin { plugin: path.owner_name(), types }
    }

    /// Scans every file once and begins to load those that have settled. Returns whether some have not.
    async fn scan(&mut self, trigger: ScanTrigger) -> bool {
        let paths = match self.folder.list() {
            Ok(paths) => paths,
            Err(reason) => {
                tracing::warn!(folder = ?self.folder, %reason, "the plugin folder could not be read");
                return false;
            }
        };
        let mut results = vec![self.scan_removed(&paths)];
        let mut settled = Vec::new();
        for path in paths {
            results.push(self.scan_file(path, trigger, &mut settled));
        }
        if !settled.is_empty() {
            self.loader.keep_code(self.files.values().filter_map(|file| file.digest().cloned()));
        }
        for (path, source) in settled {
            self.load(path, source).await;
        }
        if results.contains(&ScanResult::Changed) {
            self.publish();
        }
        results.contains(&ScanResult::Settling)
    }

    fn scan_removed(&mut self, paths: &[PluginPath]) -> ScanResult {
        let absent: Vec<_> = self.files.keys().filter(|path| !paths.contains(path)).cloned().collect();
        let mut result = ScanResult::Unchanged;
        for path in absent {
            let Some(file) = self.files.get_mut(&path) else { continue };
            if !std::mem::replace(&mut file.is_absent, true) {
                result = if result == ScanResult::Unchanged { ScanResult::Settling } else { result };
                continue;
            }
            self.remove(&path);
            result = ScanResult::Changed;
        }
        result
    }

    /// Scans one file. Adds it to `settled` if it must be loaded.
    fn scan_file(
        &mut self,
        path: PluginPath,
        trigger: ScanTrigger,
        settled: &mut Vec<(PluginPath, PluginSource)>,
    ) -> ScanResult {
        let file = self.files.entry(path.clone()).or_default();
        file.is_absent = false;
        let Ok(stamp) = self.folder.stamp(&path) else { return ScanResult::Settling };
        if file.is_last_loaded(stamp) || file.awaits_manifest(stamp, trigger) || file.is_backing_off(trigger) {
            return ScanResult::Unchanged;
        }
        let source = match self.folder.read(&path) {
            Ok(source) => source,
            Err(reason) => {
                tracing::warn!(file = %path.file.display(), %reason, "a plugin could not be read");
                return ScanResult::Settling;
            }
        };
        let content = ContentId::of(&source);
        if trigger == ScanTrigger::Start && stamp.is_unchanged_for(SETTLED_AFTER, SystemTime::now()) {
            file.take_as_settled(&content);
        }
        let result = file.compare(stamp, content);
        if result == ScanResult::Changed {
            settled.push((path, source));
        }
        result
    }

    fn remove(&mut self, path: &PluginPath) {
        let versions = self.files.remove(path).map(|file| file.versions).unwrap_or_default();
        if let Err(reason) = self.good.forget(&path.file) {
            tracing::warn!(file = %path.file.display(), %reason, "the last good components of a removed file stay");
        }
        if let Some(live) = &versions.live {
            self.routing.retire(live);
            tracing::info!(plugin.name = live.name, "plugin removed");
        }
    }

    async fn load(&mut self, path: PluginPath, source: PluginSource) {
        if let Some(image) = self.folder.namesake(&path) {
            let reason = same_name(&path, image);
            return self.note_refusal(&path, &source.name, reason);
        }
        if let Some(entry) = self.quarantined(&source.digest, &source.edition()) {
            tracing::error!(
                plugin.name = source.name,
                digest = source.digest.as_str(),
                "plugin refused: it is quarantined"
            );
            self.versions(&path).mark_quarantined(entry, None);
            return self.restore_last_good(&path).await;
        }
        self.loads.start(&self.loader, path, source);
    }

    /// Takes over what a load has come to, unless the files have changed meanwhile or are gone.
    async fn finish_load(&mut self, EndedLoad { path, source, result }: EndedLoad) {
        let content = ContentId::of(&source);
        let Some(file) = self.files.get_mut(&path).filter(|file| file.is_last_content(&content)) else { return };
        match result {
            Ok(generation) => {
                file.load_was_final();
                self.activate(&path, generation, source).await;
            }
            Err(reason) => self.refuse(&path, &source.name, reason).await,
        }
        self.publish();
    }

    async fn refuse(&mut self, path: &PluginPath, name: &str, reason: LoadError) {
        self.note_refusal(path, name, reason);
        self.restore_last_good(path).await;
    }

    fn note_refusal(&mut self, path: &PluginPath, name: &str, reason: LoadError) {
        tracing::error!(plugin.name = name, %reason, "plugin refused");
        let file = self.files.entry(path.clone()).or_default();
        if reason.is_transient {
            file.retry_at_rescan();
        } else {
            file.load_was_final();
        }
        file.versions.error = Some(reason);
    }

    async fn activate(&mut self, path: &PluginPath, generation: Generation, source: PluginSource) {
        tracing::info!(
            plugin.name = generation.name, generation = generation.number, types = ?generation.types, "plugin loaded"
        );
        if !self.routing.uses_breakers(&generation) {
            tracing::info!(
                plugin.name = generation.name,
                "failures of this plugin count also while its receiver is down: OUTBOX_BREAKER, max_retries or [breaker]"
            );
        }
        let is_first = self.files.get(path).is_none_or(|file| file.versions.live.is_none());
        // The first version after a start has no predecessor in memory. The last good version of an earlier run takes
        // its place, so that the new version gets a canary.
        let before = if is_first { self.kept_before(path, &source.edition()).await } else { KeptBefore::default() };
        let generation = Generation { is_first: is_first && before.knows_nothing, ..generation };
        let versions = self.versions(path);
        versions.kept = before.digest.or(versions.kept.take());
        versions.rollback_target = before.target.map(Arc::new).or(versions.rollback_target.take());
        if let Some(old) = versions.publish(generation, source, Instant::now()) {
            self.routing.retire(&old);
        }
    }

    /// Runs the last good version if nothing is live.
    async fn restore_last_good(&mut self, path: &PluginPath) {
        if self.versions(path).live.is_some() {
            return;
        }
        if let Some(good) = self.newest_good(path).await {
            tracing::warn!(
                plugin.name = good.name,
                digest = good.digest.as_str(),
                "running the last good component instead"
            );
            self.versions(path).restore(good);
        }
    }

    /// What earlier runs have kept of the versions before the one of this edition. A version that is the newest good one
    /// itself needs no predecessor.
    async fn kept_before(&self, path: &PluginPath, edition: &ComponentDigest) -> KeptBefore {
        let kept = self.kept(path).await;
        let is_good_itself = kept.first().is_some_and(|newest| newest.edition() == *edition);
        let digest = kept.iter().find(|source| source.edition() != *edition).map(|source| source.digest.clone());
        let knows_nothing = kept.is_empty();
        let target = if is_good_itself { None } else { self.first_that_loads(path, kept).await };
        KeptBefore { target, digest, knows_nothing }
    }

    /// The newest kept version that may run.
    async fn newest_good(&self, path: &PluginPath) -> Option<Generation> {
        self.first_that_loads(path, self.kept(path).await).await
    }

    /// The kept versions that are not quarantined, the newest first.
    async fn kept(&self, path: &PluginPath) -> Vec<PluginSource> {
        let (good, file, role) = (Arc::clone(&self.good), path.file.clone(), self.folder.role_of(path));
        let kept = tokio::task::spawn_blocking(move || good.versions_of(&file, role.as_deref())).await;
        let mut kept = kept.unwrap_or_default();
        kept.retain(|source| self.quarantined(&source.digest, &source.edition()).is_none());
        kept
    }

    async fn first_that_loads(&self, path: &PluginPath, kept: Vec<PluginSource>) -> Option<Generation> {
        for source in kept {
            match self.loader.load(source).await {
                Ok(generation) => return Some(generation),
                Err(reason) => {
                    tracing::warn!(file = %path.file.display(), %reason, "a last good component is refused");
                }
            }
        }
        None
    }

    /// Reviews the canaries, and rolls back what other processes have quarantined.
    async fn review(&mut self) {
        let now = Instant::now();
        for path in self.files.keys().cloned().collect::<Vec<_>>() {
            match self.versions(&path).review(now) {
                CanaryReview::None => {}
                CanaryReview::Keep(source) => self.keep(source).await,
                CanaryReview::RollBack(reason) => self.quarantine_live(&path, reason).await,
                CanaryReview::Pause(reason) => self.pause_types(&path, reason).await,
            }
            while let Some(entry) = self.quarantined_elsewhere(&path) {
                self.roll_back(&path, entry).await;
            }
        }
    }

    async fn keep(&self, source: PluginSource) {
        let (good, name) = (Arc::clone(&self.good), source.name.clone());
        let kept = tokio::task::spawn_blocking(move || good.keep(&source)).await;
        if let Err(reason) = kept.map_err(io::Error::from).flatten() {
            tracing::warn!(plugin.name = name, %reason, "a good component could not be kept for the next start");
        }
    }

    async fn quarantine_live(&mut self, path: &PluginPath, reason: String) {
        let Some(live) = self.versions(path).live.clone() else { return };
        let Some(digest) = self.versions(path).condemned() else { return };
        let entry = QuarantineEntry { digest, plugin: live.name.clone(), reason };
        self.roll_back(path, entry.clone()).await;
        self.quarantine.add(entry).await;
    }

    /// Pauses the types of a version that has not worked yet and that nothing can take the place of.
    async fn pause_types(&mut self, path: &PluginPath, reason: String) {
        let Some(live) = self.versions(path).live.clone() else { return };
        for item_type in &live.types {
            tracing::error!(plugin.name = live.name, item.r#type = item_type, reason, "the type is paused");
            self.quarantine.pause(item_type.clone(), reason.clone()).await;
        }
    }

    fn quarantined_elsewhere(&self, path: &PluginPath) -> Option<QuarantineEntry> {
        let live = self.files.get(path)?.versions.live.as_ref()?;
        self.quarantined(&live.digest, &live.edition)
    }

    /// The quarantine of a component, or of a component with its manifest.
    fn quarantined(&self, digest: &ComponentDigest, edition: &ComponentDigest) -> Option<QuarantineEntry> {
        self.quarantine.get(digest).or_else(|| self.quarantine.get(edition)).cloned()
    }

    /// Replaces a quarantined generation by its rollback target, or by the last good version.
    async fn roll_back(&mut self, path: &PluginPath, entry: QuarantineEntry) {
        if let Some(bad) = self.versions(path).roll_back(entry.clone()) {
            self.routing.retire(&bad);
        }
        self.publish();
        if self.versions(path).live.is_none() {
            self.restore_last_good(path).await;
            self.publish();
        }
        let running = self.versions(path).live.as_ref().map_or("none", |live| live.digest.as_str());
        let QuarantineEntry { digest, plugin, reason } = &entry;
        let digest = digest.as_str();
        tracing::error!(plugin.name = plugin, digest, reason, running, "plugin quarantined and rolled back");
    }

    /// Loads files again whose quarantine an operator has lifted.
    fn reload_released(&mut self) {
        for file in self.files.values_mut() {
            let is_lifted = |(entry, _): &(QuarantineEntry, _)| self.quarantine.get(&entry.digest).is_none();
            if file.versions.quarantined.as_ref().is_some_and(is_lifted) {
                file.load_again();
            }
        }
    }

    fn versions(&mut self, path: &PluginPath) -> &mut PluginVersions {
        &mut self.files.entry(path.clone()).or_default().versions
    }

    fn publish(&self) {
        self.routing.publish(self.files.iter().map(|(path, file)| (path, &file.versions)), self.owners.known());
    }
}

/// The refusal of a file whose name is that of an image.
fn same_name(path: &PluginPath, image: &str) -> LoadError {
    LoadError::new(format!(
        "OUTBOX_PLUGINS also names the image {image}, whose component has the same name and runs in place of {}: rename \
         or remove the file, or take the image out of OUTBOX_PLUGINS",
        path.file.display()
    ))
}
