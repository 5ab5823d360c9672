//! The folders in which the servers of tests keep their data.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::geteuid;

use super::{Cluster, Durability, as_owner, give};
use crate::support::guests::root;
use crate::support::is_soak;

/// The file system in memory. A database for each test makes and removes hundreds of files, for which a file system on a
/// disk takes eight times as much of a processor.
const MEMORY: &str = "/dev/shm";
/// The free space in memory with which servers are kept there. The everyday suite takes up to an eighth of it.
const MEMORY_ROOM: u64 = 4 << 30;

/// The folder for all servers of this durability. A hasty server is in memory where that has room, but for the soak, which
/// measures and has more data. Other servers are below `target`, or in the temporary folder when the owner cannot reach
/// `target`.
pub(super) fn home(durability: Durability) -> PathBuf {
    static IN_MEMORY: OnceLock<PathBuf> = OnceLock::new();
    static ON_DISK: OnceLock<PathBuf> = OnceLock::new();
    let on_disk = || vec![root().join("target/postgres"), std::env::temp_dir().join("outbox-postgres")];
    let home = match durability {
        Durability::Hasty if !is_soak() && has_room(Path::new(MEMORY)) => {
            let in_memory = || Path::new(MEMORY).join(format!("outbox-postgres-{}", geteuid().as_raw()));
            IN_MEMORY.get_or_init(|| swept([vec![in_memory()], on_disk()].concat()))
        }
        Durability::Hasty | Durability::Honest => ON_DISK.get_or_init(|| swept(on_disk())),
    };
    home.clone()
}

fn has_room(file_system: &Path) -> bool {
    rustix::fs::statvfs(file_system).is_ok_and(|space| space.f_bavail * space.f_frsize >= MEMORY_ROOM)
}

/// The first of these folders that the owner of the servers reaches, without what earlier runs left behind.
fn swept(candidates: Vec<PathBuf>) -> PathBuf {
    let home = candidates.into_iter().find(|home| is_reachable(home)).expect("a folder that the owner reaches");
    sweep(&home);
    home
}

fn is_reachable(home: &Path) -> bool {
    fs::create_dir_all(home).unwrap();
    give(home);
    let looked = as_owner("test", Path::new("/")).arg("-w").arg(home).status();
    looked.is_ok_and(|status| status.success())
}

/// Creates and locks the file that shows whether the process of a cluster is alive.
pub(super) fn locked(home: &Path, name: &str) -> File {
    let lock = File::create(home.join(format!("{name}.lock"))).unwrap();
    lock.try_lock().unwrap();
    lock
}

/// Removes the servers and folders that earlier runs left behind, and the lock files of all finished runs.
fn sweep(home: &Path) {
    for entry in fs::read_dir(home).unwrap().map(Result::unwrap) {
        let lock = entry.path();
        if lock.extension().is_none_or(|ext| ext != "lock") {
            continue;
        }
        let is_left_over = File::open(&lock).is_ok_and(|file| file.try_lock().is_ok());
        if is_left_over {
            let dir = lock.with_extension("");
            drop(Cluster::tool("pg_ctl", home).args(["stop", "-m", "immediate", "-D"]).arg(dir.join("data")).output());
            drop(fs::remove_dir_all(dir));
            drop(fs::remove_file(lock));
        }
    }
}
