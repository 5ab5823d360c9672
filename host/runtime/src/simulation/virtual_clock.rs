//! Time and randomness in a simulation: both follow from what the attempt was given, and time passes only while a
//! guest waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtxBuilder};

use crate::outgoing::backend::HostBackend;
use crate::sandbox::host_state::HostState;
use outbox_item::Millis;

/// Bytes of randomness before they repeat: more than an ordinary guest asks for.
const RANDOM_BYTES: usize = 8 << 10;
/// So often everything else may go on before a guest's wait is over.
const YIELDS: usize = 256;

/// The clock and the randomness of one attempt. Clones are the same clock.
#[derive(Clone, Debug)]
pub(crate) struct VirtualClock {
    start: Duration,
    seed: u64,
    elapsed_nanos: Arc<AtomicU64>,
}

impl VirtualClock {
    /// Clocks that stand at `now`, and random numbers that follow from `seed`.
    pub(crate) fn new(now: Millis, seed: u64) -> Self {
        Self { start: Duration::from_millis(u64::try_from(now).unwrap_or(0)), seed, elapsed_nanos: Arc::default() }
    }

    /// Puts them into a guest's world.
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

    /// How much time has passed since the attempt began.
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

/// Replaces the timers that a linker offers by virtual ones.
pub(crate) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, HasVirtualTimers>(linker, HostState::virtual_timers)
}

struct HasVirtualTimers;

impl HasData for HasVirtualTimers {
    type Data<'a> = VirtualTimers<'a>;
}

/// What a guest's timers are made with.
pub(crate) struct VirtualTimers<'a> {
    /// Where the time comes from.
    pub(crate) backend: &'a Arc<dyn HostBackend>,
    /// Where timers are kept.
    pub(crate) table: &'a mut ResourceTable,
}

impl VirtualTimers<'_> {
    fn elapsed(&self) -> u64 {
        self.backend.virtual_clock().map_or(0, |clock| nanos(clock.elapsed()))
    }
}

impl monotonic_clock::Host for VirtualTimers<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.elapsed())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.table.push(VirtualTimer { backend: Arc::clone(self.backend), when })?;
        subscribe(self.table, timer)
    }

    fn subscribe_duration(&mut self, time: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_instant(self.elapsed().saturating_add(time))
    }
}

struct VirtualTimer {
    backend: Arc<dyn HostBackend>,
    when: u64,
}

#[async_trait::async_trait]
impl Pollable for VirtualTimer {
    /// Whatever else the guest waits for comes first: nothing in a simulation takes time of its own.
    async fn ready(&mut self) {
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        let elapsed_nanos = self.backend.virtual_clock().map_or(0, |clock| nanos(clock.elapsed()));
        self.backend.sleep(Duration::from_nanos(self.when.saturating_sub(elapsed_nanos))).await;
    }
}
