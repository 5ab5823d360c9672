//! Every metric with its kind, its labels and its meaning. docs/metrics.md lists the same, and a test compares them.
//!
//! This file knows no values.

/// What a metric counts or measures over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only rises, until its process or its store begins anew.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A histogram of durations in seconds.
    Histogram,
}

/// What the values of a metric are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricScope {
    /// One process: `/metrics`. The sum over processes is the value of all.
    Process,
    /// The whole outbox: `/metrics/store`. Every process gives the same value.
    Store,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, as samples and queries have it; those of a histogram have `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// What it is about.
    pub scope: MetricScope,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// Its meaning, in one sentence.
    pub help: &'static str,
}

const fn process(kind: MetricKind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, scope: MetricScope::Process, labels, help }
}

const fn store(kind: MetricKind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, scope: MetricScope::Store, labels, help }
}

/// Defines the metrics as constants, and the list of all of them.
macro_rules! metrics {
    ($($constant:ident = $scope:ident($kind:ident, $name:literal, $labels:expr, $help:literal);)*) => {
        $(pub(super) const $constant: &Metric = &$scope(MetricKind::$kind, $name, &$labels, $help);)*
        /// All metrics, in the order in which they are written.
        pub const METRICS: &[&Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO = process(Gauge, "outbox_build_info", ["version"], "The version of the process; always 1.");
    ATTEMPT_SECONDS = process(Histogram, "outbox_attempt_seconds", ["type", "outcome"],
        "How long attempts took, by type and outcome.");
    ATTEMPTS_RUNNING = process(Gauge, "outbox_attempts_running", [], "Attempts that run now.");
    ATTEMPTS_LIMIT = process(Gauge, "outbox_attempts_limit", [],
        "The most attempts that run at a time (OUTBOX_CONCURRENCY).");
    BREAKER = process(Gauge, "outbox_breaker", ["subject", "types", "state"],
        "1 for each breaker that is not closed: open, closing, or expired after a day.");
    LOG_LINES_DROPPED = process(Counter, "outbox_log_lines_dropped_total", [],
        "Log lines that were dropped because standard error was not read in time.");
    PLUGIN_INFO = process(Gauge, "outbox_plugin_info", ["plugin", "version", "digest", "state"],
        "Generations of plugins; always 1.");
    PLUGIN_GENERATION = process(Gauge, "outbox_plugin_generation", ["plugin"],
        "Which generation of the plugin is live; absent when none is.");
    PLUGIN_ERROR = process(Gauge, "outbox_plugin_error", ["plugin"],
        "1 when the newest file of the plugin does not run, or another plugin owns one of its types.");

    ITEMS = store(Gauge, "outbox_items", ["status", "type"], "Items by status and type.");
    ATTEMPTS = store(Counter, "outbox_attempts_total", ["type", "outcome"], "Settled attempts by type and outcome.");
    FOLLOWUPS = store(Counter, "outbox_followups_total", ["type", "outcome"],
        "Items emitted by handlers, by type: created, or kept because the key existed.");
    RETRYING_ITEMS = store(Gauge, "outbox_retrying_items", ["type"], "Items that wait for another attempt, by type.");
    OLDEST_ENQUEUED = store(Gauge, "outbox_oldest_enqueued_seconds", ["type"],
        "Time since the oldest waiting item was enqueued, by type, also while it waits for another attempt.");
    OLDEST_PENDING = store(Gauge, "outbox_oldest_pending_seconds", ["type"],
        "Age of the oldest item that waits and may be claimed, by type.");
    UNHANDLED = store(Gauge, "outbox_unhandled", [], "Pending items of types that no known process serves.");
    EXPIRED_CLAIMS = store(Gauge, "outbox_expired_claims", [],
        "Claims whose lease has ended and that nobody took over yet.");
    BLOCKED_KEYS = store(Gauge, "outbox_blocked_keys", [], "Ordering keys that wait behind a dead-lettered item.");
    PAUSED = store(Gauge, "outbox_paused", ["type"], "1 for each type that is paused.");
    PAUSED_KEYS = store(Gauge, "outbox_paused_keys", [], "Fairness keys that are paused.");
    DATABASE_BYTES = store(Gauge, "outbox_database_bytes", [], "Size of the database.");
    WAL_BYTES = store(Gauge, "outbox_wal_bytes", [], "Size of the write-ahead log, on SQLite.");
    OLDEST_TRANSACTION = store(Gauge, "outbox_oldest_transaction_seconds", [],
        "How long a transaction of anybody keeps dead rows from being removed, on PostgreSQL.");
    SAGA_BEGAN = store(Counter, "outbox_saga_began_total", ["saga"], "Runs that began, by saga.");
    SAGA_ENDED = store(Counter, "outbox_saga_ended_total", ["saga", "outcome"], "Runs that ended, by saga and outcome.");
    SAGA_STEPS = store(Counter, "outbox_saga_steps_total", ["saga", "type", "outcome"],
        "Settled attempts of steps, by saga, type and outcome.");
    CONTRACT_VIOLATIONS = store(Counter, "outbox_contract_violations_total", ["violation"],
        "Requests that lacked what the contract asks for.");
}
