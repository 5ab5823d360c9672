//! One call of a component: a fresh store, its limits, its deadline, and what came of it.
//!
//! Promises: nothing survives a call except what the report says; a guest that computes is interrupted
//! by the epoch and one that waits by a timer; every way to end is an outcome, never an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};

use super::bindings::PluginPre;
use super::bindings::exports::outbox::handler::handler::Description;
use super::bindings::outbox::handler::types::{Failure as GuestFailure, Item as GuestItem};
use super::cpu::CpuClock;
use super::engine::Runtime;
use super::evidence::Evidence;
use super::followups::Followups;
use super::grant::Grants;
use super::host::{HostState, Parts};
use super::limiter::{COMPONENT_HANDLES_MAX, HOST_CALL_MAX};
use super::manifest::{Limits, Manifest};
use super::outgoing::{Keys, Network, Outgoing, OutgoingPolicy};
use super::output::OutputTail;
use super::outside::Outside;
use super::redact::Redactor;
use super::state::{StateAccess, StateBuffer};
use super::ticker::Ticker;
use super::verdict::{self, Phase};
use crate::handler::{Attempt, Mode, Outcome, Report, StateReader};
use crate::item::{Failure, HostWrites, Item, Recording};

/// The part of its time that an attempt waits for its turn at contended state, at most.
const TURN_SHARE: u32 = 4;
/// A component must be able to say what it is without doing anything.
pub(super) const DESCRIBE_CPU: Duration = Duration::from_secs(1);
/// Longer, so that a busy host is not held against a component.
pub(super) const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A compiled component, linked, with the terms on which it runs.
pub(super) struct Program {
    name: String,
    pre: PluginPre<HostState>,
    timeout: Option<Duration>,
    limits: Limits,
    grants: Arc<Grants>,
    policy: Arc<OutgoingPolicy>,
    network: Arc<dyn Outside>,
    redactor: Redactor,
    config: Arc<BTreeMap<String, String>>,
    ticker: Arc<Ticker>,
}

type Answer = Result<Option<Vec<u8>>, GuestFailure>;

enum Ending {
    Answered(Answer),
    Faulted(Phase, wasmtime::Error),
    TimedOut,
    Stopped,
}

/// What the host keeps in hand of a running call.
struct Call {
    evidence: Arc<Evidence>,
    output: OutputTail,
    deadline: Instant,
    patience: Duration,
    outside: Arc<dyn Outside>,
}

impl Call {
    fn until(deadline: Instant, outside: Arc<dyn Outside>) -> Self {
        let patience = deadline.saturating_duration_since(Instant::now());
        Self { evidence: Arc::default(), output: OutputTail::default(), deadline, patience, outside }
    }
}

impl Program {
    /// A program that runs on the manifest's terms.
    pub(super) fn new(name: &str, pre: PluginPre<HostState>, manifest: &Manifest, runtime: &Runtime) -> Self {
        let grants = Arc::new(manifest.grants.clone());
        Self {
            name: name.to_owned(),
            pre,
            timeout: manifest.timeout,
            limits: manifest.limits.clone(),
            policy: Arc::new(OutgoingPolicy::new(Arc::clone(&grants), manifest.limits.clone())),
            network: Arc::new(Network::new(Arc::clone(&grants), Arc::clone(&runtime.resolver))),
            redactor: Redactor::new(&grants),
            grants,
            config: Arc::new(manifest.config.clone()),
            ticker: Arc::clone(&runtime.ticker),
        }
    }

    /// Asks the component what it is, with everything denied.
    pub(super) async fn describe(&self) -> Result<Description, Failure> {
        let call = Call::until(Instant::now() + DESCRIBE_TIMEOUT, Arc::clone(&self.network));
        let mut store = self.store(self.denied(&call));
        let clock = store.data().cpu.clone();
        let described = async {
            let plugin = self.pre.instantiate_async(&mut store).await.map_err(|err| (Phase::Instantiating, err))?;
            let guest = plugin.outbox_handler_handler();
            guest.call_describe(&mut store).await.map_err(|err| (Phase::Running, err))
        };
        match tokio::time::timeout_at(call.deadline, clock.meter(&self.ticker, described)).await {
            Ok(Ok(description)) => Ok(description),
            Ok(Err((phase, err))) => {
                Err(verdict::faulted(&err, phase, &store.data().limiter, call.output.text().as_deref()))
            }
            Err(_) => Err(verdict::timed_out(Some(DESCRIBE_TIMEOUT), call.patience, false)),
        }
    }

