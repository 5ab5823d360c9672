//! The clock that interrupts computing guests: a thread that ticks while a guest computes and sleeps while none does.
//! It does not know what a tick does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

/// The time between two ticks. A guest can exceed its CPU limit by this much.
const TICK: Duration = Duration::from_millis(10);

/// A thread that ticks while an [`ActiveGuest`] exists. The thread ends when the ticker is dropped.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<TickerShared>,
}

#[derive(Debug, Default)]
struct TickerShared {
    state: Mutex<TickerState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct TickerState {
    active_guests: usize,
    is_asleep: bool,
    has_ended: bool,
}

impl Ticker {
    /// Starts a thread that calls `tick` every [`TICK`] while a guest computes.
    pub(crate) fn start(mut tick: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<TickerShared>::default();
        let waiting = Arc::clone(&shared);
        let work = move || {
            while waiting.is_needed() {
                thread::sleep(TICK);
                tick();
            }
        };
        thread::Builder::new().name("outbox-epoch".to_owned()).spawn(work)?;
        Ok(Self { shared })
    }

    /// Lets the thread tick until the returned value is dropped.
    pub(crate) fn guest_active(&self) -> ActiveGuest<'_> {
        let mut state = self.shared.lock();
        state.active_guests += 1;
        // After a wake-up the thread sleeps for a whole tick, so many short guests wake it only once.
        if state.is_asleep {
            self.shared.changed.notify_one();
        }
        ActiveGuest(&self.shared)
    }

    /// Whether no guest computes and no tick will follow.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.lock().is_asleep
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_one();
    }
}

/// A guest that computes.
#[derive(Debug)]
pub(crate) struct ActiveGuest<'a>(&'a TickerShared);

impl Drop for ActiveGuest<'_> {
    fn drop(&mut self) {
        self.0.lock().active_guests -= 1;
    }
}

impl TickerShared {
    fn lock(&self) -> MutexGuard<'_, TickerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a guest computes. Returns false when the ticker was dropped.
    fn is_needed(&self) -> bool {
        let mut state = self.lock();
        while state.active_guests == 0 && !state.has_ended {
            state.is_asleep = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_asleep = false;
        !state.has_ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use super::*;

    fn eventually(what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
            thread::yield_now();
        }
    }

    #[test]
    fn it_ticks_while_a_guest_computes_and_not_while_none_does() {
        let ticks = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&ticks);
        let ticker = Ticker::start(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        let count = || ticks.load(Ordering::SeqCst);
        for burst in 0..3 {
            eventually("it falls asleep", || ticker.is_idle());
            let asleep = count();
            thread::sleep(TICK * 5);
            assert_eq!(count(), asleep, "a tick without a guest, before burst {burst}");
            let both = (ticker.guest_active(), ticker.guest_active());
            drop(both.0);
            eventually("it ticks again and again", || count() > asleep + 2);
        }
    }

    #[test]
    fn its_thread_ends_with_it_whether_it_sleeps_or_ticks() {
        for is_computing in [false, true] {
            let held = Arc::new(());
            let of_thread = Arc::clone(&held);
            let ticker = Ticker::start(move || drop(Arc::clone(&of_thread))).unwrap();
            if is_computing {
                std::mem::forget(ticker.guest_active());
            }
            eventually("the thread runs", || ticker.is_idle() != is_computing);
            drop(ticker);
            eventually("the thread has ended", || Arc::strong_count(&held) == 1);
        }
    }
}
