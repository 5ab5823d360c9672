//! What one attempt's store holds: everything that a guest can reach of the host, and nothing else.
//!
//! The world of `wasi:cli` and its kin is there because language libraries import it, and it is empty:
//! no files, no variables, no arguments, no sockets, no names.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::bindings;
use crate::bindings::wasi::config::store as config;
use crate::bindings::wasi::logging::logging;
use crate::bindings::wasi::logging::logging::Level;
use crate::load::manifest::limits::Limits;
use crate::load::manifest::value::show_size;
use crate::outgoing::backend::HostBackend;
use crate::outgoing::policy::OutgoingHttp;
use crate::sandbox::cpu_meter::CpuMeter;
use crate::sandbox::followups::Followups;
use crate::sandbox::limiter::{HANDLES_MAX, HEADERS_MAX, Limiter, RANDOM_MAX};
use crate::sandbox::observations::AttemptObservations;
use crate::sandbox::output::OutputTail;
use crate::sandbox::state_buffer::StateBuffer;
use crate::simulation::virtual_clock::VirtualTimers;
use outbox_core::StateReadError;

/// Bytes of one log line; what is longer is cut.
const LOG_LINE_MAX: usize = 4 << 10;
/// Bytes of the log lines of one attempt that reach the host's own log.
const LOG_MAX: usize = 64 << 10;

/// Something that the host could not do for a guest. It ends the attempt; the guest never sees it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostError(pub StateReadError);

/// The data of one attempt's store.
pub(crate) struct HostState {
    pub(crate) limiter: Limiter,
    pub(crate) cpu: CpuMeter,
    pub(crate) state: StateBuffer,
    pub(crate) followups: Followups,
    pub(crate) output: OutputTail,
    pub(crate) observations: Arc<AttemptObservations>,
    pub(crate) backend: Arc<dyn HostBackend>,
    config: Arc<BTreeMap<String, String>>,
    logged_bytes: usize,
    outgoing: OutgoingHttp,
    table: ResourceTable,
    // Built on first use: many handlers never ask, and it costs a twentieth of a small attempt.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
}

/// What makes up a [`HostState`].
pub(crate) struct HostStateParts {
    pub(crate) cpu: CpuMeter,
    pub(crate) state: StateBuffer,
    pub(crate) followups: Followups,
    pub(crate) outgoing: OutgoingHttp,
    pub(crate) output: OutputTail,
    pub(crate) observations: Arc<AttemptObservations>,
    pub(crate) backend: Arc<dyn HostBackend>,
    pub(crate) config: Arc<BTreeMap<String, String>>,
}

impl HostState {
    /// The state of a store that nothing has happened in yet.
    pub(crate) fn new(limits: &Limits, parts: HostStateParts) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADERS_MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let HostStateParts { cpu, state, followups, outgoing, output, observations, backend, config } = parts;
        Self {
            limiter: Limiter::new(limits),
            cpu,
            state,
            followups,
            output,
            observations,
            backend,
            config,
            logged_bytes: 0,
            outgoing,
            table,
            wasi: None,
            http,
        }
    }
}

/// Links everything that the host offers, granted or not: what a manifest does not grant is refused
/// when the component is loaded.
pub(crate) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    config::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    logging::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    bindings::outbox::handler::state::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    bindings::outbox::handler::followups::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (output, backend) = (&self.output, &*self.backend);
        let ctx = self.wasi.get_or_insert_with(|| empty_wasi(output, backend));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

fn empty_wasi(output: &OutputTail, backend: &dyn HostBackend) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.stdout(output.clone()).stderr(output.clone()).max_random_size(RANDOM_MAX);
    if let Some(virtual_clock) = backend.virtual_clock() {
        virtual_clock.install(&mut wasi);
    }
    wasi.build()
}

impl WasiHttpView for HostState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

impl config::Host for HostState {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        Ok(Ok(self.config.get(&key).cloned()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        Ok(Ok(self.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}

impl logging::Host for HostState {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        let context = if context.is_empty() { context } else { format!("{context}: ") };
        let mut line = format!("{} {context}{message}", level_name(level));
        line.truncate(line.floor_char_boundary(LOG_LINE_MAX));
        self.forward_to_log(&line);
        line.push('\n');
        self.output.push(line.as_bytes());
        Ok(())
    }
}

impl HostState {
    /// What the timers of a simulation are made with.
    pub(crate) fn virtual_timers(&mut self) -> VirtualTimers<'_> {
        VirtualTimers { backend: &self.backend, table: &mut self.table }
    }

    /// Writes a line to the host's log, until the attempt has written its share.
    fn forward_to_log(&mut self, line: &str) {
        let had_room = self.logged_bytes <= LOG_MAX;
        self.logged_bytes = self.logged_bytes.saturating_add(line.len());
        if self.logged_bytes <= LOG_MAX {
            tracing::debug!(target: "outbox::plugin::log", "{line}");
        } else if had_room {
            let most = show_size(LOG_MAX as u64);
            tracing::warn!(target: "outbox::plugin::log", "an attempt logs more than {most}: the rest is left out");
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Trace => "TRACE",
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
        Level::Critical => "CRITICAL",
    }
}
