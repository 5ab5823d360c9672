//! Spans in the words of OpenTelemetry, and which traces are recorded.
//!
//! What spans there are is decided in `outbox_core`.

use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Compression, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, ShouldSample as _, SpanData, SpanEvents, SpanExporter as _, SpanLinks,
};

use outbox_core::{Span, SpanFact, SpanSink, SpanWork, TraceContext, sha256};

use crate::config::{Collector, Sampling};
use crate::telemetry::otlp::batches::{Export, Outlet};
use crate::telemetry::otlp::collector::{Reach, headers};

/// Takes the spans of this process.
#[derive(Debug)]
pub(super) struct SpanOutlet {
    outlet: Outlet<SpanData>,
    sampler: Sampler,
    scope: InstrumentationScope,
}

impl SpanOutlet {
    pub(super) fn new(outlet: Outlet<SpanData>, sampling: Sampling, scope: InstrumentationScope) -> Self {
        let root = Sampler::TraceIdRatioBased(sampling.share);
        let sampler = if sampling.follows_caller { Sampler::ParentBased(Box::new(root)) } else { root };
        Self { outlet, sampler, scope }
    }
}

impl SpanSink for SpanOutlet {
    fn is_recorded(&self, trace_id: &str, caller: Option<&TraceContext>) -> bool {
        // A digest, because the share is compared with some bits of the id, and those of a UUID are not random.
        let digest = sha256(trace_id.as_bytes());
        let (Ok(trace_id), Ok(drawn)) = (TraceId::from_hex(trace_id), TraceId::from_hex(&digest[..32])) else {
            return false;
        };
        let parent = caller.and_then(|caller| {
            let flags = TraceFlags::new(u8::from_str_radix(&caller.flags, 16).ok()?);
            let span = SpanId::from_hex(&caller.span_id).ok()?;
            Some(SpanContext::new(trace_id, span, flags, true, TraceState::default()))
        });
        let parent = parent.map(|parent| Context::new().with_remote_span_context(parent));
        let sampled = self.sampler.should_sample(parent.as_ref(), drawn, "", &SpanKind::Producer, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    fn record(&self, span: Span) {
        if let Some(data) = data(span, &self.scope) {
            self.outlet.put(data);
        }
    }
}

/// The span as the exporter wants it; `None` if an id is not one.
fn data(span: Span, scope: &InstrumentationScope) -> Option<SpanData> {
    let id = |hex: &str| SpanId::from_hex(hex).ok();
    let state = span.state.as_deref().and_then(|state| state.parse().ok()).unwrap_or_default();
    let (trace_id, span_id) = (TraceId::from_hex(&span.trace_id).ok()?, id(&span.span_id)?);
    let fact = |(name, fact): (&'static str, SpanFact)| match fact {
        SpanFact::Text(text) => KeyValue::new(name, text),
        SpanFact::Number(number) => KeyValue::new(name, number),
    };
    Some(SpanData {
        span_context: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, state),
        parent_span_id: span.parent.as_deref().and_then(id).unwrap_or(SpanId::INVALID),
        parent_span_is_remote: span.work == SpanWork::Enqueue,
        span_kind: kind(span.work),
        name: format!("{} {}", span.work.as_str(), span.subject).into(),
        start_time: UNIX_EPOCH + span.begun,
        end_time: UNIX_EPOCH + span.ended,
        attributes: span.facts.into_iter().map(fact).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    })
}

fn kind(work: SpanWork) -> SpanKind {
    match work {
        SpanWork::Enqueue => SpanKind::Producer,
        SpanWork::Attempt => SpanKind::Consumer,
        SpanWork::Request => SpanKind::Client,
        SpanWork::Wait | SpanWork::Settlement => SpanKind::Internal,
    }
}

/// What sends spans to the collector.
pub(super) fn exporter(collector: &Collector, reach: Reach, resource: &Resource) -> anyhow::Result<SpanExporter> {
    let builder = SpanExporter::builder().with_http().with_http_client(reach).with_protocol(Protocol::HttpBinary);
    let builder = builder.with_endpoint(collector.url.expose()).with_timeout(collector.timeout);
    let builder = builder.with_headers(headers(collector));
    let builder = if collector.is_compressed { builder.with_compression(Compression::Gzip) } else { builder };
    let mut exporter = builder.build().context("preparing to send spans")?;
    exporter.set_resource(resource);
    Ok(exporter)
}

impl Export<SpanData> for SpanExporter {
    /// The way to the collector logs why it takes nothing.
    async fn export_batch(&self, batch: Vec<SpanData>) -> bool {
        self.export(batch).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::otlp::batches::gather;

    #[test]
    fn a_share_of_the_traces_is_recorded_also_where_their_names_are_uuids() {
        let sampling = Sampling { follows_caller: true, share: 0.25 };
        let sink = SpanOutlet::new(gather().0, sampling, InstrumentationScope::builder("test").build());
        let uuids = (0..1_000).map(|_| uuid::Uuid::new_v4().simple().to_string());
        let recorded = uuids.filter(|trace_id| sink.is_recorded(trace_id, None)).count();
        assert!((150..350).contains(&recorded), "{recorded} of 1000");
    }
}
