//! The two scrapes: what is about the process, what is about the whole store, and how many series there can be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox::core::{BreakerState, BreakerStatus, DurationHistogram, PluginState, PluginStatus};
use outbox::http::{HostStatus, HttpSettings, METRICS, MetricScope};
use outbox::item::NewItem;
use outbox::store::{BatchMode, Enqueue as _};

use super::{HttpFixture, get, post};

fn durable(metrics_store: bool) -> HttpSettings {
    HttpSettings { is_durable: true, metrics_store, ..HttpSettings::default() }
}

/// The samples of a scrape, which must be one line each.
#[track_caller]
fn has(text: &str, samples: &[&str]) {
    for sample in samples {
        assert!(text.lines().any(|line| line == *sample), "{sample} is not in\n{text}");
    }
}

#[tokio::test]
async fn the_metrics_of_a_store_are_totals_of_the_whole_outbox() {
    let host = HttpFixture::new(durable(false));
    host.send(post("/memory", &[], "{}")).await;
    host.complete("vector_upsert").await;
    host.dead_letter("belief_recompute").await;
    let answer = host.send(get("/metrics/store")).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    has(
        &answer.text,
        &[
            r#"outbox_items{status="DONE",type="vector_upsert"} 1"#,
            r#"outbox_items{status="DLQ",type="belief_recompute"} 1"#,
            r#"outbox_attempts_total{type="vector_upsert",outcome="done"} 1"#,
            r#"outbox_attempts_total{type="belief_recompute",outcome="permanent"} 1"#,
            "outbox_expired_claims 0",
            r#"outbox_saga_began_total{saga="WriteMemorySaga"} 1"#,
            r#"outbox_saga_ended_total{saga="WriteMemorySaga",outcome="error"} 1"#,
            r#"outbox_saga_steps_total{saga="WriteMemorySaga",type="belief_recompute",outcome="dead"} 1"#,
            r#"outbox_contract_violations_total{violation="missing_idempotency_key"} 1"#,
        ],
    );
}

#[tokio::test]
async fn the_metrics_of_a_process_are_its_plugins_its_breakers_and_its_attempts() {
    let vector = |digest: &str, generation, state| PluginStatus {
        name: "vector".into(),
        digest: Some(digest.into()),
        generation: Some(generation),
        state,
        error: Some("quarantined".into()),
        ..PluginStatus::default()
    };
    let plugins = vec![
        vector("abc", 2, PluginState::Active),
        vector("def", 3, PluginState::Quarantined),
        PluginStatus { name: "mail".into(), state: PluginState::Draining, ..PluginStatus::default() },
    ];
    let breaker = BreakerStatus {
        origin: Some("https://a".into()),
        state: BreakerState::Open,
        types: vec!["mail".into(), "fax".into()],
        ..BreakerStatus::default()
    };
    let (breakers, attempts_running, attempts_limit) = (vec![breaker], 3, 64);
    let status = HostStatus { plugins, breakers, attempts_running, attempts_limit, ..HostStatus::default() };
    let host = HttpFixture::with_status(durable(false), status);
    let text = host.send(get("/metrics")).await.text;
    has(
        &text,
        &[
            r#"outbox_plugin_info{plugin="vector",version="",digest="abc",state="active"} 1"#,
            r#"outbox_plugin_info{plugin="vector",version="",digest="def",state="quarantined"} 1"#,
            r#"outbox_plugin_generation{plugin="vector"} 2"#,
            r#"outbox_plugin_error{plugin="vector"} 1"#,
            r#"outbox_plugin_error{plugin="mail"} 0"#,
            r#"outbox_breaker{subject="https://a",types="mail,fax",state="open"} 1"#,
            "outbox_attempts_running 3",
            "outbox_attempts_limit 64",
            "outbox_log_lines_dropped_total 0",
        ],
    );
}

#[tokio::test]
async fn how_long_attempts_take_is_a_histogram_by_type_and_outcome() {
    let mut taken = DurationHistogram { count: 3, sum: Duration::from_millis(70_030), ..DurationHistogram::default() };
    (taken.buckets[0], taken.buckets[2]) = (1, 1);
    let durations = BTreeMap::from([(("mail".to_owned(), "done"), taken)]);
    let host = HttpFixture::with_status(HttpSettings::default(), HostStatus { durations, ..HostStatus::default() });
    let text = host.send(get("/metrics")).await.text;
    for (bound, below) in [("0.005", 1), ("0.01", 1), ("0.025", 2), ("60", 2), ("+Inf", 3)] {
        has(&text, &[&format!(r#"outbox_attempt_seconds_bucket{{type="mail",outcome="done",le="{bound}"}} {below}"#)]);
    }
    has(
        &text,
        &[
            r#"outbox_attempt_seconds_sum{type="mail",outcome="done"} 70.03"#,
            r#"outbox_attempt_seconds_count{type="mail",outcome="done"} 3"#,
            "# TYPE outbox_attempt_seconds histogram",
        ],
    );
}

/// The names of the metrics that a scrape has, from the lines that name their kinds.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[tokio::test]
async fn a_process_tells_of_the_store_where_it_is_asked_for_it_or_is_alone() {
    let of = |scope| -> BTreeSet<_> {
        METRICS.iter().filter(|metric| metric.scope == scope).map(|metric| metric.name).collect()
    };
    let (process, store) = (of(MetricScope::Process), of(MetricScope::Store));
    let host = HttpFixture::new(durable(false));
    assert_eq!(names(&host.send(get("/metrics")).await.text), process);
    assert_eq!(names(&host.send(get("/metrics/store")).await.text), store);
    let alone = HttpFixture::new(durable(true));
    assert_eq!(names(&alone.send(get("/metrics")).await.text), &process | &store);
    host.sqlite().execute_batch("DROP TABLE outbox_pods").unwrap();
    assert_eq!(host.send(get("/metrics")).await.status, 200, "a process tells of itself without its store");
    host.send(get("/metrics/store")).await.problem(503, "store-unavailable");
}

#[tokio::test]
async fn types_without_end_make_a_bounded_number_of_series() {
    let status = HostStatus { served_types: vec!["t9".into()], ..HostStatus::default() };
    let host = HttpFixture::with_status(durable(false), status);
    let items = (0..300).map(|number| {
        let saga = Some(format!("Saga{number}"));
        NewItem { saga, ..NewItem::new(&format!("t{number}"), &format!("k{number}"), "{}") }
    });
    host.store.enqueue(items.collect(), BatchMode::PerItem).await.unwrap();
    host.complete("t9").await;
    let text = host.send(get("/metrics/store")).await.text;
    let pending: Vec<_> = text.lines().filter(|line| line.starts_with("outbox_items{status=\"PENDING\"")).collect();
    assert_eq!(pending.len(), 101, "100 types and the rest");
    has(&text, &[r#"outbox_items{status="PENDING",type="_other"} 199"#, r#"outbox_items{status="DONE",type="t9"} 1"#]);
}
