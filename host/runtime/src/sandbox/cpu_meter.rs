//! The CPU time of one call: the time in which the guest's future was polled. Waiting does not count, so a guest is not
//! charged for a slow receiver.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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

#[derive(Debug, Default)]
struct MeterState {
    spent: Duration,
    resumed: Option<Instant>,
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
            self.with_state(|state| state.resumed = Some(Instant::now()));
            let polled = guest.as_mut().poll(context);
            self.with_state(|state| {
                state.spent = state.total();
                state.resumed = None;
            });
            polled
        })
        .await
    }

    /// Errors if the running guest has exceeded its CPU time.
    pub(crate) fn check(&self) -> Result<(), CpuLimitExceeded> {
        if self.with_state(|state| state.total()) > self.limit { Err(CpuLimitExceeded(self.limit)) } else { Ok(()) }
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut MeterState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MeterState {
    fn total(&self) -> Duration {
        self.spent + self.resumed.map_or(Duration::ZERO, |resumed| resumed.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn computing_counts_and_waiting_does_not() {
        let (meter, ticker) = (CpuMeter::new(Duration::from_millis(20)), Ticker::start(|| {}).unwrap());
        meter.measure(&ticker, tokio::time::sleep(Duration::from_millis(50))).await;
        assert!(meter.check().is_ok());
        let computing = async {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(30) {}
            meter.check()
        };
        let message = meter.measure(&ticker, computing).await.unwrap_err().to_string();
        assert_eq!(message, "the component computed for longer than `limits.cpu`, which is 20ms");
    }
}
