//! One call of a component: a fresh store, its limits, its deadline, and what came of it.
//!
//! Promises: nothing survives a call except what the report says; a guest that computes is interrupted
//! by the epoch and one that waits by a timer; every way to end is an outcome, never an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};

use crate::bindings::PluginPre;
use crate::bindings::exports::outbox::handler::handler::Description;
use crate::bindings::outbox::handler::types::{Failure as GuestFailure, Item as GuestItem};
use crate::load::manifest::Manifest;
use crate::load::manifest::limits::Limits;
use crate::outgoing::backend::HostBackend;
use crate::outgoing::grant::Grants;
use crate::outgoing::host_headers::OutgoingKeys;
use crate::outgoing::network::Network;
use crate::outgoing::policy::{OutgoingHttp, OutgoingPolicy};
use crate::outgoing::redact::Redactor;
use crate::sandbox::cpu_meter::CpuMeter;
use crate::sandbox::engine::SharedEngine;
use crate::sandbox::epoch_ticker::Ticker;
use crate::sandbox::failure_mapping;
use crate::sandbox::failure_mapping::Phase;
use crate::sandbox::followups::Followups;
use crate::sandbox::host_state::{HostState, HostStateParts};
use crate::sandbox::limiter::{COMPONENT_HANDLES_MAX, HOST_CALL_MAX};
use crate::sandbox::observations::AttemptObservations;
use crate::sandbox::output::OutputTail;
use crate::sandbox::state_buffer::{StateAccess, StateBuffer};
use outbox_core::{Attempt, AttemptReport, DeliveryMode, Failure, HostWrites, Outcome, Recording, StateReader};
use outbox_item::Item;

/// An attempt waits for locks of contended state keys for at most this part of its time: a quarter.
const LOCK_WAIT_DIVISOR: u32 = 4;
/// A component must be able to say what it is without doing anything.
pub(crate) const DESCRIBE_CPU: Duration = Duration::from_secs(1);
/// Longer, so that a busy host is not held against a component.
pub(crate) const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A compiled component, linked, with the terms on which it runs.
pub(crate) struct LinkedPlugin {
    name: String,
    pre: PluginPre<HostState>,
    timeout: Option<Duration>,
    limits: Limits,
    grants: Arc<Grants>,
    policy: Arc<OutgoingPolicy>,
    network: Arc<dyn HostBackend>,
    redactor: Redactor,
    config: Arc<BTreeMap<String, String>>,
    ticker: Arc<Ticker>,
}

type GuestResult = Result<Option<Vec<u8>>, GuestFailure>;

enum CallEnd {
    Returned(GuestResult),
    EngineError(Phase, wasmtime::Error),
    TimedOut,
    Interrupted,
}

/// What the host keeps of a running call beside its store.
struct CallContext {
    observations: Arc<AttemptObservations>,
    output: OutputTail,
    deadline: Instant,
    time_allowed: Duration,
    backend: Arc<dyn HostBackend>,
}

impl CallContext {
    fn with_deadline(deadline: Instant, backend: Arc<dyn HostBackend>) -> Self {
        let time_allowed = deadline.saturating_duration_since(Instant::now());
        Self { observations: Arc::default(), output: OutputTail::default(), deadline, time_allowed, backend }
    }
}

impl LinkedPlugin {
    /// A plugin that runs on the manifest's terms.
    pub(crate) fn new(name: &str, pre: PluginPre<HostState>, manifest: &Manifest, engine: &SharedEngine) -> Self {
        let grants = Arc::new(manifest.grants.clone());
        Self {
            name: name.to_owned(),
            pre,
            timeout: manifest.timeout,
            limits: manifest.limits.clone(),
            policy: Arc::new(OutgoingPolicy::new(Arc::clone(&grants), manifest.limits.clone())),
            network: Arc::new(Network::new(Arc::clone(&grants), Arc::clone(&engine.resolver))),
            redactor: Redactor::new(&grants),
            grants,
            config: Arc::new(manifest.config.clone()),
            ticker: Arc::clone(&engine.ticker),
        }
    }

