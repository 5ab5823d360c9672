//! The traces of a drain, and the collector that takes them. The host sends them as `serve` does.

use std::sync::Arc;
use std::time::Duration;

use outbox_core::SpanSink;

use crate::bench::http::Receiver;
use crate::config::{Collector, TelemetrySettings};
use crate::telemetry::{Otlp, Sending};

/// Traces that are sent to a collector on this machine, which reads and forgets them.
pub(crate) struct SentTraces {
    sending: Sending,
    _collector: Receiver,
}

impl SentTraces {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let collector = Receiver::start().await?;
        let to = Collector::new(&format!("http://{}/v1/traces", collector.address), Duration::from_secs(10));
        let settings = TelemetrySettings { traces: Some(to), ..TelemetrySettings::default() };
        Ok(Self { sending: Otlp::new(&settings).0.send(&[]), _collector: collector })
    }

    /// Where spans are recorded.
    pub(crate) fn spans(&self) -> Option<Arc<dyn SpanSink>> {
        self.sending.spans()
    }

    /// Sends what is left.
    pub(crate) async fn end(self) {
        self.sending.end(None).await;
    }
}
