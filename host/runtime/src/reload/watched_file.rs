//! One file of the folder from scan to scan: whether it has settled, and whether it must be loaded.
//!
//! A file is loaded when two scans, some time apart, find the same contents, or when it had not changed for some time as
//! the process started. So a file that is being written is not loaded.

use outbox_core::ComponentDigest;

use crate::load::folder::Stamp;
use crate::load::source::PluginSource;
use crate::reload::versions::PluginVersions;

/// How often the wait after a transient failure doubles: to 32 rescans, a minute.
const WAIT_DOUBLINGS_MAX: u32 = 5;
/// Rescans at which a manifest must be missing before the plugin is loaded without it.
const MANIFEST_MISSES_MAX: u32 = 2;

/// One file of the plugin folder.
#[derive(Default)]
pub(crate) struct WatchedFile {
    /// The versions that were loaded from it.
    pub versions: PluginVersions,
    /// The state of the files at the last load, whether it succeeded or not.
    last_load: Option<(Stamp, ContentId)>,
    /// The contents at the last scan, if they differ from those of the last load.
    pending: Option<ContentId>,
    manifest_misses: u32,
    /// Whether the last scan did not find the file.
    pub is_absent: bool,
    /// Loads in a row that failed for a transient reason.
    transient_failures: u32,
    /// Rescans to come before the next load.
    rescans_to_wait: u32,
}

/// Identifies the contents of a plugin's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentId {
    digest: ComponentDigest,
    manifest: Option<String>,
    signature: Option<String>,
}

impl ContentId {
    /// The identity of a source.
    pub(crate) fn of(source: &PluginSource) -> Self {
        let PluginSource { digest, manifest, signature, .. } = source;
        Self { digest: digest.clone(), manifest: manifest.clone(), signature: signature.clone() }
    }
}

/// What started a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanTrigger {
    /// The process starts: files that have not changed for some time have settled.
    Start,
    /// The file system reported a change, or a file is settling.
    Event,
    /// The rescan interval has passed.
    Rescan,
}

/// The result of scanning one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanResult {
    /// There is nothing to load.
    Unchanged,
    /// The contents have changed since the last scan: scan again soon.
    Settling,
    /// The contents have settled and must be loaded.
    Changed,
}

impl WatchedFile {
    /// Whether the files are as they were when they were last loaded.
    pub(crate) fn is_last_loaded(&self, stamp: Stamp) -> bool {
        self.last_load.as_ref().is_some_and(|(last_load, _)| *last_load == stamp)
    }

    /// Whether the manifest disappeared so recently that it may come back: a deployment that replaces both files may be
    /// between the two.
    pub(crate) fn awaits_manifest(&mut self, stamp: Stamp, trigger: ScanTrigger) -> bool {
        let had_one = self.last_load.as_ref().is_some_and(|(last_load, _)| last_load.has_manifest());
        if stamp.has_manifest() || !had_one {
            self.manifest_misses = 0;
            return false;
        }
        if trigger == ScanTrigger::Rescan {
            self.manifest_misses += 1;
        }
        self.manifest_misses < MANIFEST_MISSES_MAX
    }

    /// Whether the last load failed for a transient reason and too few rescans have come since.
    pub(crate) fn is_backing_off(&mut self, trigger: ScanTrigger) -> bool {
        if trigger == ScanTrigger::Rescan {
            self.rescans_to_wait = self.rescans_to_wait.saturating_sub(1);
        }
        self.rescans_to_wait > 0
    }

    /// Whether the files had these contents when they were last loaded, so that the result of that load counts.
    pub(crate) fn is_last_content(&self, content: &ContentId) -> bool {
        self.last_load.as_ref().is_some_and(|(_, last_load)| last_load == content)
    }

    /// The component that was last loaded from the file, whether that succeeded or not.
    pub(crate) fn digest(&self) -> Option<&ComponentDigest> {
        self.last_load.as_ref().map(|(_, content)| &content.digest)
    }

    /// The last load succeeded, or failed for a reason that will not pass.
    pub(crate) fn load_was_final(&mut self) {
        self.transient_failures = 0;
    }

    /// Takes the contents as those of an earlier scan.
    pub(crate) fn take_as_settled(&mut self, content: &ContentId) {
        self.pending = Some(content.clone());
    }

    /// Compares the contents with those of the last scan and the last load.
    pub(crate) fn compare(&mut self, stamp: Stamp, content: ContentId) -> ScanResult {
        if self.last_load.as_ref().is_some_and(|(_, last_load)| *last_load == content) {
            self.last_load = Some((stamp, content));
            self.pending = None;
            return ScanResult::Unchanged;
        }
        if self.pending.as_ref() != Some(&content) {
            self.pending = Some(content);
            return ScanResult::Settling;
        }
        self.pending = None;
        self.last_load = Some((stamp, content));
        ScanResult::Changed
    }

    /// Loads the files again at a later rescan, although they have not changed. Each failure doubles the wait.
    pub(crate) fn retry_at_rescan(&mut self) {
        self.last_load = None;
        self.rescans_to_wait = 1 << self.transient_failures.min(WAIT_DOUBLINGS_MAX);
        self.transient_failures = self.transient_failures.saturating_add(1);
    }

    /// Loads the files again, although they have not changed.
    pub(crate) fn load_again(&mut self) {
        self.last_load = None;
        self.versions.quarantined = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::load::folder::manifest_of;
    use crate::load::source::PluginPath;

    fn content(wasm: &str) -> ContentId {
        ContentId { digest: ComponentDigest::of(wasm.as_bytes()), manifest: None, signature: None }
    }

    #[test]
    fn contents_are_taken_when_two_looks_agree_and_never_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = PluginPath { is_root: true, file: dir.path().join("p.wasm") };
        std::fs::write(&path.file, "").unwrap();
        let stamp = Stamp::of(&path.file, &manifest_of(&path.file)).unwrap();
        let mut file = WatchedFile::default();
        let results =
            ["half", "whole", "whole", "whole", "half", "whole"].map(|pending| file.compare(stamp, content(pending)));
        assert_eq!(
            results,
            [
                ScanResult::Settling,
                ScanResult::Settling,
                ScanResult::Changed,
                ScanResult::Unchanged,
                ScanResult::Settling,
                ScanResult::Unchanged
            ]
        );
    }

    #[test]
    fn contents_that_had_settled_before_the_start_are_taken_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = PluginPath { is_root: true, file: dir.path().join("p.wasm") };
        std::fs::write(&path.file, "").unwrap();
        let (stamp, now) = (Stamp::of(&path.file, &manifest_of(&path.file)).unwrap(), SystemTime::now());
        let time = Duration::from_secs(2);
        assert!(!stamp.is_unchanged_for(time, now));
        assert!(stamp.is_unchanged_for(time, now + 2 * time));
        let mut file = WatchedFile::default();
        file.take_as_settled(&content("whole"));
        assert_eq!(file.compare(stamp, content("whole")), ScanResult::Changed);
    }

    #[test]
    fn a_load_that_failed_for_a_transient_reason_is_repeated_after_ever_more_rescans() {
        let mut file = WatchedFile::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            file.retry_at_rescan();
            assert!(file.is_backing_off(ScanTrigger::Event));
            waits.push(1 + (0..100).take_while(|_| file.is_backing_off(ScanTrigger::Rescan)).count());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 32, 32]);
        file.load_was_final();
        file.retry_at_rescan();
        assert!(!file.is_backing_off(ScanTrigger::Rescan));
    }
}
