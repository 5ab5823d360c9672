//! One call of a component: a fresh store, its limits, its deadline, and its outcome.
//!
//! Nothing survives a call except what its report contains. The epoch interrupts a guest that computes, and a
//! timer interrupts a guest that waits. Every end of a call is an outcome, never an error. `failure_mapping` decides
//! what an error of the engine means for the item.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};

use outbox_core::{
    Attempt, AttemptOrigins, AttemptReport, DeliveryMode, Failure, HostWrites, Outcome, Recording, StateReader,
    TracedAttempt,
};
use outbox_item::Item;

use crate::bindings::PluginPre;
use crate::bindings::exports::outbox::handler::handler::Description;
use crate::bindings::outbox::handler::types::{Failure as GuestFailure, Item as GuestItem};
use crate::load::manifest::Manifest;
use crate::load::manifest::limits::Limits;
use crate::load::manifest::types::TypeNames;
use crate::outgoing::backend::HostBackend;
use crate::outgoing::grant::Grants;
use crate::outgoing::host_headers::HostHeaders;
use crate::outgoing::network::Network;
use crate::outgoing::policy::{OutgoingHttp, OutgoingPolicy};
use crate::outgoing::redact::Redactor;
use crate::sandbox::cpu_meter::{CpuMeter, CpuTotal};
use crate::sandbox::engine::SharedEngine;
use crate::sandbox::epoch_ticker::Ticker;
use crate::sandbox::failure_mapping;
use crate::sandbox::failure_mapping::Phase;
use crate::sandbox::fixed_limits::{COMPONENT_HANDLES_MAX, HOST_CALL_MAX};
use crate::sandbox::followups::Followups;
use crate::sandbox::guest_log::GuestLog;
use crate::sandbox::host_state::{HostState, HostStateParts};
use crate::sandbox::observations::{AttemptObservations, SideEffects};
use crate::sandbox::output::OutputTail;
use crate::sandbox::state_buffer::{StateAccess, StateBuffer};

/// An attempt waits for the locks of contended state keys for at most a quarter of its time, so that it can still run.
const LOCK_WAIT_DIVISOR: u32 = 4;
/// The CPU time of a description. A component describes itself without doing anything else.
pub(crate) const DESCRIBE_CPU: Duration = Duration::from_secs(1);
/// The time limit of a description: much longer than the CPU time, because the machine may be busy.
pub(crate) const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(15);

/// A compiled and linked component with its manifest.
pub(crate) struct LinkedPlugin {
    name: Arc<str>,
    pre: PluginPre<HostState>,
    timeout: Option<Duration>,
    limits: Limits,
    grants: Arc<Grants>,
    policy: Arc<OutgoingPolicy>,
    network: Arc<dyn HostBackend>,
    redactor: Redactor,
    /// What the types of items are for the component, where they differ.
    types: TypeNames,
    config: Arc<BTreeMap<String, String>>,
    ticker: Arc<Ticker>,
    /// Of its attempts.
    pub(crate) cpu_total: CpuTotal,
}

type GuestResult = Result<Option<Vec<u8>>, GuestFailure>;

enum CallEnd {
    Returned(GuestResult),
    EngineError(Phase, wasmtime::Error),
    TimedOut,
    Interrupted,
}

/// What the host needs of a call after its store is gone.
struct CallContext {
    observations: Arc<AttemptObservations>,
    output: OutputTail,
    deadline: Instant,
    time_allowed: Duration,
    backend: Arc<dyn HostBackend>,
    trace: Option<Arc<TracedAttempt>>,
}

impl CallContext {
    fn with_deadline(deadline: Instant, backend: Arc<dyn HostBackend>) -> Self {
        let time_allowed = deadline.saturating_duration_since(Instant::now());
        let (observations, output) = (Arc::default(), OutputTail::default());
        Self { observations, output, deadline, time_allowed, backend, trace: None }
    }

