//! Traces and log lines over OTLP: what is gathered, how it leaves the process, and how that ends.
//!
//! Nobody waits for a collector: what finds no room is dropped and counted. This file does not know what a span or a line
//! says.

mod batches;
mod collector;
mod lines;
mod spans;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use outbox_core::SpanSink;

use crate::config::{Collector, TelemetrySettings};
use crate::telemetry::otlp::batches::{Gathered, gather, send_batches};
use crate::telemetry::otlp::collector::Reach;
use crate::telemetry::otlp::spans::SpanOutlet;

pub(crate) use crate::telemetry::otlp::lines::LineLayer;

/// How long the end of a process waits for a collector to take what is left.
const END_MAX: Duration = Duration::from_secs(1);

/// What is to be sent, from the start of the process on.
pub(crate) struct Otlp {
    spans: Option<(Arc<SpanOutlet>, Gathered<opentelemetry_sdk::trace::SpanData>)>,
    lines: Option<(LineLayer, Gathered<lines::SentLine>)>,
    settings: TelemetrySettings,
}

impl Otlp {
    /// Begins to gather. The layer is for the subscriber of this process; there is one if lines are sent.
    pub(crate) fn new(settings: &TelemetrySettings) -> (Self, Option<LineLayer>) {
        let scope = InstrumentationScope::builder("outbox").with_version(env!("CARGO_PKG_VERSION")).build();
        let spans = settings.traces.as_ref().map(|_| {
            let (outlet, gathered) = gather();
            (Arc::new(SpanOutlet::new(outlet, settings.sampling, scope)), gathered)
        });
        let lines = settings.logs.as_ref().map(|_| {
            let (outlet, gathered) = gather();
            (LineLayer::new(outlet), gathered)
        });
        let layer = lines.as_ref().map(|(layer, _)| layer.clone());
        (Self { spans, lines, settings: settings.clone() }, layer)
    }

    /// Begins to send. `ca_files` have authorities that vouch for collectors, besides the public ones. What cannot be sent
    /// is a warning, and the host goes on.
    pub(crate) fn send(self, ca_files: &[PathBuf]) -> Sending {
        let (mut tasks, end) = (JoinSet::new(), CancellationToken::new());
        let (delay, resource) = (self.settings.delay, resource(&self.settings.resource));
        let reach = |collector| reach(collector, ca_files);
        let (mut sink, mut layer) = (None, None);
        if let (Some((outlet, gathered)), Some(collector)) = (self.spans, &self.settings.traces)
            && let Some(exporter) =
                prepared(reach(collector).and_then(|reach| spans::exporter(collector, reach, &resource)))
        {
            tasks.spawn(send_batches(gathered, delay, end.clone(), "spans", exporter));
            sink = Some(outlet as Arc<dyn SpanSink>);
        }
        if let (Some((lines, gathered)), Some(collector)) = (self.lines, &self.settings.logs)
            && let Some(exporter) =
                prepared(reach(collector).and_then(|reach| lines::exporter(collector, reach, &resource)))
        {
            tasks.spawn(send_batches(gathered, delay, end.clone(), "log lines", exporter));
            layer = Some(lines);
        }
        Sending { sink, lines: layer, tasks, end }
    }
}

fn reach(collector: &Collector, ca_files: &[PathBuf]) -> anyhow::Result<Reach> {
    let files: Vec<_> = ca_files.iter().chain(&collector.ca_file).cloned().collect();
    Reach::new(collector, &files)
}

/// What sends, if it could be made.
fn prepared<T>(exporter: anyhow::Result<T>) -> Option<T> {
    exporter
        .inspect_err(|err| {
            let error = format!("{err:#}");
            tracing::warn!(target: "outbox::telemetry", error, "no telemetry is sent: correct the OTEL_ variables");
        })
        .ok()
}

fn resource(given: &[(String, String)]) -> Resource {
    let facts = given.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder_empty().with_attribute(version).with_attributes(facts).build()
}

/// The tasks that send.
pub(crate) struct Sending {
    sink: Option<Arc<dyn SpanSink>>,
    lines: Option<LineLayer>,
    tasks: JoinSet<()>,
    end: CancellationToken,
}

impl Sending {
    /// Where spans are recorded; `None` when the settings ask for none.
    pub(crate) fn spans(&self) -> Option<Arc<dyn SpanSink>> {
        self.sink.clone()
    }

    /// Sends why the process ends, if it ends with an error, and what is left, for a bounded time.
    pub(crate) async fn end(mut self, error: Option<String>) {
        if let (Some(lines), Some(error)) = (&self.lines, error) {
            lines.add_error(error);
        }
        self.end.cancel();
        let sent = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END_MAX, sent).await.is_err() {
            tracing::warn!(target: "outbox::telemetry", "the collector did not take the last telemetry in time");
        }
    }
}
