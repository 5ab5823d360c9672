//! Watches folders for events of the file system.
//!
//! An event only says that something may have changed, and events can be lost. The reloader scans the folder to know.

use std::collections::BTreeSet;
use std::path::PathBuf;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// The watches on the folders. The reloader retries missing folders at every rescan.
pub(crate) struct FolderWatcher {
    watcher: Option<RecommendedWatcher>,
    missing: BTreeSet<PathBuf>,
}

impl FolderWatcher {
    /// Watches folders. Sends to `events` when a folder may have changed.
    pub(crate) fn new(directories: Vec<PathBuf>, events: mpsc::Sender<()>) -> Self {
        let on_event = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_change(event.kind)) && events.try_send(()).is_err() {
                tracing::trace!("a hint is waiting already");
            }
        };
        let watcher = notify::recommended_watcher(on_event);
        let watcher = watcher.inspect_err(|reason| tracing::warn!(%reason, "the plugin folder is only rescanned")).ok();
        Self { watcher, missing: directories.into_iter().collect() }
    }

    /// Tries again to watch the folders that did not exist.
    pub(crate) fn watch_missing(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        self.missing.retain(|dir| watcher.watch(dir, RecursiveMode::NonRecursive).is_err());
    }
}

/// Whether an event may mean a change. Reading a file causes events too; they must not start another scan.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::CreateKind;

    use super::*;

    #[test]
    fn reading_a_file_is_no_change_and_writing_it_is() {
        assert!(!is_change(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!is_change(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(is_change(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(is_change(EventKind::Create(CreateKind::File)));
    }
}