    /// Asks the component what it is, with everything denied.
    pub(crate) async fn describe(&self) -> Result<Description, Failure> {
        let call = CallContext::with_deadline(Instant::now() + DESCRIBE_TIMEOUT, Arc::clone(&self.network));
        let mut store = self.store(self.state_for_describe(&call));
        let cpu = store.data().cpu.clone();
        let described = async {
            let plugin = self.pre.instantiate_async(&mut store).await.map_err(|err| (Phase::Instantiating, err))?;
            let guest = plugin.outbox_handler_handler();
            guest.call_describe(&mut store).await.map_err(|err| (Phase::Running, err))
        };
        match tokio::time::timeout_at(call.deadline, cpu.measure(&self.ticker, described)).await {
            Ok(Ok(description)) => Ok(description),
            Ok(Err((phase, err))) => Err(failure_mapping::from_engine_error(
                &err,
                phase,
                &store.data().limiter,
                call.output.text().as_deref(),
            )),
            Err(_) => Err(failure_mapping::timed_out(Some(DESCRIBE_TIMEOUT), call.time_allowed, false)),
        }
    }

    /// The bytes of memory that an instance begins with, if one can be made.
    pub(crate) async fn memory_at_start(&self) -> Option<u64> {
        let call = CallContext::with_deadline(Instant::now() + DESCRIBE_TIMEOUT, Arc::clone(&self.network));
        let mut store = self.store(self.state_for_describe(&call));
        let cpu = store.data().cpu.clone();
        let instantiated = cpu.measure(&self.ticker, self.pre.instantiate_async(&mut store));
        tokio::time::timeout_at(call.deadline, instantiated).await.ok()?.ok()?;
        Some(store.data().limiter.memory())
    }

    /// Makes one attempt at an item, against the network.
    pub(crate) async fn attempt(&self, attempt: &Attempt, reader: Arc<dyn StateReader>) -> AttemptReport {
        self.attempt_with(Arc::clone(&self.network), attempt, reader).await
    }

    /// Makes one attempt at an item, against any backend.
    pub(crate) async fn attempt_with(
        &self,
        backend: Arc<dyn HostBackend>,
        attempt: &Attempt,
        reader: Arc<dyn StateReader>,
    ) -> AttemptReport {
        let call = CallContext::with_deadline(attempt.deadline, backend);
        let mut store = self.store(self.state_for_attempt(&call, attempt, reader));
        let cpu = store.data().cpu.clone();
        let headers = header_pairs(&attempt.item.headers);
        let end = tokio::select! {
            biased;
            end = cpu.measure(&self.ticker, self.handle(&mut store, guest_item(attempt, &headers))) => end,
            () = attempt.stop.cancelled() => CallEnd::Interrupted,
            () = tokio::time::sleep_until(attempt.deadline) => CallEnd::TimedOut,
        };
        let maybe_executed = call.observations.maybe_executed();
        let outcome = self.outcome(end, &call, store, attempt.mode);
        let recording = self.recording(&outcome, &call);
        let stderr = call.output.text().map(|text| self.redactor.redact_output(&text));
        AttemptReport { outcome, maybe_executed, stderr, digest: None, recording }
    }

    async fn handle(&self, store: &mut Store<HostState>, item: GuestItem<'_>) -> CallEnd {
        let plugin = match self.pre.instantiate_async(&mut *store).await {
            Ok(plugin) => plugin,
            Err(err) => return CallEnd::EngineError(Phase::Instantiating, err),
        };
        match plugin.outbox_handler_handler().call_handle(store, item).await {
            Ok(answer) => CallEnd::Returned(answer),
            Err(err) => CallEnd::EngineError(Phase::Running, err),
        }
    }

    fn outcome(&self, end: CallEnd, call: &CallContext, store: Store<HostState>, mode: DeliveryMode) -> Outcome {
        let failure = match end {
            CallEnd::Interrupted => return Outcome::Interrupted,
            CallEnd::Returned(Ok(result)) => match self.check_result(result, call) {
                Ok(result) => return Outcome::Done { result, writes: self.host_writes(store.into_data(), mode) },
                Err(failure) => failure,
            },
            CallEnd::Returned(Err(failure)) => failure_mapping::from_guest_failure(failure),
            CallEnd::EngineError(phase, err) => {
                failure_mapping::from_engine_error(&err, phase, &store.data().limiter, call.output.text().as_deref())
            }
            CallEnd::TimedOut => {
                failure_mapping::timed_out(self.timeout, call.time_allowed, call.observations.maybe_executed())
            }
        };
        let message = self.redactor.redact_output(&failure.message);
        let failure = Failure { message, ..failure };
        Outcome::Failed(match call.observations.denial() {
            Some(denial) => failure_mapping::after_denial(failure, denial, &self.name),
            None => failure,
        })
    }

