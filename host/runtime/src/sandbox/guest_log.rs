//! What a guest logs, in the host's own log: each line at the guest's level, with the plugin and the item.
//!
//! It bounds how much one attempt may log. It does not know the history, which keeps the end of a guest's output.

use std::sync::{Arc, OnceLock};

use outbox_core::SpanIds;
use outbox_item::Item;

use crate::bindings::wasi::logging::logging::Level;
use crate::load::manifest::value::show_size;

/// Bytes of log lines that one attempt may write.
const LOG_MAX: usize = 64 << 10;

/// Writes one line. A macro, because a line's level is a constant of the place that writes it.
macro_rules! line {
    ($level:ident, $log:expr, $($line:tt)+) => {
        tracing::event!(
            target: "outbox::plugin::log", tracing::Level::$level,
            plugin = %$log.plugin, item.id = $log.item.as_ref().map(|item| item.id.get()),
            trace_id = $log.spans().map(|spans| &*spans.trace_id),
            span_id = $log.spans().map(|spans| &*spans.attempt),
            $($line)+
        )
    };
}

/// The log of one attempt.
pub(crate) struct GuestLog {
    plugin: Arc<str>,
    item: Option<Arc<Item>>,
    bytes: usize,
    /// Made for the first line.
    spans: OnceLock<SpanIds>,
}

impl GuestLog {
    /// The log of an attempt at `item`; of a call without an item when there is none.
    pub(crate) fn new(plugin: Arc<str>, item: Option<&Arc<Item>>) -> Self {
        Self { plugin, item: item.cloned(), bytes: 0, spans: OnceLock::new() }
    }

    fn spans(&self) -> Option<&SpanIds> {
        self.item.as_deref().map(|item| self.spans.get_or_init(|| SpanIds::of(item)))
    }

    /// Writes a line, unless the attempt has used up [`LOG_MAX`].
    pub(crate) fn write(&mut self, level: Level, text: &str) {
        let had_room = self.bytes <= LOG_MAX;
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes <= LOG_MAX {
            self.write_at(level, text);
        } else if had_room {
            line!(WARN, self, "an attempt logs more than {}: the rest is left out", show_size(LOG_MAX as u64));
        }
    }

    fn write_at(&self, level: Level, text: &str) {
        match level {
            Level::Trace => line!(TRACE, self, "{text}"),
            Level::Debug => line!(DEBUG, self, "{text}"),
            Level::Info => line!(INFO, self, "{text}"),
            Level::Warn => line!(WARN, self, "{text}"),
            Level::Error | Level::Critical => line!(ERROR, self, "{text}"),
        }
    }
}
