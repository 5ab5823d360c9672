//! Facts about the file system that holds a path: whether it survives a restart, and how much room it has.
//!
//! This file changes nothing and knows no settings.

use std::path::{Path, PathBuf};

/// The list of mounts that Linux keeps. Other systems have no such file, and there nothing is known.
const MOUNTS: &str = "/proc/self/mounts";

/// The mount point of the memory file system that holds the path; `None` when a disk holds it.
pub(crate) fn in_memory(path: &Path) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string(MOUNTS).ok()?;
    memory_mount(&mounts, &resolved_parent(path)?)
}

/// The absolute path, as a message shows it.
pub(crate) fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)).display().to_string()
}

/// The bytes that this user may still write next to the path.
pub(crate) fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let parent = resolved_parent(path).unwrap_or_else(|| PathBuf::from("/"));
    let space = rustix::fs::statvfs(&parent)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// The nearest folder above the path that exists, with symbolic links followed: `/var/run` is often one.
fn resolved_parent(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    absolute.ancestors().skip(1).find_map(|folder| folder.canonicalize().ok())
}

fn memory_mount(mounts: &str, folder: &Path) -> Option<PathBuf> {
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        // The kernel writes a space in a path as \040.
        Some((PathBuf::from(words.next()?.replace("\\040", " ")), words.next()?))
    });
    let over = mounted.filter(|(point, _)| folder.starts_with(point));
    // Of two mounts at one point the later hides the earlier, and `max_by_key` returns the later.
    let (point, kind) = over.max_by_key(|(point, _)| point.components().count())?;
    matches!(kind, "tmpfs" | "ramfs").then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_decides() {
        let mounts = "overlay / overlay rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/sda /run/data ext4 rw 0 0\n\
                      tmpfs /my\\040dir tmpfs rw 0 0\ntmpfs /mnt tmpfs rw 0 0\n/dev/sdb /mnt ext4 rw 0 0";
        let check = |folder: &str, mount: Option<&str>| {
            assert_eq!(memory_mount(mounts, Path::new(folder)), mount.map(PathBuf::from), "{folder}");
        };
        check("/run", Some("/run"));
        check("/run/outbox", Some("/run"));
        check("/run/data/outbox", None);
        check("/runner", None);
        check("/my dir", Some("/my dir"));
        check("/mnt", None);
    }

    #[test]
    fn a_path_that_does_not_exist_is_judged_by_the_nearest_folder_that_does() {
        let free = free_bytes(Path::new("/no/such/folder/outbox.sqlite")).unwrap();
        assert_eq!(resolved_parent(Path::new("/no/such/folder/outbox.sqlite")), Some(PathBuf::from("/")));
        assert!(free > 0 || cfg!(not(target_os = "linux")));
    }
}
