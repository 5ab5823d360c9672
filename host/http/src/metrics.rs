//! `GET /metrics`: the store's totals and this process's plugins, in the text format of Prometheus.
//!
//! The totals describe the whole outbox and are the same in every process: aggregate them over pods with `max`, not
//! with `sum`. Plugins and durations describe this process.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use outbox_core::{AttemptDurations, BUCKET_BOUNDS_MS, DurationHistogram, PluginState};
use outbox_store::{Overview, Pause};

use crate::cockpit;
use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::state::HostStatus;

/// `GET /metrics`
pub(crate) async fn metrics(State(state): State<Arc<ServerState>>) -> Result<Response, ApiError> {
    let overview = state.inspect.overview().await?;
    let status = (state.status)();
    let mut text = MetricsText::default();
    items(&mut text, &overview);
    gauges(&mut text, &overview, &status);
    breakers(&mut text, &overview);
    paused(&mut text, &state.inspect.pauses().await?, state.inspect.key_pauses().await?.len());
    sagas(&mut text, &overview);
    violations(&mut text, &overview);
    let help = "Log lines that this process dropped because standard error was not read in time.";
    text.family("outbox_log_lines_dropped_total", "counter", help);
    text.sample("outbox_log_lines_dropped_total", &[], status.dropped_log_lines);
    plugins(&mut text, &status);
    durations(&mut text, &status.durations);
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0).into_response())
}

fn items(text: &mut MetricsText, overview: &Overview) {
    text.family("outbox_items", "gauge", "Items by type and status.");
    for (item_type, counts) in &overview.by_type {
        for (status, count) in counts {
            text.sample("outbox_items", &[("status", status), ("type", item_type)], count);
        }
    }
    text.family("outbox_attempts_total", "counter", "Settled attempts by type and outcome.");
    for (item_type, outcomes) in &overview.attempts {
        for (outcome, count) in outcomes {
            text.sample("outbox_attempts_total", &[("type", item_type), ("outcome", outcome)], count);
        }
    }
    let help = "Items emitted by handlers, by type: created, or kept because the key existed.";
    text.family("outbox_followups_total", "counter", help);
    for (item_type, outcomes) in &overview.followups {
        for (outcome, count) in outcomes {
            text.sample("outbox_followups_total", &[("type", item_type), ("outcome", outcome)], count);
        }
    }
    text.family("outbox_retrying_items", "gauge", "Items that wait for another attempt, by type.");
    for (item_type, items) in &overview.retrying {
        text.sample("outbox_retrying_items", &[("type", item_type)], items);
    }
    let help = "Time since the oldest waiting item was enqueued, by type, also while it waits for another attempt.";
    text.family("outbox_oldest_enqueued_seconds", "gauge", help);
    for (item_type, age) in &overview.oldest_enqueued_ms {
        text.sample("outbox_oldest_enqueued_seconds", &[("type", item_type)], Seconds(*age));
    }
    let help = "Age of the oldest item that waits and may be claimed, by type.";
    text.family("outbox_oldest_pending_seconds", "gauge", help);
    for (item_type, age) in &overview.oldest_pending_ms {
        text.sample("outbox_oldest_pending_seconds", &[("type", item_type)], Seconds(*age));
    }
}

fn gauges(text: &mut MetricsText, overview: &Overview, status: &HostStatus) {
    let unhandled = overview.unhandled(&status.served_types).values().sum();
    for (name, help, value) in [
        ("outbox_unhandled", "Pending items of types that no known process serves.", unhandled),
        (
            "outbox_expired_claims",
            "Claims whose lease has ended and that nobody took over yet.",
            overview.expired_claims,
        ),
        ("outbox_blocked_keys", "Ordering keys that wait behind a dead-lettered item.", overview.blocked_keys),
        ("outbox_database_bytes", "Size of the database.", overview.database_bytes),
        ("outbox_wal_bytes", "Size of the write-ahead log.", overview.wal_bytes),
        (
            "outbox_oldest_transaction_milliseconds",
            "How long a transaction of anybody keeps dead rows from being removed.",
            overview.oldest_transaction_ms,
        ),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &[], value);
    }
}

/// The breakers of every process, so that one process can be asked for all.
fn breakers(text: &mut MetricsText, overview: &Overview) {
    let help = "Breakers that are not closed, by process: open, closing, or expired after a day.";
    text.family("outbox_breaker", "gauge", help);
    for pod in overview.live_pods() {
        for breaker in &pod.breakers {
            let (subject, types) = (breaker.subject(), breaker.types.join(","));
            let labels = [
                ("subject", subject.as_str()),
                ("types", &types),
                ("state", breaker.state.as_str()),
                ("pod", &pod.instance),
            ];
            text.sample("outbox_breaker", &labels, 1);
        }
    }
}

