//! How long a guest has computed: the time in which its future was polled. Waiting is left out, so
//! that an answer that comes in many small pieces costs what its handling costs.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sandbox::epoch_ticker::Ticker;

/// The guest has computed for longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the component computed for longer than `limits.cpu`, which is {}", humantime::format_duration(*.0))]
pub(crate) struct CpuLimitExceeded(pub Duration);

/// The clock of one call. Clones are the same clock.
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
    /// A clock that stands at zero.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, state: Arc::default() }
    }

    /// Runs a guest and counts its CPU time; the ticker interrupts it so that the limit is checked.
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

    /// Errors when the guest that runs has computed for too long.
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
