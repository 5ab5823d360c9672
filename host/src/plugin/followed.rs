//! One file of the folder, from look to look: whether it has settled, and whether it is to be loaded.
//!
//! A file is loaded when two looks at it, some time apart, find the same contents, so that one being
//! written is left alone.

use super::folder::Stamp;
use super::lineage::Lineage;
use super::load::Source;

/// A manifest that was there must be missing at so many rescans before its absence counts.
const MISSES_THAT_COUNT: u32 = 2;

/// One file that is followed.
#[derive(Default)]
pub(super) struct Followed {
    /// What was made of it.
    pub lineage: Lineage,
    /// The state of the files that the last load was tried with.
    tried: Option<(Stamp, Print)>,
    /// What the last look found, if it differs from what was tried.
    found: Option<Print>,
    manifest_misses: u32,
    /// Whether the last look did not find it.
    pub is_absent: bool,
    /// Whether the last load failed for a reason that may pass.
    waits_for_rescan: bool,
}

/// What makes two contents the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Print {
    digest: String,
    manifest: Option<String>,
    signature: Option<String>,
}

impl Print {
    /// That of what was read.
    pub(super) fn of(source: &Source) -> Self {
        let Source { digest, manifest, signature, .. } = source;
        Self { digest: digest.clone(), manifest: manifest.clone(), signature: signature.clone() }
    }
}

/// What made the reloader look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Something may have changed.
    Hint,
    /// It is time again.
    Rescan,
}

/// What a look at one file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// There is nothing to load.
    Same,
    /// Look again soon.
    Unsettled,
    /// There is.
    Changed,
}

impl Followed {
    /// Whether the files are as they were when they were last loaded.
    pub(super) fn is_tried(&self, stamp: Stamp) -> bool {
        self.tried.as_ref().is_some_and(|(tried, _)| *tried == stamp)
    }

    /// Whether the manifest has vanished too recently to mean it: whoever replaces both files may be
    /// between the two.
    pub(super) fn waits_for_manifest(&mut self, stamp: Stamp, cause: Cause) -> bool {
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
    pub(super) fn waits_out(&mut self, cause: Cause) -> bool {
        self.waits_for_rescan &= cause != Cause::Rescan;
        self.waits_for_rescan
    }

    /// Whether this look agrees with the one before.
    pub(super) fn compare(&mut self, stamp: Stamp, print: Print) -> Look {
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

    /// Has the files loaded again at the next rescan, although they have not changed.
    pub(super) fn try_later(&mut self) {
        self.tried = None;
        self.waits_for_rescan = true;
    }

    /// Has the files loaded again, although they have not changed.
    pub(super) fn try_again(&mut self) {
        self.tried = None;
        self.lineage.withdrawn = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::folder::Folder;
    use super::super::registry::Place;
    use super::*;

    fn print(digest: &str) -> Print {
        Print { digest: digest.to_owned(), manifest: None, signature: None }
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
}