    /// The bytes of memory that an instance begins with, if one can be made.
    pub(super) async fn memory_at_start(&self) -> Option<u64> {
        let call = Call::until(Instant::now() + DESCRIBE_TIMEOUT, Arc::clone(&self.network));
        let mut store = self.store(self.denied(&call));
        let clock = store.data().cpu.clone();
        let instantiated = clock.meter(&self.ticker, self.pre.instantiate_async(&mut store));
        tokio::time::timeout_at(call.deadline, instantiated).await.ok()?.ok()?;
        Some(store.data().limiter.memory())
    }

    /// Makes one attempt at an item, with the network outside.
    pub(super) async fn attempt(&self, attempt: &Attempt, reader: Arc<dyn StateReader>) -> Report {
        self.attempt_in(Arc::clone(&self.network), attempt, reader).await
    }

    /// Makes one attempt at an item.
    pub(super) async fn attempt_in(
        &self,
        outside: Arc<dyn Outside>,
        attempt: &Attempt,
        reader: Arc<dyn StateReader>,
    ) -> Report {
        let call = Call::until(attempt.deadline, outside);
        let mut store = self.store(self.granted(&call, attempt, reader));
        let clock = store.data().cpu.clone();
        let headers = pairs(&attempt.item.headers);
        let ending = tokio::select! {
            biased;
            ending = clock.meter(&self.ticker, self.handle(&mut store, guest_item(attempt, &headers))) => ending,
            () = attempt.stop.cancelled() => Ending::Stopped,
            () = tokio::time::sleep_until(attempt.deadline) => Ending::TimedOut,
        };
        let maybe_executed = call.evidence.maybe_executed();
        let outcome = self.outcome(ending, &call, store, attempt.mode);
        let recording = self.recording(&outcome, &call);
        let stderr = call.output.text().map(|text| self.redactor.words(&text));
        Report { outcome, maybe_executed, stderr, digest: None, recording }
    }

    async fn handle(&self, store: &mut Store<HostState>, item: GuestItem<'_>) -> Ending {
        let plugin = match self.pre.instantiate_async(&mut *store).await {
            Ok(plugin) => plugin,
            Err(err) => return Ending::Faulted(Phase::Instantiating, err),
        };
        match plugin.outbox_handler_handler().call_handle(store, item).await {
            Ok(answer) => Ending::Answered(answer),
            Err(err) => Ending::Faulted(Phase::Running, err),
        }
    }

    fn outcome(&self, ending: Ending, call: &Call, store: Store<HostState>, mode: Mode) -> Outcome {
        let failure = match ending {
            Ending::Stopped => return Outcome::Stopped,
            Ending::Answered(Ok(result)) => match self.accept(result, call) {
                Ok(result) => return Outcome::Done { result, writes: self.writes(store.into_data(), mode) },
                Err(failure) => failure,
            },
            Ending::Answered(Err(failure)) => verdict::answered(failure),
            Ending::Faulted(phase, err) => {
                verdict::faulted(&err, phase, &store.data().limiter, call.output.text().as_deref())
            }
            Ending::TimedOut => verdict::timed_out(self.timeout, call.patience, call.evidence.maybe_executed()),
        };
        let message = self.redactor.words(&failure.message);
        let failure = Failure { message, ..failure };
        Outcome::Failed(match call.evidence.denial() {
            Some(denial) => verdict::after_denial(failure, denial, &self.name),
            None => failure,
        })
    }

