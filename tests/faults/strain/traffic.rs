//! Items that are written to a host while it is strained, and probes that are sent to it meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::host::HostProcess;
use crate::support::stage::Deployment;
use crate::support::{eventually, is_soak};

/// The limit for everything that a test expects of a strained host.
pub(super) const SOON: Duration = Duration::from_mins(3);

/// The longest time until a probe is answered. In the everyday suite the machine is busy with other tests.
fn probe_max() -> Duration {
    Duration::from_secs(if is_soak() { 1 } else { 10 })
}

/// How much of something the everyday suite and the soak take.
pub(super) fn sized(suite: usize, soak: usize) -> usize {
    if is_soak() { soak } else { suite }
}

/// A host to which items are written and probes are sent. A caller writes one item after the other.
pub(super) struct Traffic<'a> {
    host: &'a HostProcess,
    filler: String,
    pause: Duration,
    callers: usize,
    next: Cell<usize>,
    acknowledged: RefCell<Vec<String>>,
    refused: Cell<usize>,
    slowest_probe: Cell<Duration>,
    /// The statuses of the answers about readiness.
    readiness: RefCell<BTreeSet<u16>>,
    /// The last one of them.
    is_ready: Cell<bool>,
    stop: CancellationToken,
}

impl<'a> Traffic<'a> {
    /// Writes items with payloads of this number of bytes, as fast as the host takes them.
    pub(super) fn to(host: &'a HostProcess, bytes: usize) -> Self {
        Self {
            host,
            filler: "x".repeat(bytes),
            pause: Duration::ZERO,
            callers: 1,
            next: Cell::default(),
            acknowledged: RefCell::default(),
            refused: Cell::default(),
            slowest_probe: Cell::default(),
            readiness: RefCell::default(),
            is_ready: Cell::default(),
            stop: CancellationToken::new(),
        }
    }

    /// The same, with a pause after each item.
    pub(super) fn pausing(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// The same, by this number of callers at a time.
    pub(super) fn by(self, callers: usize) -> Self {
        Self { callers, ..self }
    }

    /// Goes on until the strain has ended.
    pub(super) async fn during(&self, strain: impl Future<Output = ()>) {
        let strained = async {
            strain.await;
            self.stop.cancel();
        };
        let callers = join_all((0..self.callers).map(|_| self.write()));
        tokio::join!(strained, callers, self.probe());
    }

    async fn write(&self) {
        while !self.stop.is_cancelled() {
            let number = self.next.replace(self.next.get() + 1);
            let item = json!({ "type": "webhook", "idem_key": format!("item {number}"), "payload": self.filler });
            let headers = [("content-type", "application/json")];
            let answer = self.host.send("POST", "/items", &headers, &item.to_string()).await;
            match answer.status.as_u16() {
                202 => self.acknowledged.borrow_mut().push(format!("item {number}")),
                503 => self.refused.set(self.refused.get() + 1),
                _ => panic!("{answer:?}"),
            }
            tokio::time::sleep(self.pause).await;
        }
    }

    async fn probe(&self) {
        while !self.stop.is_cancelled() {
            assert_eq!(self.answer_to("/healthz").await, 200);
            let ready = self.answer_to("/readyz").await;
            self.readiness.borrow_mut().insert(ready);
            self.is_ready.set(ready == 200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The status of the answer to a probe.
    async fn answer_to(&self, path: &str) -> u16 {
        let asked = Instant::now();
        let answer = self.host.send("GET", path, &[], "").await;
        self.slowest_probe.set(self.slowest_probe.get().max(asked.elapsed()));
        answer.status.as_u16()
    }

    /// Checks that each of these statuses was an answer about readiness since the last look, and no other one.
    pub(super) fn expect_readiness(&self, statuses: &[u16]) {
        assert_eq!(self.readiness.take(), statuses.iter().copied().collect());
    }

    /// Waits until there is an answer about readiness since the last look.
    pub(super) async fn is_probed(&self) {
        eventually("a probe is answered", SOON, async || !self.readiness.borrow().is_empty()).await;
    }

    /// Waits until the host says that it is ready, or that it is not.
    pub(super) async fn becomes_ready(&self, ready: bool) {
        eventually(&format!("ready: {ready}"), SOON, async || self.is_ready.get() == ready).await;
    }

    /// Waits until this number of further items are acknowledged.
    pub(super) async fn goes_on(&self, items: usize) {
        let enough = self.acknowledged.borrow().len() + items;
        eventually("writes go on", SOON, async || self.acknowledged.borrow().len() >= enough).await;
    }

    /// Waits until this number of further items are refused.
    pub(super) async fn is_refused(&self, items: usize) {
        let enough = self.refused.get() + items;
        eventually("writes are refused", SOON, async || self.refused.get() >= enough).await;
    }

    /// The host refused none of these items, and each arrives once.
    pub(super) async fn all_arrive_once(&self, deployment: &Deployment) -> String {
        assert_eq!(self.refused.get(), 0, "items were refused");
        self.arrives_once(deployment).await
    }

    /// Whether no item waits or is in a lease.
    async fn is_settled(&self) -> bool {
        let unsettled = self.host.send("GET", "/items?status=PENDING,CLAIMED&limit=1", &[], "").await.json();
        unsettled["items"].as_array().is_some_and(Vec::is_empty)
    }

    /// Each acknowledged item arrives, and none arrives twice. Returns what became of the writes and the probes.
    pub(super) async fn arrives_once(&self, deployment: &Deployment) -> String {
        let acknowledged = self.acknowledged.borrow().clone();
        let ledger = &deployment.vector.ledger;
        // The key of a request begins with that of its item.
        let all_arrived = || {
            let effects = ledger.effects();
            let arrived: HashSet<_> = effects.keys().filter_map(|key| key.split('/').next()).collect();
            acknowledged.iter().all(|key| arrived.contains(key.as_str()))
        };
        eventually("every acknowledged item arrives", SOON, async || all_arrived()).await;
        // What is settled is not repeated later.
        eventually("every item is settled", SOON, async || self.is_settled().await).await;
        let effects = ledger.effects();
        let repeated: Vec<_> = effects.iter().filter(|(_, times)| **times > 1).collect();
        assert!(repeated.is_empty(), "{repeated:?}\n{}", warnings(deployment));
        let (refused, slowest) = (self.refused.get(), self.slowest_probe.get());
        assert!(slowest < probe_max(), "the slowest probe took {slowest:?}");
        let (items, memory) = (acknowledged.len(), self.host.peak() >> 20);
        format!(
            "{items} items acknowledged, {refused} refused; the slowest probe took {slowest:?}; {memory} MiB at most"
        )
    }
}

/// What the hosts of a deployment have logged as warnings and errors, the last of it.
fn warnings(deployment: &Deployment) -> String {
    let log = std::fs::read_to_string(deployment.dir.path().join("host.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
