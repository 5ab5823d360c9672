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
use super::evidence::Evidence;
use super::followups::Followups;
use super::grant::Grants;
use super::host::{HostState, Parts};
use super::limiter::{COMPONENT_HANDLES_MAX, HOST_CALL_MAX};
use super::manifest::{Limits, Manifest};
use super::outgoing::{Keys, Outgoing, OutgoingPolicy, Resolver};
use super::output::OutputTail;
use super::state::{StateAccess, StateBuffer};
use super::verdict::{self, Phase};
use crate::handler::{Attempt, Mode, Outcome, Report, StateReader};
use crate::item::{Failure, HostWrites, Item};

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
    config: Arc<BTreeMap<String, String>>,
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
}

impl Call {
    fn until(deadline: Instant) -> Self {
        let patience = deadline.saturating_duration_since(Instant::now());
        Self { evidence: Arc::default(), output: OutputTail::default(), deadline, patience }
    }
}

impl Program {
    /// A program that runs on the manifest's terms.
    pub(super) fn new(name: &str, pre: PluginPre<HostState>, manifest: &Manifest, resolver: Arc<dyn Resolver>) -> Self {
        let grants = Arc::new(manifest.grants.clone());
        Self {
            name: name.to_owned(),
            pre,
            timeout: manifest.timeout,
            limits: manifest.limits.clone(),
            policy: Arc::new(OutgoingPolicy::new(Arc::clone(&grants), manifest.limits.clone(), resolver)),
            grants,
            config: Arc::new(manifest.config.clone()),
        }
    }

    /// Asks the component what it is, with everything denied.
    pub(super) async fn describe(&self) -> Result<Description, Failure> {
        let call = Call::until(Instant::now() + DESCRIBE_TIMEOUT);
        let mut store = self.store(self.denied(&call));
        let clock = store.data().cpu.clone();
        let described = async {
            let plugin = self.pre.instantiate_async(&mut store).await.map_err(|err| (Phase::Instantiating, err))?;
            let guest = plugin.outbox_handler_handler();
            guest.call_describe(&mut store).await.map_err(|err| (Phase::Running, err))
        };
        match tokio::time::timeout_at(call.deadline, clock.meter(described)).await {
            Ok(Ok(description)) => Ok(description),
            Ok(Err((phase, err))) => {
                Err(verdict::faulted(&err, phase, &store.data().limiter, call.output.text().as_deref()))
            }
            Err(_) => Err(verdict::timed_out(Some(DESCRIBE_TIMEOUT), call.patience, false)),
        }
    }

    /// The bytes of memory that an instance begins with, if one can be made.
    pub(super) async fn memory_at_start(&self) -> Option<u64> {
        let mut store = self.store(self.denied(&Call::until(Instant::now() + DESCRIBE_TIMEOUT)));
        self.pre.instantiate_async(&mut store).await.ok()?;
        Some(store.data().limiter.memory())
    }

    /// Makes one attempt at an item.
    pub(super) async fn attempt(&self, attempt: &Attempt, reader: Arc<dyn StateReader>) -> Report {
        let call = Call::until(attempt.deadline);
        let mut store = self.store(self.granted(&call, attempt, reader));
        let clock = store.data().cpu.clone();
        let ending = tokio::select! {
            biased;
            ending = clock.meter(self.handle(&mut store, guest_item(attempt))) => ending,
            () = attempt.stop.cancelled() => Ending::Stopped,
            () = tokio::time::sleep_until(attempt.deadline) => Ending::TimedOut,
        };
        let maybe_executed = call.evidence.maybe_executed();
        let outcome = self.outcome(ending, &call, store, attempt.mode);
        Report { outcome, maybe_executed, stderr: call.output.text(), digest: None }
    }

    async fn handle(&self, store: &mut Store<HostState>, item: GuestItem) -> Ending {
        let plugin = match self.pre.instantiate_async(&mut *store).await {
            Ok(plugin) => plugin,
            Err(err) => return Ending::Faulted(Phase::Instantiating, err),
        };
        match plugin.outbox_handler_handler().call_handle(store, &item).await {
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
        Outcome::Failed(match call.evidence.denial() {
            Some(denial) => verdict::after_denial(failure, denial, &self.name),
            None => failure,
        })
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
        let outgoing = Outgoing::new(Arc::clone(&self.policy), keys, Arc::clone(&call.evidence), call.deadline);
        let parts = Parts {
            cpu: CpuClock::new(cpu),
            state,
            followups,
            outgoing,
            output: call.output.clone(),
            evidence: Arc::clone(&call.evidence),
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

fn guest_item(attempt: &Attempt) -> GuestItem {
    let item = &attempt.item;
    let millis = |millis: i64| u64::try_from(millis).unwrap_or(0);
    GuestItem {
        id: millis(item.id),
        type_: item.item_type.clone(),
        idem_key: item.idem_key.clone(),
        cid: item.cid.clone(),
        saga: item.saga.clone(),
        ordering_key: item.ordering_key.clone(),
        attempt: item.attempts,
        maybe_executed: item.maybe_executed,
        payload: item.payload.clone(),
        content_type: item.content_type.clone(),
        headers: item.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        created_at: millis(item.created_at),
        deadline: millis(attempt.deadline_at),
        attributes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outgoing::SystemResolver;
    use super::super::signature::TrustedKeys;
    use super::*;
    use crate::item::{Class, NewItem, Status};
    use crate::plugin::engine::Runtime;
    use crate::plugin::load::{Loader, Source};

    fn item() -> Item {
        let item = NewItem { cid: Some("cid".into()), ..NewItem::new("t", "key", "{}") }.enqueued(1, 0);
        Item { status: Status::Claimed, attempts: 1, deliveries: 1, ..item }
    }

    fn attempt(patience: Duration) -> Attempt {
        Attempt {
            item: item(),
            deadline: Instant::now() + patience,
            deadline_at: 1,
            mode: Mode::Durable,
            stop: tokio_util::sync::CancellationToken::new(),
            turn: Arc::default(),
        }
    }

    fn looping() -> Source {
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
            manifest: Some("limits.cpu = '60s'".to_owned()),
            signature: None,
        }
    }

    #[tokio::test]
    async fn an_attempt_that_finds_the_pool_of_instances_empty_is_given_back() {
        let runtime = Runtime::new(0, Arc::new(SystemResolver)).unwrap();
        let loader = Arc::new(Loader::new(runtime, None, Arc::new(|_| None), TrustedKeys::default()));
        let generation = loader.load(looping()).await.unwrap();
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