    /// What the history keeps, unless nothing can keep the item from becoming DONE.
    fn recording(&self, outcome: &Outcome, call: &Call) -> Recording {
        match outcome {
            Outcome::Done { writes, .. } if writes.state.is_empty() && writes.followups.is_empty() => {
                Recording::default()
            }
            _ => call.evidence.recorder.finish(&self.redactor),
        }
    }

    fn accept(&self, result: Option<Vec<u8>>, call: &Call) -> Result<Option<Vec<u8>>, Failure> {
        if call.evidence.has_unanswered_requests() {
            return Err(verdict::unfinished());
        }
        match result {
            Some(bytes) if bytes.len() as u64 > self.limits.result => {
                Err(verdict::oversized(bytes.len(), self.limits.result))
            }
            result => Ok(result),
        }
    }

    fn writes(&self, state: HostState, mode: Mode) -> HostWrites {
        if mode == Mode::Inline {
            return HostWrites { plugin: self.name.clone(), ..HostWrites::default() };
        }
        HostWrites {
            plugin: self.name.clone(),
            state: state.state.into_touches(),
            state_quota: self.limits.state_bytes,
            followups: state.followups.into_items(),
        }
    }

    fn granted(&self, call: &Call, attempt: &Attempt, reader: Arc<dyn StateReader>) -> HostState {
        let access = StateAccess::new(self.grants.state, attempt.mode, self.limits.state_bytes);
        let patience = Instant::now() + attempt.deadline.saturating_duration_since(Instant::now()) / TURN_SHARE;
        let state = StateBuffer::new(&self.name, reader, access).in_turn(Arc::clone(&attempt.turn), patience);
        self.host_state(call, self.limits.cpu, state, Some((&attempt.item, attempt.mode)))
    }

    fn denied(&self, call: &Call) -> HostState {
        let state = StateBuffer::new(&self.name, Arc::new(NoState), StateAccess::Denied);
        self.host_state(call, DESCRIBE_CPU, state, None)
    }

    fn host_state(&self, call: &Call, cpu: Duration, state: StateBuffer, item: Option<(&Item, Mode)>) -> HostState {
        let (grants, evidence) = (Arc::clone(&self.grants), Arc::clone(&call.evidence));
        let followups = Followups::new(grants, evidence, self.limits.followups, item);
        let keys = item.map(|(item, _)| Keys::new(item));
        let (policy, outside) = (Arc::clone(&self.policy), Arc::clone(&call.outside));
        let outgoing = Outgoing::new(policy, Arc::clone(&outside), keys, Arc::clone(&call.evidence), call.deadline);
        let parts = Parts {
            cpu: CpuClock::new(cpu),
            state,
            followups,
            outgoing,
            output: call.output.clone(),
            evidence: Arc::clone(&call.evidence),
            outside,
            config: Arc::clone(&self.config),
        };
        HostState::new(&self.limits, parts)
    }

