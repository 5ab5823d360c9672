//! A handler that does nothing, without WebAssembly. It measures the worker and the store alone.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use outbox_core::{Attempt, AttemptReport, Handler, HostWrites, Outcome, ServedType};

use crate::bench::engine::TYPE;

/// Serves the items of the bench and ends every attempt at once with success.
pub(crate) struct NativeHandler {
    changes: watch::Sender<u64>,
}

impl NativeHandler {
    pub(crate) fn handler() -> Arc<dyn Handler> {
        Arc::new(Self { changes: watch::Sender::new(0) })
    }
}

#[async_trait]
impl Handler for NativeHandler {
    fn served_types(&self) -> Vec<ServedType> {
        vec![ServedType::new(TYPE)]
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn handle(&self, _: Attempt) -> AttemptReport {
        AttemptReport::without_component(Outcome::Done { result: None, writes: HostWrites::default() })
    }
}
