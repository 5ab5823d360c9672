//! One file of the folder from scan to scan: whether it has settled, and whether it must be loaded.
//!
//! A file is loaded when two scans, some time apart, find the same contents. So a file that is being written is not
//! loaded.

use outbox_core::ComponentDigest;

use crate::load::folder::Stamp;
use crate::load::source::PluginSource;
use crate::reload::versions::PluginVersions;

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
    /// Whether the last load failed for a transient reason.
    waits_for_rescan: bool,
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

    /// Whether the last load failed for a transient reason and no rescan has come since.
    pub(crate) fn is_backing_off(&mut self, trigger: ScanTrigger) -> bool {
        self.waits_for_rescan &= trigger != ScanTrigger::Rescan;
        self.waits_for_rescan
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

    /// Loads the files again at the next rescan, although they have not changed.
    pub(crate) fn retry_at_rescan(&mut self) {
        self.last_load = None;
        self.waits_for_rescan = true;
    }

    /// Loads the files again, although they have not changed.
    pub(crate) fn load_again(&mut self) {
        self.last_load = None;
        self.versions.quarantined = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::folder::Folder;
    use crate::load::source::PluginPath;

    fn content(wasm: &str) -> ContentId {
        ContentId { digest: ComponentDigest::of(wasm.as_bytes()), manifest: None, signature: None }
    }

    #[test]
    fn contents_are_taken_when_two_looks_agree_and_never_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = PluginPath { is_root: true, file: dir.path().join("p.wasm") };
        std::fs::write(&path.file, "").unwrap();
        let stamp = Folder::stamp(&path).unwrap();
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
}
