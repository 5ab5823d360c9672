//! The queue of log lines, and the thread that writes them to standard error.
//!
//! A thread that logs never waits for the reader of the log: a line that finds the queue full, or that cannot be written, is
//! dropped and counted. This file does not know what is logged.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that wait to be written: thousands of usual lines.
const BYTES_MAX: usize = 1 << 20;

/// The log lines of a process.
#[derive(Default)]
pub(crate) struct LogQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that are being written.
    writing: usize,
    /// Lines that were never written.
    dropped: u64,
    /// When the thread has to call back, at the latest.
    wake_at: Option<Instant>,
}

impl LogQueue {
    /// Starts the thread that writes to `out`. It calls `pause` after what was queued is written, with the number of
    /// lines that were dropped so far; `pause` says when it wants to be called again without a line.
    pub(crate) fn start(
        self: &Arc<Self>,
        mut out: impl Write + Send + 'static,
        mut pause: impl FnMut(u64) -> Option<Instant> + Send + 'static,
    ) -> std::io::Result<()> {
        let queue = Arc::clone(self);
        let work = move || loop {
            let lines = queue.take();
            let failed = lines.iter().filter(|line| out.write_all(line).is_err()).count();
            let dropped = queue.written(failed);
            // Lines about lines would fail as well.
            if failed == 0
                && let Some(at) = pause(dropped)
            {
                queue.wake_at(at);
            }
        };
        std::thread::Builder::new().name("outbox-log".to_owned()).spawn(work).map(drop)
    }

    /// Adds a line, or drops it when there is no room.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.bytes + line.len() > BYTES_MAX {
            state.dropped += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        self.changed.notify_all();
    }

    /// Has the thread call back at `at` or earlier.
    pub(crate) fn wake_at(&self, at: Instant) {
        let mut state = self.state();
        if state.wake_at.is_none_or(|earlier| at < earlier) {
            state.wake_at = Some(at);
            self.changed.notify_all();
        }
    }

    /// How many lines were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Waits until every line is written, for `limit` at most.
    pub(crate) fn flush(&self, limit: Duration) {
        let is_busy = |state: &mut QueueState| state.writing > 0 || !state.lines.is_empty();
        drop(self.changed.wait_timeout_while(self.state(), limit, is_busy));
    }

    /// Waits for lines or for the time to wake up, and takes the lines out.
    fn take(&self) -> VecDeque<Vec<u8>> {
        let mut state = self.state();
        while state.lines.is_empty() {
            let wait = state.wake_at.map(|at| at.saturating_duration_since(Instant::now()));
            match wait {
                Some(Duration::ZERO) => {
                    state.wake_at = None;
                    break;
                }
                Some(wait) => {
                    state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        state.bytes = 0;
        state.writing = state.lines.len();
        std::mem::take(&mut state.lines)
    }

    /// Notes that the lines that were taken are written, except `failed`. Returns how many were dropped so far.
    fn written(&self, failed: usize) -> u64 {
        let mut state = self.state();
        state.writing = 0;
        state.dropped += failed as u64;
        self.changed.notify_all();
        state.dropped
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader of the log that takes one line for each permission.
    struct SlowReader {
        permissions: mpsc::Receiver<()>,
        lines: mpsc::Sender<Vec<u8>>,
    }

    impl Write for SlowReader {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.permissions.recv().map_err(std::io::Error::other)?;
            self.lines.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn slow_log() -> (Arc<LogQueue>, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let queue = Arc::<LogQueue>::default();
        let ((permit, permissions), (lines, written)) = (mpsc::channel(), mpsc::channel());
        queue.start(SlowReader { permissions, lines }, |_| None).unwrap();
        (queue, permit, written)
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_what_is_left_out_is_counted() {
        let (queue, permit, written) = slow_log();
        queue.push(b"first");
        while queue.state().writing == 0 {
            std::thread::yield_now();
        }
        let (logging, (went_on, goes_on)) = (Arc::clone(&queue), mpsc::channel());
        std::thread::spawn(move || {
            let line = vec![b'x'; BYTES_MAX / 4];
            (0..9).for_each(|_| logging.push(&line));
            went_on.send(()).unwrap();
        });
        goes_on.recv_timeout(Duration::from_secs(20)).expect("a thread that logs goes on");
        queue.flush(Duration::ZERO);
        assert_eq!(queue.dropped(), 5);
        permit.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), b"first");
    }

    #[test]
    fn a_reader_that_is_gone_costs_its_lines_and_nothing_else() {
        let (queue, permit, _) = slow_log();
        drop(permit);
        for _ in 0..3 {
            queue.push(b"line");
            queue.flush(Duration::from_secs(20));
        }
        assert_eq!(queue.dropped(), 3);
    }

    #[test]
    fn lines_are_written_in_order_before_the_process_ends() {
        let (queue, permit, written) = slow_log();
        for number in 0..100_u8 {
            queue.push(&[number]);
            permit.send(()).unwrap();
        }
        queue.flush(Duration::from_secs(20));
        assert!(written.try_iter().map(|line| line[0]).eq(0..100));
    }

    #[test]
    fn the_thread_calls_back_when_it_was_asked_to() {
        let queue = Arc::<LogQueue>::default();
        let (send, called) = mpsc::channel();
        let pause = move |_| send.send(()).err().and(None);
        queue.start(std::io::sink(), pause).unwrap();
        queue.wake_at(Instant::now() + Duration::from_millis(5));
        called.recv_timeout(Duration::from_secs(20)).expect("a call without a line");
    }
}