    /// What the history keeps, unless nothing can keep the item from becoming DONE.
    fn recording(&self, outcome: &Outcome, call: &CallContext) -> Recording {
        match outcome {
            Outcome::Done { writes, .. } if writes.state.is_empty() && writes.followups.is_empty() => {
                Recording::default()
            }
            _ => call.observations.recorder.finish(&self.redactor),
        }
    }

    fn check_result(&self, result: Option<Vec<u8>>, call: &CallContext) -> Result<Option<Vec<u8>>, Failure> {
        if call.observations.has_unanswered_requests() {
            return Err(failure_mapping::requests_in_flight());
        }
        match result {
            Some(bytes) if bytes.len() as u64 > self.limits.result => {
                Err(failure_mapping::result_too_large(bytes.len(), self.limits.result))
            }
            result => Ok(result),
        }
    }

    fn host_writes(&self, state: HostState, mode: DeliveryMode) -> HostWrites {
        if mode == DeliveryMode::Inline {
            return HostWrites { plugin: self.name.clone(), ..HostWrites::default() };
        }
        HostWrites {
            plugin: self.name.clone(),
            state: state.state.into_changes(),
            state_quota: self.limits.state_bytes,
            followups: state.followups.into_items(),
        }
    }

    fn state_for_attempt(&self, call: &CallContext, attempt: &Attempt, reader: Arc<dyn StateReader>) -> HostState {
        let access = StateAccess::new(self.grants.state, attempt.mode, self.limits.state_bytes);
        let lock_deadline =
            Instant::now() + attempt.deadline.saturating_duration_since(Instant::now()) / LOCK_WAIT_DIVISOR;
        let state = StateBuffer::new(&self.name, reader, access).with_locks(Arc::clone(&attempt.locks), lock_deadline);
        self.host_state(call, self.limits.cpu, state, Some((&attempt.item, attempt.mode)))
    }

    fn state_for_describe(&self, call: &CallContext) -> HostState {
        let state = StateBuffer::new(&self.name, Arc::new(NoState), StateAccess::Denied);
        self.host_state(call, DESCRIBE_CPU, state, None)
    }

