//! The memory, the processor time and the written bytes of this process, as Linux reports them. On other systems they are unknown.

use std::fs;
use std::time::Duration;

/// Bytes of memory that this process uses now.
pub(crate) fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The maximum of bytes of memory that this process has used.
pub(crate) fn peak() -> Option<u64> {
    status("VmHWM:")
}

/// Bytes that this process has handed to the system to be written, to any file.
pub(crate) fn written() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar:"))?.trim().parse().ok()
}

fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The processor time that the present threads of this process have used.
pub(crate) fn cpu() -> Option<Duration> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = threads.filter_map(|thread| {
        let used = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        used.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(nanoseconds.sum()))
}
