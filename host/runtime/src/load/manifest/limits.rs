//! `[limits]` of a manifest: how much one attempt may use, with the defaults and the highest values.

use std::time::Duration;

use serde::{Serialize, Serializer};

use outbox_core::PluginLimits;
use outbox_item::millis;

use crate::load::manifest::error::ManifestError;
use crate::load::manifest::section::Section;
use crate::load::manifest::value::{count, duration, rate, size};

/// How much one attempt may use, and how many attempts there may be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Bytes of all linear memories together.
    pub memory: u64,
    /// Elements of all tables together.
    pub table_elements: u32,
    /// Core instances that the component is made of.
    pub instances: u32,
    /// CPU time; in JSON `cpu_ms`.
    #[serde(rename = "cpu_ms", serialize_with = "milliseconds")]
    pub cpu: Duration,
    /// Claims at a time, in all processes together; no limit if absent.
    pub concurrency: Option<u32>,
    /// Claims per second, in all processes together; no limit if absent.
    pub rate: Option<f64>,
    /// Claims of one fairness key at a time, in all processes together; no limit if absent.
    pub concurrency_per_key: Option<u32>,
    /// Claims of one fairness key per second, in all processes together; no limit if absent.
    pub rate_per_key: Option<f64>,
    /// Outgoing requests.
    pub http_requests: u32,
    /// Bytes of the body of one outgoing request.
    pub request: u64,
    /// Bytes of the body of one response.
    pub response: u64,
    /// Bytes of all keys and values that the plugin stores.
    pub state_bytes: u64,
    /// Items that one attempt may emit.
    pub followups: u32,
    /// Items that descend from one item within 24 hours: its follow-ups, theirs, and so on.
    pub descendants: u32,
    /// Bytes of the result that the handler returns.
    pub result: u64,
    /// Bytes of the component itself.
    pub component: u64,
}

impl Limits {
    /// Those that operators compare with what happens.
    pub(crate) fn in_status(&self) -> PluginLimits {
        let Self { memory, cpu, concurrency, rate, concurrency_per_key, rate_per_key, .. } = *self;
        let cpu_ms = millis(cpu).unsigned_abs();
        PluginLimits { concurrency, concurrency_per_key, cpu_ms, memory, rate, rate_per_key }
    }
}

/// Writes a duration in whole milliseconds, as all JSON of the outbox does.
pub(crate) fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(millis(*duration))
}

/// Bytes of memory. The instance pool reserves this much address space in every slot.
pub(crate) const MEMORY_MAX: u64 = 512 << 20;
/// The instance pool reserves address space for table elements too. Interpreters have the largest tables.
pub(crate) const TABLE_ELEMENTS_MAX: u32 = 100_000;
/// Components that are linked of many libraries have dozens of core instances.
pub(crate) const INSTANCES_MAX: u32 = 128;
/// Bytes of a component. Larger ones take longer to compile than a host should wait.
pub(crate) const COMPONENT_MAX: u64 = 128 << 20;
/// An attempt that computes longer is not a side effect.
const CPU_MAX: Duration = Duration::from_mins(1);
/// Bytes of a body. Bodies are streamed, so this limits traffic and not memory.
const BODY_MAX: u64 = 256 << 20;
/// An attempt that needs more requests should be several items.
const REQUESTS_MAX: u32 = 1000;
/// All follow-ups are enqueued in the transaction that settles their parent.
const FOLLOWUPS_MAX: u32 = 10_000;
/// A tree of items that is larger is a bug, or should be enqueued by an application.
const DESCENDANTS_MAX: u32 = 1_000_000;
/// Bytes of a result. It is stored on the item and read with it.
const RESULT_MAX: u64 = 1 << 20;
/// Bytes of state. A plugin that keeps more needs a database of its own.
const STATE_MAX: u64 = 16 << 30;
/// A higher number is a typing error.
const CONCURRENCY_MAX: u32 = 100_000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            table_elements: 20_000,
            instances: 32,
            cpu: Duration::from_secs(2),
            concurrency: None,
            rate: None,
            concurrency_per_key: None,
            rate_per_key: None,
            http_requests: 16,
            request: 4 << 20,
            response: 8 << 20,
            state_bytes: 64 << 20,
            followups: 64,
            descendants: 10_000,
            result: 64 << 10,
            // Components of compiled languages and of JavaScript have less than half of this, those of Python 18 MiB.
            component: 32 << 20,
        }
    }
}

/// Reads `[limits]`.
pub(crate) fn read(mut section: Section<'_>) -> Result<Limits, ManifestError> {
    let default = Limits::default();
    let limits = Limits {
        memory: section.take("memory", size(MEMORY_MAX))?.unwrap_or(default.memory),
        table_elements: section
            .take("table_elements", count(1..=TABLE_ELEMENTS_MAX))?
            .unwrap_or(default.table_elements),
        instances: section.take("instances", count(1..=INSTANCES_MAX))?.unwrap_or(default.instances),
        cpu: section.take("cpu", duration(CPU_MAX))?.unwrap_or(default.cpu),
        concurrency: section.take("concurrency", count(1..=CONCURRENCY_MAX))?,
        rate: section.take("rate", rate)?,
        concurrency_per_key: section.take("concurrency_per_key", count(1..=CONCURRENCY_MAX))?,
        rate_per_key: section.take("rate_per_key", rate)?,
        http_requests: section.take("http_requests", count(0..=REQUESTS_MAX))?.unwrap_or(default.http_requests),
        request: section.take("request", size(BODY_MAX))?.unwrap_or(default.request),
        response: section.take("response", size(BODY_MAX))?.unwrap_or(default.response),
        state_bytes: section.take("state_bytes", size(STATE_MAX))?.unwrap_or(default.state_bytes),
        followups: section.take("followups", count(0..=FOLLOWUPS_MAX))?.unwrap_or(default.followups),
        descendants: section.take("descendants", count(1..=DESCENDANTS_MAX))?.unwrap_or(default.descendants),
        result: section.take("result", size(RESULT_MAX))?.unwrap_or(default.result),
        component: section.take("component", size(COMPONENT_MAX))?.unwrap_or(default.component),
    };
    section.finish()?;
    Ok(limits)
}
