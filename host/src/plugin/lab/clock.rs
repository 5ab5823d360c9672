//! Time and chance in the lab: both follow from what the attempt was given, and time passes only while a
//! guest waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtxBuilder};

use crate::item::Millis;
use crate::plugin::host::HostState;
use crate::plugin::outside::Outside;

/// Bytes of randomness before they repeat: more than an ordinary guest asks for.
const RANDOM_BYTES: usize = 8 << 10;
/// So often everything else may go on before a guest's wait is over.
const YIELDS: usize = 256;

/// The clocks and the dice of one attempt. Clones are the same ones.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct Staged {
    start: Duration,
    seed: u64,
    passed: Arc<AtomicU64>,
}

impl Staged {
    /// Clocks that stand at `now`, and random numbers that follow from `seed`.
    pub(super) fn new(now: Millis, seed: u64) -> Self {
        Self { start: Duration::from_millis(u64::try_from(now).unwrap_or(0)), seed, passed: Arc::default() }
    }

    /// Puts them into a guest's world.
    pub(in crate::plugin) fn furnish(&self, wasi: &mut WasiCtxBuilder) {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut dice = || {
            let mut bytes = vec![0; RANDOM_BYTES];
            random.fill(&mut bytes);
            Deterministic::new(bytes)
        };
        wasi.secure_random(dice()).insecure_random(dice()).insecure_random_seed(u128::from(self.seed));
        wasi.wall_clock(self.clone()).monotonic_clock(self.clone());
    }

    /// How much time has passed since the attempt began.
    pub(super) fn passed(&self) -> Duration {
        Duration::from_nanos(self.passed.load(Ordering::Relaxed))
    }

    /// Lets time pass.
    pub(super) fn pass(&self, time: Duration) {
        self.passed.fetch_add(nanos(time), Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl HostWallClock for Staged {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.start + self.passed()
    }
}

impl HostMonotonicClock for Staged {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        nanos(self.passed())
    }
}

/// Replaces the timers that a linker offers by those of the lab.
pub(in crate::plugin) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, HasTimers>(linker, HostState::timers)
}

struct HasTimers;

impl HasData for HasTimers {
    type Data<'a> = Timers<'a>;
}

/// What a guest's timers are made with.
pub(in crate::plugin) struct Timers<'a> {
    /// Where the time comes from.
    pub(in crate::plugin) outside: &'a Arc<dyn Outside>,
    /// Where timers are kept.
    pub(in crate::plugin) table: &'a mut ResourceTable,
}

impl Timers<'_> {
    fn passed(&self) -> u64 {
        self.outside.staged().map_or(0, |staged| nanos(staged.passed()))
    }
}

impl monotonic_clock::Host for Timers<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.passed())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.table.push(Timer { outside: Arc::clone(self.outside), when })?;
        subscribe(self.table, timer)
    }

    fn subscribe_duration(&mut self, time: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_instant(self.passed().saturating_add(time))
    }
}

struct Timer {
    outside: Arc<dyn Outside>,
    when: u64,
}

#[async_trait::async_trait]
impl Pollable for Timer {
    /// Whatever else the guest waits for comes first: nothing in the lab takes time of its own.
    async fn ready(&mut self) {
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        let passed = self.outside.staged().map_or(0, |staged| nanos(staged.passed()));
        self.outside.wait(Duration::from_nanos(self.when.saturating_sub(passed))).await;
    }
}