    fn host_state(
        &self,
        call: &CallContext,
        cpu: Duration,
        state: StateBuffer,
        item: Option<(&Item, DeliveryMode)>,
    ) -> HostState {
        let (grants, observations) = (Arc::clone(&self.grants), Arc::clone(&call.observations));
        let followups = Followups::new(grants, observations, self.limits.followups, item);
        let keys = item.map(|(item, _)| OutgoingKeys::new(item));
        let (policy, backend) = (Arc::clone(&self.policy), Arc::clone(&call.backend));
        let outgoing =
            OutgoingHttp::new(policy, Arc::clone(&backend), keys, Arc::clone(&call.observations), call.deadline);
        let parts = HostStateParts {
            cpu: CpuMeter::new(cpu),
            state,
            followups,
            outgoing,
            output: call.output.clone(),
            observations: Arc::clone(&call.observations),
            backend,
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
        store.epoch_deadline_callback(on_epoch_tick);
        store
    }

    fn engine(&self) -> &Engine {
        self.pre.engine()
    }
}

/// Ends a guest that has computed for too long, and lets others run beside one that may go on.
#[expect(clippy::needless_pass_by_value, reason = "the engine calls it so")]
fn on_epoch_tick(store: StoreContextMut<'_, HostState>) -> wasmtime::Result<UpdateDeadline> {
    store.data().cpu.check()?;
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

/// Stands where there is no item, and so no state.
struct NoState;

#[async_trait::async_trait]
impl StateReader for NoState {
    async fn read(
        &self,
        plugin: &str,
        key: &str,
    ) -> Result<(Option<Vec<u8>>, outbox_core::StateVersion), outbox_core::StateReadError> {
        Err(outbox_core::StateReadError::new(format!(
            "{plugin} has no state to read {key:?} from while it is described"
        )))
    }
}

fn header_pairs(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The item as the guest sees it. Nothing is copied before it is copied into the guest's memory.
fn guest_item<'a>(attempt: &'a Attempt, headers: &'a [(&'a str, &'a str)]) -> GuestItem<'a> {
    let item = &attempt.item;
    let unsigned = |millis: i64| u64::try_from(millis).unwrap_or(0);
    GuestItem {
        id: unsigned(item.id),
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
        created_at: unsigned(item.created_at),
        deadline: unsigned(attempt.deadline_at),
        attributes: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::loader::{Generation, Loader, PluginSource};
    use crate::load::signature::TrustedKeys;
    use crate::outgoing::resolve::SystemResolver;
    use outbox_core::FailureClass;
    use outbox_item::{NewItem, Status};

    fn item() -> Item {
        let item = NewItem { cid: Some("cid".into()), ..NewItem::new("t", "key", "{}") }.into_item(1, 0);
        Item { status: Status::Claimed, attempts: 1, deliveries: 1, ..item }
    }

    fn attempt(time_allowed: Duration) -> Attempt {
        Attempt {
            item: Arc::new(item()),
            deadline: Instant::now() + time_allowed,
            deadline_at: 1,
            mode: DeliveryMode::Durable,
            stop: tokio_util::sync::CancellationToken::new(),
            locks: Arc::default(),
        }
    }

    /// A component that computes for ever, on these terms.
    fn looping(manifest: &str) -> PluginSource {
        let words =
            [("{types}", r"\08\02\00\00\01\00\00\00t"), ("{count}", r"\01"), ("{memory}", "1"), ("{version}", "0.1.0")];
        let describe = ("{describe}", "(i32.const 8)");
        let handle = ("{handle}", "(loop $again (br $again)) unreachable");
        let blank = ["{imports}", "{core}", "{with}"].map(|word| (word, ""));
        let text = words
            .into_iter()
            .chain([describe, handle])
            .chain(blank)
            .fold(include_str!("../../../../tests/wat/handler.wat").to_owned(), |text, (word, replacement)| {
                text.replace(word, replacement)
            });
        PluginSource {
            name: "p".to_owned(),
            role: None,
            file: "p.wasm".into(),
            wasm: Arc::new(wat::parse_str(text).unwrap()),
            digest: "d".to_owned(),
            manifest: Some(manifest.to_owned()),
            signature: None,
        }
    }

    async fn generation(slots: usize, source: PluginSource) -> Generation {
        let engine = SharedEngine::new(slots, Arc::new(SystemResolver)).unwrap();
        Arc::new(Loader::new(engine, None, Arc::new(|_| None), TrustedKeys::default())).load(source).await.unwrap()
    }

    #[tokio::test]
    async fn a_guest_that_computes_after_a_time_of_rest_is_interrupted_too() {
        let generation = generation(1, looping("limits.cpu = '20ms'")).await;
        for burst in 0..3 {
            while !generation.plugin.ticker.is_idle() {
                tokio::task::yield_now().await;
            }
            let report = generation.plugin.attempt(&attempt(Duration::from_secs(20)), Arc::new(NoState)).await;
            let failed = |class| matches!(&report.outcome, Outcome::Failed(failure) if failure.class == class);
            assert!(failed(FailureClass::Cpu), "burst {burst}: {report:?}");
        }
    }

    #[tokio::test]
    async fn an_attempt_that_finds_the_pool_of_instances_empty_is_given_back() {
        let generation = generation(0, looping("limits.cpu = '60s'")).await;
        let attempts: Vec<_> = (0..20).map(|_| attempt(Duration::from_millis(500))).collect();
        let running = attempts.iter().map(|attempt| generation.plugin.attempt(attempt, Arc::new(NoState)));
        let reports = futures_util::future::join_all(running).await;
        let classes: Vec<_> = reports.into_iter().map(|report| report.outcome).collect();
        let of = |class| {
            let is = |outcome: &&Outcome| matches!(outcome, Outcome::Failed(failure) if failure.class == class);
            classes.iter().filter(is).count()
        };
        assert_eq!((of(FailureClass::Timeout), of(FailureClass::Host)), (8, 12), "{classes:?}");
    }
}