    fn store(&self, state: HostState) -> Store<HostState> {
        let mut store = Store::new(self.engine(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(HOST_CALL_MAX);
        store.set_max_component_handles(COMPONENT_HANDLES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(look_at_the_clock);
        store
    }

    fn engine(&self) -> &Engine {
        self.pre.engine()
    }
}

/// Ends a guest that has computed for too long, and lets others run beside one that may go on.
#[expect(clippy::needless_pass_by_value, reason = "the engine calls it so")]
fn look_at_the_clock(store: StoreContextMut<'_, HostState>) -> wasmtime::Result<UpdateDeadline> {
    store.data().cpu.check()?;
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

/// Stands where there is no item, and so no state.
struct NoState;

#[async_trait::async_trait]
impl StateReader for NoState {
    async fn read(&self, plugin: &str, key: &str) -> anyhow::Result<(Option<Vec<u8>>, crate::item::StateVersion)> {
        anyhow::bail!("{plugin} has no state to read {key:?} from while it is described")
    }
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The item as the guest sees it. Nothing is copied before it is copied into the guest's memory.
fn guest_item<'a>(attempt: &'a Attempt, headers: &'a [(&'a str, &'a str)]) -> GuestItem<'a> {
    let item = &attempt.item;
    let millis = |millis: i64| u64::try_from(millis).unwrap_or(0);
    GuestItem {
        id: millis(item.id),
        type_: &item.item_type,
        idem_key: &item.idem_key,
        cid: &item.cid,
        saga: item.saga.as_deref(),
        ordering_key: item.ordering_key.as_deref(),
        attempt: item.attempts,
        maybe_executed: item.maybe_executed,
        payload: &item.payload,
        content_type: &item.content_type,
        headers,
        created_at: millis(item.created_at),
        deadline: millis(attempt.deadline_at),
        attributes: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::outgoing::SystemResolver;
    use super::super::signature::TrustedKeys;
    use super::*;
    use crate::item::{Class, NewItem, Status};
    use crate::plugin::load::{Generation, Loader, Source};

    fn item() -> Item {
        let item = NewItem { cid: Some("cid".into()), ..NewItem::new("t", "key", "{}") }.enqueued(1, 0);
        Item { status: Status::Claimed, attempts: 1, deliveries: 1, ..item }
    }

    fn attempt(patience: Duration) -> Attempt {
        Attempt {
            item: Arc::new(item()),
            deadline: Instant::now() + patience,
            deadline_at: 1,
            mode: Mode::Durable,
            stop: tokio_util::sync::CancellationToken::new(),
            turn: Arc::default(),
        }
    }

    /// A component that computes for ever, on these terms.
    fn looping(manifest: &str) -> Source {
        let words =
            [("{types}", r"\08\02\00\00\01\00\00\00t"), ("{count}", r"\01"), ("{memory}", "1"), ("{version}", "0.1.0")];
        let describe = ("{describe}", "(i32.const 8)");
        let handle = ("{handle}", "(loop $again (br $again)) unreachable");
        let blank = ["{imports}", "{core}", "{with}"].map(|word| (word, ""));
        let text = words
            .into_iter()
            .chain([describe, handle])
            .chain(blank)
            .fold(include_str!("../../../tests/wat/handler.wat").to_owned(), |text, (word, replacement)| {
                text.replace(word, replacement)
            });
        Source {
            name: "p".to_owned(),
            role: None,
            file: "p.wasm".into(),
            wasm: Arc::new(wat::parse_str(text).unwrap()),
            digest: "d".to_owned(),
            manifest: Some(manifest.to_owned()),
            signature: None,
        }
    }

    async fn generation(slots: usize, source: Source) -> Generation {
        let runtime = Runtime::new(slots, Arc::new(SystemResolver)).unwrap();
        Arc::new(Loader::new(runtime, None, Arc::new(|_| None), TrustedKeys::default())).load(source).await.unwrap()
    }

    #[tokio::test]
    async fn a_guest_that_computes_after_a_time_of_rest_is_interrupted_too() {
        let generation = generation(1, looping("limits.cpu = '20ms'")).await;
        for burst in 0..3 {
            while !generation.program.ticker.rests() {
                tokio::task::yield_now().await;
            }
            let report = generation.program.attempt(&attempt(Duration::from_secs(20)), Arc::new(NoState)).await;
            let failed = |class| matches!(&report.outcome, Outcome::Failed(failure) if failure.class == class);
            assert!(failed(Class::Cpu), "burst {burst}: {report:?}");
        }
    }

    #[tokio::test]
    async fn an_attempt_that_finds_the_pool_of_instances_empty_is_given_back() {
        let generation = generation(0, looping("limits.cpu = '60s'")).await;
        let attempts: Vec<_> = (0..20).map(|_| attempt(Duration::from_millis(500))).collect();
        let running = attempts.iter().map(|attempt| generation.program.attempt(attempt, Arc::new(NoState)));
        let reports = futures_util::future::join_all(running).await;
        let classes: Vec<_> = reports.into_iter().map(|report| report.outcome).collect();
        let of = |class| {
            let is = |outcome: &&Outcome| matches!(outcome, Outcome::Failed(failure) if failure.class == class);
            classes.iter().filter(is).count()
        };
        assert_eq!((of(Class::Timeout), of(Class::Host)), (8, 12), "{classes:?}");
    }
}
