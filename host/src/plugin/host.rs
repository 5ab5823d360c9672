//! What one attempt's store holds: everything that a guest can reach of the host, and nothing else.
//!
//! The world of `wasi:cli` and its kin is there because language libraries import it, and it is empty:
//! no files, no variables, no arguments, no sockets, no names.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::bindings;
use super::bindings::wasi::config::store as config;
use super::bindings::wasi::logging::logging::{self, Level};
use super::cpu::CpuMeter;
use super::evidence::AttemptObservations;
use super::followups::Followups;
use super::lab::VirtualTimers;
use super::limiter::{HANDLES_MAX, HEADERS_MAX, Limiter, RANDOM_MAX};
use super::manifest::{Limits, show_size};
use super::outgoing::OutgoingHttp;
use super::output::OutputTail;
use super::outside::HostBackend;
use super::state::StateBuffer;

/// Bytes of one log line; what is longer is cut.
const LOG_LINE_MAX: usize = 4 << 10;
/// Bytes of the log lines of one attempt that reach the host's own log.
const LOG_MAX: usize = 64 << 10;

/// Something that the host could not do for a guest. It ends the attempt; the guest never sees it.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(super) struct HostError(pub anyhow::Error);

/// The data of one attempt's store.
pub(super) struct HostState {
    pub(super) limiter: Limiter,
    pub(super) cpu: CpuMeter,
    pub(super) state: StateBuffer,
    pub(super) followups: Followups,
    pub(super) output: OutputTail,
    pub(super) observations: Arc<AttemptObservations>,
    pub(super) backend: Arc<dyn HostBackend>,
    config: Arc<BTreeMap<String, String>>,
    logged_bytes: usize,
    outgoing: OutgoingHttp,
    table: ResourceTable,
    // Built on first use: many handlers never ask, and it costs a twentieth of a small attempt.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
}

/// What makes up a [`HostState`].
pub(super) struct HostStateParts {
    pub(super) cpu: CpuMeter,
    pub(super) state: StateBuffer,
    pub(super) followups: Followups,
    pub(super) outgoing: OutgoingHttp,
    pub(super) output: OutputTail,
    pub(super) observations: Arc<AttemptObservations>,
    pub(super) backend: Arc<dyn HostBackend>,
    pub(super) config: Arc<BTreeMap<String, String>>,
}

impl HostState {
    /// The state of a store that nothing has happened in yet.
    pub(super) fn new(limits: &Limits, parts: HostStateParts) -> Self {
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
pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
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
    pub(super) fn virtual_timers(&mut self) -> VirtualTimers<'_> {
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
