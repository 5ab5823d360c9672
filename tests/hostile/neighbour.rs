//! The well-behaved type beside a hostile one: the host handles it without interruption, and the test measures it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox::core::{Handler as _, Outcome};
use outbox::runtime::Plugins;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{GROWTH_MAX, LATENCY_MAX};
use crate::support::plugins::{PluginHost, attempt};

/// The interval of the memory samples. A peak that is shorter can be missed.
const SAMPLE: Duration = Duration::from_millis(2);

/// The measured figures.
#[derive(Clone, Copy, Default)]
struct Figures {
    handled: u32,
    slowest: Duration,
}

/// Runs attempts of the well-behaved type, one after another, until the test asks for the figures.
pub(crate) struct Neighbour {
    stop: CancellationToken,
    running: JoinHandle<Figures>,
    peak: std::thread::JoinHandle<u64>,
    before: u64,
}

impl Neighbour {
    pub(crate) fn watch(host: &PluginHost) -> Self {
        let stop = CancellationToken::new();
        let running = tokio::spawn(keep_handling(Arc::clone(&host.plugins), stop.clone()));
        let before = resident();
        let watched = stop.clone();
        let peak = std::thread::spawn(move || peak_until(&watched));
        Self { stop, running, peak, before }
    }

    #[expect(clippy::print_stderr, reason = "the measured figures")]
    pub(crate) async fn was_well(self, name: &str) {
        self.stop.cancel();
        let Figures { handled, slowest } = self.running.await.unwrap();
        let growth = self.peak.join().unwrap().saturating_sub(self.before);
        eprintln!("{name:<28} handled {handled:>5}, slowest {slowest:>10.2?}, grew {:>4} MiB", growth >> 20);
        assert!(handled > 0 && slowest < LATENCY_MAX, "{name}: {handled} handled, the slowest in {slowest:?}");
        assert!(growth < GROWTH_MAX, "{name}: the host grew by {growth} bytes");
    }
}

async fn keep_handling(plugins: Arc<Plugins>, stop: CancellationToken) -> Figures {
    let mut figures = Figures::default();
    loop {
        let begun = Instant::now();
        let report = plugins.handle(attempt("good", Duration::from_secs(30))).await;
        assert!(matches!(report.outcome, Outcome::Done { .. }), "{report:?}");
        figures.handled += 1;
        figures.slowest = figures.slowest.max(begun.elapsed());
        if stop.is_cancelled() {
            return figures;
        }
        tokio::task::yield_now().await;
    }
}

/// The largest memory of this process, in bytes, until `stop` is cancelled. A thread of its own samples it, so busy
/// tasks cannot delay the samples.
fn peak_until(stop: &CancellationToken) -> u64 {
    let mut peak = resident();
    while !stop.is_cancelled() {
        std::thread::sleep(SAMPLE);
        peak = peak.max(resident());
    }
    peak
}

/// The resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