fn paused(text: &mut MetricsText, pauses: &[Pause], keys: usize) {
    text.family("outbox_paused", "gauge", "1 for each type that is paused.");
    for pause in pauses {
        text.sample("outbox_paused", &[("type", &pause.r#type)], 1);
    }
    text.family("outbox_paused_keys", "gauge", "Fairness keys that are paused.");
    text.sample("outbox_paused_keys", &[], keys);
}

fn sagas(text: &mut MetricsText, overview: &Overview) {
    text.family("outbox_saga_began_total", "counter", "Runs that began, by saga.");
    for (saga, totals) in &overview.sagas {
        text.sample("outbox_saga_began_total", &[("saga", saga)], totals.began);
    }
    text.family("outbox_saga_ended_total", "counter", "Runs that ended, by saga and outcome.");
    for (saga, totals) in &overview.sagas {
        text.sample("outbox_saga_ended_total", &[("saga", saga), ("outcome", "ok")], totals.ended_ok);
        text.sample("outbox_saga_ended_total", &[("saga", saga), ("outcome", "error")], totals.ended_err);
    }
    text.family("outbox_saga_steps_total", "counter", "Settled attempts of steps, by saga, type and outcome.");
    for (saga, totals) in &overview.sagas {
        for (item_type, outcomes) in &totals.steps {
            for (outcome, count) in outcomes {
                let labels = [("saga", saga.as_str()), ("type", item_type), ("outcome", outcome)];
                text.sample("outbox_saga_steps_total", &labels, count);
            }
        }
    }
}

fn violations(text: &mut MetricsText, overview: &Overview) {
    let help = "Requests that lacked what the contract asks for.";
    text.family("outbox_contract_violations_total", "counter", help);
    for (violation, count) in cockpit::violations(&overview.contract_violations) {
        text.sample("outbox_contract_violations_total", &[("violation", violation)], count);
    }
}

fn plugins(text: &mut MetricsText, status: &HostStatus) {
    text.family("outbox_plugin_info", "gauge", "Generations of plugins of this process; always 1.");
    for plugin in &status.plugins {
        let (version, digest) = (plugin.version.as_deref(), plugin.digest.as_deref());
        let labels = [
            ("plugin", plugin.name.as_str()),
            ("version", version.unwrap_or_default()),
            ("digest", digest.unwrap_or_default()),
            ("state", plugin.state.as_str()),
        ];
        text.sample("outbox_plugin_info", &labels, 1);
    }
    text.family("outbox_plugin_generation", "gauge", "Which generation of the plugin is live; absent when none is.");
    for plugin in status.plugins.iter().filter(|plugin| plugin.state == PluginState::Active) {
        if let Some(generation) = plugin.generation {
            text.sample("outbox_plugin_generation", &[("plugin", &plugin.name)], generation);
        }
    }
    text.family(
        "outbox_plugin_error",
        "gauge",
        "Whether the newest file of the plugin does not run, or another plugin owns one of its types.",
    );
    let mut errors: BTreeMap<&str, bool> = BTreeMap::new();
    for plugin in &status.plugins {
        *errors.entry(&plugin.name).or_default() |= plugin.error.is_some() || !plugin.refused.is_empty();
    }
    for (name, has_error) in errors {
        text.sample("outbox_plugin_error", &[("plugin", name)], u8::from(has_error));
    }
}

fn durations(text: &mut MetricsText, durations: &AttemptDurations) {
    let help = "How long attempts of this process took, by type and outcome.";
    text.family("outbox_attempt_seconds", "histogram", help);
    for ((item_type, outcome), DurationHistogram { buckets, count, sum }) in durations {
        let labels = [("type", item_type.as_str()), ("outcome", outcome)];
        let mut below = 0;
        for (bound, within) in BUCKET_BOUNDS_MS.iter().zip(buckets) {
            below += within;
            let bound = Duration::from_millis(*bound).as_secs_f64().to_string();
            text.sample("outbox_attempt_seconds_bucket", &[labels[0], labels[1], ("le", &bound)], below);
        }
        text.sample("outbox_attempt_seconds_bucket", &[labels[0], labels[1], ("le", "+Inf")], count);
        text.sample("outbox_attempt_seconds_sum", &labels, sum.as_secs_f64());
        text.sample("outbox_attempt_seconds_count", &labels, count);
    }
}

/// A text in the exposition format.
#[derive(Default)]
struct MetricsText(String);

impl MetricsText {
    /// Adds the header of a metric. Its samples must follow.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escape(text))).collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string cannot fail");
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Milliseconds that are displayed as seconds with three decimals.
struct Seconds(i64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_line_whatever_its_labels_contain() {
        let mut text = MetricsText::default();
        text.family("m", "gauge", "Help.");
        text.sample("m", &[("plugin", "a\"b\\c\nd")], 1);
        text.sample("m", &[], Seconds(61_005));
        assert_eq!(text.0, "# HELP m Help.\n# TYPE m gauge\nm{plugin=\"a\\\"b\\\\c\\nd\"} 1\nm 61.005\n");
    }
}
