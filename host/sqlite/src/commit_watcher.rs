//! Notices commits by other processes, at a cost that does not depend on the backlog.
//!
//! It does not know what was committed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use outbox_store::StoreError;

use crate::connection::connect_read_only;
use crate::database_file::DatabaseFile;
use crate::error::unavailable;

/// Time between two reads of `data_version`: short enough for a low latency, long enough to cost no measurable CPU
/// time.
const INTERVAL: Duration = Duration::from_millis(50);

/// A thread that polls SQLite's `data_version` on a connection of its own. The thread ends when this is dropped.
pub(crate) struct CommitWatcher {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl CommitWatcher {
    pub(crate) fn start(file: Arc<DatabaseFile>, changes: Arc<watch::Sender<u64>>) -> Result<Self, StoreError> {
        let connection = connect_read_only(file.path()).map_err(unavailable("opening the database to watch it"))?;
        let mut watch = CommitWatch { file, connection, generation: 0, last: None };
        // Read before the thread starts, so that no commit after this call is missed.
        watch.has_changed();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("outbox-watch".into())
            .spawn(move || {
                let mut watch = watch;
                while catch_unwind(AssertUnwindSafe(|| poll(&mut watch, &stopped, &changes))).is_err() {
                    tracing::error!("the watch for commits panicked and begins again");
                }
            })
            .map_err(|source| StoreError::Unavailable { tried: "starting the watch", source: source.into() })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for CommitWatcher {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch thread panicked");
        }
    }
}

fn poll(watch: &mut CommitWatch, stopped: &mpsc::Receiver<()>, changes: &watch::Sender<u64>) {
    while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        if watch.has_changed() {
            changes.send_modify(|version| *version += 1);
        }
    }
}

/// A connection that reads the version, to the generation of the file that it has opened.
struct CommitWatch {
    file: Arc<DatabaseFile>,
    connection: Connection,
    generation: u64,
    last: Option<i64>,
}

impl CommitWatch {
    /// Whether another connection has committed since the last call.
    fn has_changed(&mut self) -> bool {
        self.follow_file();
        let present = version(&self.connection);
        std::mem::replace(&mut self.last, present) != present
    }

    /// Connects to the file that the writer has opened in place of the one before.
    fn follow_file(&mut self) {
        if let Ok(generation) = self.file.check()
            && generation != self.generation
            && let Ok(connection) = connect_read_only(self.file.path())
        {
            (self.connection, self.generation) = (connection, generation);
        }
    }
}

/// The version, which every commit of another connection changes. `None` when the database does not answer; it differs
/// from every version, so the next answer counts as a change.
fn version(connection: &Connection) -> Option<i64> {
    connection.prepare_cached("PRAGMA data_version").and_then(|mut ask| ask.query_row([], |row| row.get(0))).ok()
}