    fn with_breakers(self, origins: Option<AttemptOrigins>) -> Self {
        Self { observations: Arc::new(AttemptObservations::with_breakers(origins)), ..self }
    }
}

impl LinkedPlugin {
    /// A plugin that runs as the manifest says.
    pub(crate) fn new(name: &str, pre: PluginPre<HostState>, manifest: &Manifest, engine: &SharedEngine) -> Self {
        let grants = Arc::new(manifest.grants.clone());
        Self {
            name: name.into(),
            pre,
            timeout: manifest.timeout,
            limits: manifest.limits.clone(),
            policy: Arc::new(OutgoingPolicy::new(Arc::clone(&grants), manifest.limits.clone())),
            network: Arc::new(Network::new(Arc::clone(&grants), Arc::clone(&engine.resolver), &engine.tls)),
            redactor: Redactor::new(&grants),
            types: manifest.types.clone().unwrap_or_default(),
            grants,
            config: Arc::new(manifest.config.clone()),
            ticker: Arc::clone(&engine.ticker),
            cpu_total: CpuTotal::default(),
        }
    }

    /// Calls the component's `describe`, with everything denied.
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
            Err(_) => Err(failure_mapping::timed_out(Some(DESCRIBE_TIMEOUT), call.time_allowed, SideEffects::None)),
        }
    }

    /// The bytes of memory that an instance begins with; `None` if it cannot be created.
    pub(crate) async fn memory_at_start(&self) -> Option<u64> {
        let call = CallContext::with_deadline(Instant::now() + DESCRIBE_TIMEOUT, Arc::clone(&self.network));
        let mut store = self.store(self.state_for_describe(&call));
        let cpu = store.data().cpu.clone();
        let instantiated = cpu.measure(&self.ticker, self.pre.instantiate_async(&mut store));
        tokio::time::timeout_at(call.deadline, instantiated).await.ok()?.ok()?;
        Some(store.data().limiter.memory())
    }

    /// Makes one attempt at an item, against the network, through the breakers if there are any.
    pub(crate) async fn attempt(
        &self,
        attempt: &Attempt,
        reader: Arc<dyn StateReader>,
        origins: Option<AttemptOrigins>,
    ) -> AttemptReport {
        let call = CallContext::with_deadline(attempt.deadline, Arc::clone(&self.network)).with_breakers(origins);
        let call = CallContext { trace: attempt.trace.clone(), ..call };
        self.run(call, attempt, reader).await
    }

    /// Makes one attempt at an item, against any backend.
    pub(crate) async fn attempt_with(
        &self,
        backend: Arc<dyn HostBackend>,
        attempt: &Attempt,
        reader: Arc<dyn StateReader>,
    ) -> AttemptReport {
        self.run(CallContext::with_deadline(attempt.deadline, backend), attempt, reader).await
    }

    async fn run(&self, call: CallContext, attempt: &Attempt, reader: Arc<dyn StateReader>) -> AttemptReport {
        let mut store = self.store(self.state_for_attempt(&call, attempt, reader));
        let cpu = store.data().cpu.clone();
        let headers = header_pairs(&attempt.item.headers);
        let end = tokio::select! {
            biased;
            end = cpu.measure(&self.ticker, self.handle(&mut store, guest_item(attempt, &headers, &self.types))) => end,
            () = attempt.stop.cancelled() => CallEnd::Interrupted,
            () = tokio::time::sleep_until(attempt.deadline) => CallEnd::TimedOut,
        };
        self.cpu_total.add(&cpu);
        let maybe_executed = call.observations.side_effects() == SideEffects::Possible;
        let outcome = call.observations.after_breakers(self.outcome(end, &call, store, attempt.mode));
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
                Ok(result) => {
                    let writes = self.redactor.writes(self.host_writes(store.into_data(), mode));
                    let result = result.map(|bytes| self.redactor.bytes(bytes));
                    return Outcome::Done { result, writes };
                }
                Err(failure) => failure,
            },
            CallEnd::Returned(Err(failure)) => failure_mapping::from_guest_failure(failure),
            CallEnd::EngineError(phase, err) => {
                failure_mapping::from_engine_error(&err, phase, &store.data().limiter, call.output.text().as_deref())
            }
            CallEnd::TimedOut => {
                failure_mapping::timed_out(self.timeout, call.time_allowed, call.observations.side_effects())
            }
        };
        let failure = match call.observations.network_fault() {
            Some(fault) => failure_mapping::after_network_fault(failure, &fault),
            None => failure,
        };
        let message = self.redactor.redact_output(&failure.message);
        let failure = Failure { message, code: self.redactor.text(&failure.code), ..failure };
        Outcome::Failed(match call.observations.denial() {
            Some(denial) => failure_mapping::after_denial(failure, denial, &self.name),
            None => failure,
        })
    }

    /// The recording for the history. Empty if the attempt can only become DONE, because then the history gets no row.
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
            return HostWrites { plugin: self.name.to_string(), ..HostWrites::default() };
        }
        HostWrites {
            plugin: self.name.to_string(),
            state: state.state.into_changes(),
            state_quota: self.limits.state_bytes,
            followups: state.followups.into_items(),
            descendants_max: Some(self.limits.descendants),
        }
    }

    fn state_for_attempt(&self, call: &CallContext, attempt: &Attempt, reader: Arc<dyn StateReader>) -> HostState {
        let access = StateAccess::new(&self.grants, attempt.mode, self.limits.state_bytes);
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
        item: Option<(&Arc<Item>, DeliveryMode)>,
    ) -> HostState {
        let (grants, observations) = (Arc::clone(&self.grants), Arc::clone(&call.observations));
        let shown = item.map(|(item, mode)| (&**item, mode));
        let traceparent = call.trace.as_ref().and_then(|trace| trace.traceparent());
        let followups = Followups::new(grants, observations, self.limits.followups, shown).called_by(traceparent);
        let is_recorded = call.trace.as_ref().map(|trace| trace.is_recorded());
        let keys = item.map(|(item, _)| HostHeaders::new(item).recorded(is_recorded));
        let (policy, backend) = (Arc::clone(&self.policy), Arc::clone(&call.backend));
        let outgoing =
            OutgoingHttp::new(policy, Arc::clone(&backend), keys, Arc::clone(&call.observations), call.deadline)
                .traced(call.trace.clone());
        let parts = HostStateParts {
            cpu: CpuMeter::new(cpu),
            state,
            followups,
            outgoing,
            output: call.output.clone(),
            log: GuestLog::new(Arc::clone(&self.name), item.map(|(item, _)| item)),
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

/// Ends a guest that has exceeded its CPU time. A guest that may go on yields, so that others can run.
#[expect(clippy::needless_pass_by_value, reason = "the engine calls it so")]
fn on_epoch_tick(store: StoreContextMut<'_, HostState>) -> wasmtime::Result<UpdateDeadline> {
    store.data().cpu.check()?;
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

/// The state reader of a description: it has no item, so it has no state.
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

/// The item as the guest sees it. It borrows everything; the only copy is the one into the guest's memory.
fn guest_item<'a>(attempt: &'a Attempt, headers: &'a [(&'a str, &'a str)], types: &'a TypeNames) -> GuestItem<'a> {
    let item = &attempt.item;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    GuestItem {
        id: unsigned(item.id.get()),
        type_: types.get(&item.item_type).unwrap_or(&item.item_type),
        idem_key: &item.idem_key,
        cid: &item.cid,
        saga: item.saga.as_deref(),
        ordering_key: item.ordering_key.as_deref(),
        attempt: item.attempts,
        maybe_executed: item.maybe_executed,
        payload: &item.payload,
        content_type: &item.content_type,
        headers,
        created_at: unsigned(item.created_at.get()),
        deadline: unsigned(attempt.deadline_at.get()),
        attributes: &[],
    }
}

#[cfg(test)]
mod tests;
