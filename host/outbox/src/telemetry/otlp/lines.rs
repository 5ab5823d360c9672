//! Log lines in the words of OpenTelemetry, as a layer of the subscriber that sees what the log has.
//!
//! A line about an item has its trace and span as fields, and gets them as its trace context.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::InstrumentationScope;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_otlp::{Compression, LogExporter, Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::config::Collector;
use crate::telemetry::otlp::batches::{Export, Outlet};
use crate::telemetry::otlp::collector::{Reach, headers};

/// A line, and the program that wrote it.
pub(super) type SentLine = (SdkLogRecord, InstrumentationScope);

/// The targets of what sends telemetry: their lines would cause further ones.
const OWN_WAY: [&str; 4] = ["hyper", "opentelemetry", "outbox::telemetry", "rustls"];

/// Takes the log lines of this process.
#[derive(Clone)]
pub(crate) struct LineLayer {
    logger: SdkLogger,
}

impl LineLayer {
    pub(super) fn new(outlet: Outlet<SentLine>) -> Self {
        let provider = SdkLoggerProvider::builder().with_log_processor(LineOutlet(outlet)).build();
        Self { logger: provider.logger("outbox") }
    }

    /// Takes an error that the log has as no line: why the process ends.
    pub(super) fn add_error(&self, error: String) {
        let mut record = self.logger.create_log_record();
        record.set_target("outbox");
        record.set_severity_number(Severity::Error);
        record.set_severity_text(Level::ERROR.as_str());
        record.set_body(error.into());
        self.logger.emit(record);
    }
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if OWN_WAY.iter().any(|target| metadata.target().starts_with(target)) {
            return;
        }
        let mut fields = Fields { record: self.logger.create_log_record(), trace_id: None, span_id: None };
        event.record(&mut fields);
        let Fields { mut record, trace_id, span_id } = fields;
        record.set_target(metadata.target());
        record.set_severity_number(severity(*metadata.level()));
        record.set_severity_text(metadata.level().as_str());
        if let (Some(trace_id), Some(span_id)) = (trace_id, span_id) {
            // Whether the trace is recorded is not known here.
            record.set_trace_context(trace_id, span_id, None);
        }
        self.logger.emit(record);
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::TRACE => Severity::Trace,
        Level::DEBUG => Severity::Debug,
        Level::INFO => Severity::Info,
        Level::WARN => Severity::Warn,
        Level::ERROR => Severity::Error,
    }
}

/// Puts the fields of an event into a record.
struct Fields {
    record: SdkLogRecord,
    trace_id: Option<TraceId>,
    span_id: Option<SpanId>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<AnyValue>) {
        match field.name() {
            "message" => self.record.set_body(value.into()),
            name => self.record.add_attribute(name, value),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "trace_id" => self.trace_id = TraceId::from_hex(value).ok(),
            "span_id" => self.span_id = SpanId::from_hex(value).ok(),
            _ => self.add(field, value.to_owned()),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// Puts records into an outlet instead of sending them.
#[derive(Debug)]
struct LineOutlet(Outlet<SentLine>);

impl LogProcessor for LineOutlet {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        self.0.put((record.clone(), scope.clone()));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What sends lines to the collector.
pub(super) fn exporter(collector: &Collector, reach: Reach, resource: &Resource) -> anyhow::Result<LogExporter> {
    let builder = LogExporter::builder().with_http().with_http_client(reach).with_protocol(Protocol::HttpBinary);
    let builder = builder.with_endpoint(collector.url.expose()).with_timeout(collector.timeout);
    let builder = builder.with_headers(headers(collector));
    let builder = if collector.is_compressed { builder.with_compression(Compression::Gzip) } else { builder };
    let mut exporter = builder.build().context("preparing to send log lines")?;
    exporter.set_resource(resource);
    Ok(exporter)
}

impl Export<SentLine> for LogExporter {
    /// The way to the collector logs why it takes nothing.
    async fn export_batch(&self, batch: Vec<SentLine>) -> bool {
        let lines: Vec<_> = batch.iter().map(|(record, scope)| (record, scope)).collect();
        self.export(LogBatch::new(&lines)).await.is_ok()
    }
}
