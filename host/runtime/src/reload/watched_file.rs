//! One file of the folder, from scan to scan: whether it has settled, and whether it is to be loaded.
//!
//! A file is loaded when two scans, some time apart, find the same contents, so that one being
//! written is left alone.

use crate::load::folder::Stamp;
use crate::load::loader::PluginSource;
use crate::reload::versions::PluginVersions;

/// A manifest that was there must be missing at so many rescans before its absence counts.
const MANIFEST_MISSES_MAX: u32 = 2;

/// One file that is followed.
#[derive(Default)]
pub(crate) struct WatchedFile {
    /// What was made of it.
    pub versions: PluginVersions,
    /// The state of the files that the last load was tried with.
    last_load: Option<(Stamp, ContentId)>,
    /// What the last scan found, if it differs from what was loaded last.
    pending: Option<ContentId>,
    manifest_misses: u32,
    /// Whether the last scan did not find it.
    pub is_absent: bool,
    /// Whether the last load failed for a reason that may pass.
    waits_for_rescan: bool,
}

/// What makes two contents the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentId {
    digest: String,
    manifest: Option<String>,
    signature: Option<String>,
}

impl ContentId {
    /// That of what was read.
    pub(crate) fn of(source: &PluginSource) -> Self {
        let PluginSource { digest, manifest, signature, .. } = source;
        Self { digest: digest.clone(), manifest: manifest.clone(), signature: signature.clone() }
    }
}

/// What started a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanTrigger {
    /// Something may have changed.
    Event,
    /// It is time again.
    Rescan,
}

/// What the scan of one file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanResult {
    /// There is nothing to load.
    Unchanged,
    /// Scan again soon.
    Settling,
    /// There is.
    Changed,
}

impl WatchedFile {
    /// Whether the files are as they were when they were last loaded.
    pub(crate) fn is_last_loaded(&self, stamp: Stamp) -> bool {
        self.last_load.as_ref().is_some_and(|(last_load, _)| *last_load == stamp)
    }

    /// Whether the manifest has vanished too recently to mean it: whoever replaces both files may be
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

    /// Whether it is too early to try again what failed for a reason that may pass.
    pub(crate) fn is_backing_off(&mut self, trigger: ScanTrigger) -> bool {
        self.waits_for_rescan &= trigger != ScanTrigger::Rescan;
        self.waits_for_rescan
    }

    /// Whether this scan agrees with the one before.
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

    /// Has the files loaded again at the next rescan, although they have not changed.
    pub(crate) fn retry_at_rescan(&mut self) {
        self.last_load = None;
        self.waits_for_rescan = true;
    }

    /// Has the files loaded again, although they have not changed.
    pub(crate) fn load_again(&mut self) {
        self.last_load = None;
        self.versions.quarantined = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::folder::Folder;
    use crate::reload::registry::PluginPath;

    fn content(digest: &str) -> ContentId {
        ContentId { digest: digest.to_owned(), manifest: None, signature: None }
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
