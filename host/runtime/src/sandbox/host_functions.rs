//! The functions of the host that a guest can call: linking, and what [`HostState`] implements of them. The parts of
//! [`HostState`] make the decisions; for outgoing HTTP that is `outgoing::policy`.
//!
//! The interfaces of `wasi:cli` and its relatives are linked because language libraries import them. Behind them
//! nothing is reachable: no files, no variables, no arguments, no sockets, no host names.

use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use outbox_core::StateChange;

use crate::bindings::outbox::handler::{followups, state};
use crate::bindings::wasi::config::store as config;
use crate::bindings::wasi::logging::logging;
use crate::bindings::wasi::logging::logging::Level;
use crate::outgoing::backend::{HostBackend, HostCall};
use crate::sandbox::fixed_limits::RANDOM_MAX;
use crate::sandbox::host_state::HostState;
use crate::sandbox::observations::Denial;
use crate::sandbox::output::OutputTail;

/// Bytes of one log line; the rest of a longer one is cut off.
const LOG_LINE_MAX: usize = 4 << 10;

/// Links all functions, granted or not. A component that imports what its manifest does not grant is refused when it
/// is loaded.
pub(crate) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    config::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    logging::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    state::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    followups::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)
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
    backend.install_clocks(&mut wasi);
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
        let mut text = format!("{context}{message}");
        text.truncate(text.floor_char_boundary(LOG_LINE_MAX));
        self.log.write(level, &text);
        self.output.push(format!("{} {text}\n", level_name(level)).as_bytes());
        Ok(())
    }
}

impl state::Host for HostState {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, state::Error>> {
        self.backend.before_call(HostCall::Get(&key))?;
        let answer = self.state.get(&key).await?;
        self.backend.after_call()?;
        Ok(self.record_refusal(answer))
    }

    async fn put(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), state::Error>> {
        self.backend.before_call(HostCall::Put(&key, &value))?;
        let answer = self.state.change(&key, StateChange::Put(value)).await?;
        self.backend.after_call()?;
        Ok(self.record_refusal(answer))
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), state::Error>> {
        self.backend.before_call(HostCall::Delete(&key))?;
        let answer = self.state.change(&key, StateChange::Delete).await?;
        self.backend.after_call()?;
        Ok(self.record_refusal(answer))
    }
}

impl followups::Host for HostState {
    fn emit(&mut self, item: followups::NewItem) -> wasmtime::Result<Result<(), followups::Error>> {
        self.backend.before_call(HostCall::Emit(&item))?;
        let answer = self.followups.emit(item);
        self.backend.after_call()?;
        Ok(answer)
    }
}

impl HostState {
    /// Records a refusal as a denial, because the guest may report it in other words or not at all.
    fn record_refusal<T>(&self, answer: Result<T, state::Error>) -> Result<T, state::Error> {
        answer.inspect_err(|refusal| {
            if let Some(Denial { what, lines }) = self.state.denial(refusal) {
                self.observations.deny(what, lines);
            }
        })
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
