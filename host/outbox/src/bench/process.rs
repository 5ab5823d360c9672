//! What this process uses of the machine, as Linux tells it. Other systems tell nothing.

use std::fs;
use std::time::Duration;

/// Bytes of memory in use.
pub(crate) fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most bytes of memory that were ever in use.
pub(crate) fn peak() -> Option<u64> {
    status("VmHWM:")
}

fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The processor time that the threads which are there have used.
pub(crate) fn cpu() -> Option<Duration> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = threads.filter_map(|thread| {
        let used = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        used.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(nanoseconds.sum()))
}
