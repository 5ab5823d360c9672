//! How long a guest has computed: the time in which its future was polled. Waiting is left out, so
//! that an answer that comes in many small pieces costs what its handling costs.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ticker::Ticker;

/// The guest has computed for longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the component computed for longer than `limits.cpu`, which is {}", humantime::format_duration(*.0))]
pub(super) struct OverCpu(pub Duration);

/// The clock of one call. Clones are the same clock.
#[derive(Clone, Debug)]
pub(super) struct CpuClock {
    most: Duration,
    reading: Arc<Mutex<Reading>>,
}

#[derive(Debug, Default)]
struct Reading {
    spent: Duration,
    resumed: Option<Instant>,
}

impl CpuClock {
    /// A clock that stands at zero.
    pub(super) fn new(most: Duration) -> Self {
        Self { most, reading: Arc::default() }
    }

    /// Runs a guest by this clock; the ticker has it look at the clock while it computes.
    pub(super) async fn meter<F: Future>(&self, ticker: &Ticker, guest: F) -> F::Output {
        let mut guest = pin!(guest);
        poll_fn(|context| {
            let _computing = ticker.computing();
            self.read(|reading| reading.resumed = Some(Instant::now()));
            let polled = guest.as_mut().poll(context);
            self.read(|reading| {
                reading.spent = reading.now();
                reading.resumed = None;
            });
            polled
        })
        .await
    }

    /// Errors when the guest that runs has computed for too long.
    pub(super) fn check(&self) -> Result<(), OverCpu> {
        if self.read(|reading| reading.now()) > self.most { Err(OverCpu(self.most)) } else { Ok(()) }
    }

    fn read<T>(&self, look: impl FnOnce(&mut Reading) -> T) -> T {
        look(&mut self.reading.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reading {
    fn now(&self) -> Duration {
        self.spent + self.resumed.map_or(Duration::ZERO, |resumed| resumed.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn computing_counts_and_waiting_does_not() {
        let (clock, ticker) = (CpuClock::new(Duration::from_millis(20)), Ticker::start(|| {}).unwrap());
        clock.meter(&ticker, tokio::time::sleep(Duration::from_millis(50))).await;
        assert!(clock.check().is_ok());
        let computing = async {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(30) {}
            clock.check()
        };
        let told = clock.meter(&ticker, computing).await.unwrap_err().to_string();
        assert_eq!(told, "the component computed for longer than `limits.cpu`, which is 20ms");
    }
}
