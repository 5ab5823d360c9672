//! How often a store looks for work where no notification tells it of any.
//!
//! It reads no clock and knows no store: the caller waits.

use std::time::Duration;

/// The wait after a look that found something, and the first one.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest wait. An empty claim takes the server about 0.2 ms, so an idle process costs a thousandth of a core.
const LONGEST: Duration = Duration::from_millis(250);

/// The wait before the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poller {
    delay: Duration,
}

impl Default for Poller {
    fn default() -> Self {
        Self { delay: SHORTEST }
    }
}

impl Poller {
    /// How long to wait from now on.
    pub(crate) fn delay(self) -> Duration {
        self.delay
    }

    /// A look was made. Unless it finds something, the next wait is twice as long.
    pub(crate) fn looked(&mut self) {
        self.delay = (self.delay * 2).min(LONGEST);
    }

    /// A claim brought something, so that more may follow soon.
    pub(crate) fn found(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_until_a_claim_brings_something() {
        let mut poller = Poller::default();
        let mut delays = || {
            let delay = poller.delay().as_millis();
            poller.looked();
            delay
        };
        assert_eq!([(); 8].map(|()| delays()), [10, 20, 40, 80, 160, 250, 250, 250]);
        poller.found();
        assert_eq!(poller.delay(), SHORTEST);
    }

    #[test]
    fn an_idle_process_looks_four_times_a_second() {
        let (mut poller, mut now, mut looks) = (Poller::default(), Duration::ZERO, 0);
        while now < Duration::from_mins(1) {
            now += poller.delay();
            poller.looked();
            looks += 1;
        }
        assert!((240..=245).contains(&looks), "{looks} in a minute");
    }
}
