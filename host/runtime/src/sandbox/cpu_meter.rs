//! The CPU time of one call: what the thread that polls the guest's future spends meanwhile. Waiting does not count, so
//! a guest is charged neither for a slow receiver nor for a machine that is busy with something else.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::sandbox::epoch_ticker::Ticker;

/// The guest exceeded its CPU time.
#[derive(Debug, thiserror::Error)]
#[error("the component computed for longer than `limits.cpu`, which is {}", humantime::format_duration(*.0))]
pub(crate) struct CpuLimitExceeded(pub Duration);

/// The meter of one call. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct CpuMeter {
    limit: Duration,
    state: Arc<Mutex<MeterState>>,
}

/// The calls of a plugin that have ended, and their CPU time.
#[derive(Debug, Default)]
pub(crate) struct CpuTotal {
    calls: AtomicU64,
    micros: AtomicU64,
}

#[derive(Debug, Default)]
struct MeterState {
    spent: Duration,
    /// The CPU time of the thread when the poll in progress began.
    resumed: Option<Duration>,
}

impl CpuMeter {
    /// A meter at zero.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, state: Arc::default() }
    }

    /// Runs a guest and counts its CPU time. The ticker interrupts the guest so that the limit is checked.
    pub(crate) async fn measure<F: Future>(&self, ticker: &Ticker, guest: F) -> F::Output {
        let mut guest = pin!(guest);
        poll_fn(|context| {
            let _active = ticker.guest_active();
            self.with_state(|state| state.resumed = Some(thread_time()));
            let polled = guest.as_mut().poll(context);
            self.with_state(|state| {
                state.spent = state.total();
                state.resumed = None;
            });
            polled
        })
        .await
    }

    /// Errors if the running guest has exceeded its CPU time. Must be called by the thread that polls it.
    pub(crate) fn check(&self) -> Result<(), CpuLimitExceeded> {
        if self.with_state(|state| state.total()) > self.limit { Err(CpuLimitExceeded(self.limit)) } else { Ok(()) }
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut MeterState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl CpuTotal {
    /// Adds a call that has ended.
    pub(crate) fn add(&self, meter: &CpuMeter) {
        let spent = meter.with_state(|state| state.spent);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The number of calls, and their CPU time.
    pub(crate) fn read(&self) -> (u64, Duration) {
        (self.calls.load(Ordering::Relaxed), Duration::from_micros(self.micros.load(Ordering::Relaxed)))
    }
}

impl MeterState {
    fn total(&self) -> Duration {
        self.spent + self.resumed.map_or(Duration::ZERO, |resumed| thread_time().saturating_sub(resumed))
    }
}

/// The CPU time that the calling thread has used.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn computing_counts_and_neither_waiting_nor_what_other_threads_compute_does() {
        let (meter, ticker) = (CpuMeter::new(Duration::from_millis(20)), Ticker::start(|| {}).unwrap());
        meter.measure(&ticker, tokio::time::sleep(Duration::from_millis(50))).await;
        assert!(meter.check().is_ok());
        let compute = || {
            let begun = thread_time();
            while thread_time().saturating_sub(begun) < Duration::from_millis(30) {}
        };
        let preempted = async { std::thread::spawn(compute).join() };
        meter.measure(&ticker, preempted).await.unwrap();
        assert!(meter.check().is_ok());
        let computing = async {
            compute();
            meter.check()
        };
        let message = meter.measure(&ticker, computing).await.unwrap_err().to_string();
        let total = CpuTotal::default();
        total.add(&meter);
        let (calls, spent) = total.read();
        assert!(calls == 1 && spent >= Duration::from_millis(30), "{spent:?}");
        assert_eq!(message, "the component computed for longer than `limits.cpu`, which is 20ms");
    }
}
