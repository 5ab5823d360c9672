//! The data of one attempt's store: the parts of the host that the attempt's guest can reach through host functions.
//!
//! It only holds the parts. The functions that a guest calls are in `host_functions`.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpCtx;

use crate::load::manifest::limits::Limits;
use crate::outgoing::backend::HostBackend;
use crate::outgoing::policy::OutgoingHttp;
use crate::sandbox::cpu_meter::CpuMeter;
use crate::sandbox::fixed_limits::{HANDLES_MAX, HEADERS_MAX};
use crate::sandbox::followups::Followups;
use crate::sandbox::guest_log::GuestLog;
use crate::sandbox::limiter::Limiter;
use crate::sandbox::observations::AttemptObservations;
use crate::sandbox::output::OutputTail;
use crate::sandbox::state_buffer::StateBuffer;

/// The data of one attempt's store.
pub(crate) struct HostState {
    pub(crate) limiter: Limiter,
    pub(crate) cpu: CpuMeter,
    pub(crate) state: StateBuffer,
    pub(crate) followups: Followups,
    pub(crate) outgoing: OutgoingHttp,
    pub(crate) output: OutputTail,
    pub(crate) log: GuestLog,
    pub(crate) observations: Arc<AttemptObservations>,
    pub(crate) backend: Arc<dyn HostBackend>,
    pub(crate) config: Arc<BTreeMap<String, String>>,
    /// The host's things that the guest has handles of.
    pub(crate) table: ResourceTable,
    /// Built on first use: many handlers never need it, and it costs a twentieth of a small attempt.
    pub(crate) wasi: Option<WasiCtx>,
    pub(crate) http: WasiHttpCtx,
}

/// The parts of a [`HostState`] that differ between attempts.
pub(crate) struct HostStateParts {
    pub(crate) cpu: CpuMeter,
    pub(crate) state: StateBuffer,
    pub(crate) followups: Followups,
    pub(crate) outgoing: OutgoingHttp,
    pub(crate) output: OutputTail,
    pub(crate) log: GuestLog,
    pub(crate) observations: Arc<AttemptObservations>,
    pub(crate) backend: Arc<dyn HostBackend>,
    pub(crate) config: Arc<BTreeMap<String, String>>,
}

impl HostState {
    /// The data of a store before the guest has run.
    pub(crate) fn new(limits: &Limits, parts: HostStateParts) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADERS_MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let HostStateParts { cpu, state, followups, outgoing, output, log, observations, backend, config } = parts;
        Self {
            limiter: Limiter::new(limits),
            cpu,
            state,
            followups,
            output,
            log,
            observations,
            backend,
            config,
            outgoing,
            table,
            wasi: None,
            http,
        }
    }
}
