//! The clock and the randomness of one simulated attempt. Both depend only on the attempt's start and its seed, and
//! time passes only while the guest waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtxBuilder};

use outbox_item::Millis;

/// Random bytes before they repeat: more than an ordinary guest reads.
const RANDOM_BYTES: usize = 8 << 10;

/// The clock and the randomness of one attempt. Clones share the clock.
#[derive(Clone, Debug)]
pub(crate) struct VirtualClock {
    start: Duration,
    seed: u64,
    elapsed_nanos: Arc<AtomicU64>,
}

impl VirtualClock {
    /// A clock that starts at `now`, and random numbers that depend on `seed`.
    pub(crate) fn new(now: Millis, seed: u64) -> Self {
        Self {
            start: Duration::from_millis(u64::try_from(now.get()).unwrap_or(0)),
            seed,
            elapsed_nanos: Arc::default(),
        }
    }

    /// Replaces the clocks and the randomness of a guest.
    pub(crate) fn install(&self, wasi: &mut WasiCtxBuilder) {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut random_bytes = || {
            let mut bytes = vec![0; RANDOM_BYTES];
            random.fill(&mut bytes);
            Deterministic::new(bytes)
        };
        wasi.secure_random(random_bytes()).insecure_random(random_bytes()).insecure_random_seed(u128::from(self.seed));
        wasi.wall_clock(self.clone()).monotonic_clock(self.clone());
    }

    /// The time that has passed since the attempt began.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed_nanos.load(Ordering::Relaxed))
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, time: Duration) {
        self.elapsed_nanos.fetch_add(nanos(time), Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl HostWallClock for VirtualClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.start + self.elapsed()
    }
}

impl HostMonotonicClock for VirtualClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        nanos(self.elapsed())
    }
}
