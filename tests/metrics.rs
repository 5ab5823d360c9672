//! Metrics as operators use them: the list in the documents, the alert rules, the dashboard, and several processes on
//! one store. `promtool` reads them as Prometheus does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use outbox::core::{BreakerStatus, DurationHistogram, HostWrites, PluginState, PluginStatus, Settlement};
use outbox::http::{HostStatus, METRICS, Metric, MetricKind, MetricScope};
use outbox::item::NewItem;
use outbox::store::{Control, ControlRequest, Execution, SettleRequest, Violation};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::support::guests::root;
use crate::support::host::HostProcess;
use crate::support::stage::Deployment;
use crate::support::{
    Fixture, TestDb, dead, done, eventually, item, on_each_backend, ordered, pod, retry, router_over, settled,
};

/// The limit for everything that a test expects of a host; a minute allows for busy machines.
const SOON: Duration = Duration::from_mins(1);

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("reading {path}: {err}"))
}

/// `promtool` of this machine, or the one that `make promtool` keeps.
fn promtool() -> Command {
    let kept = root().join("target/promtool/usr/bin/promtool");
    Command::new(if kept.exists() { kept } else { PathBuf::from("promtool") })
}

/// The samples of a scrape: each line without its value, and its value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap())).unwrap())
        .collect()
}

/// A row of docs/metrics.md as this metric must have it, without its unit.
fn row(metric: &Metric) -> (String, String, String, String) {
    let kind = match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    (format!("`{}`", metric.name), kind.to_owned(), labels.join(", "), metric.help.to_owned())
}

fn documented(heading: &str) -> Vec<(String, String, String, String)> {
    let document = read("docs/metrics.md");
    let section = document.split_once(&format!("\n{heading}\n")).unwrap().1.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells =
        rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].clone(), cells[1].clone(), cells[3].clone(), cells[4].clone())).collect()
}

#[test]
fn the_documents_list_each_metric_with_its_kind_its_labels_and_its_meaning() {
    for (heading, scope) in [("## Of a process", MetricScope::Process), ("## Of a store", MetricScope::Store)] {
        let known: Vec<_> = METRICS.iter().filter(|metric| metric.scope == scope).map(|metric| row(metric)).collect();
        assert_eq!(documented(heading), known, "{heading}");
    }
}

/// The metrics that a text names, without the endings of histograms.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("outbox_") && *word != "outbox_");
    let base = |name| ["_bucket", "_sum", "_count"].iter().find_map(|end| str::strip_suffix(name, end)).unwrap_or(name);
    names.map(base).collect()
}

#[test]
fn alerts_and_dashboard_use_only_metrics_that_exist_and_the_dashboard_shows_all() {
    let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    let (alerts, dashboard) = (read("docs/alerts.yml"), read("docs/dashboard.json"));
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries: Vec<_> = panels
        .flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    let shown = queries.join("\n");
    assert_eq!(named(&alerts).difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(named(&shown), known);
    // Of several stores, ages are compared, and everything else is added up.
    let adds_up = |metric: &&&Metric| metric.scope == MetricScope::Store && !metric.name.contains("_oldest_");
    for metric in METRICS.iter().filter(adds_up) {
        let of_metric = queries.iter().filter(|query| named(query).contains(metric.name));
        assert!(of_metric.clone().all(|query| query.contains("max by (job")), "{}: {of_metric:?}", metric.name);
    }
    assert!(dashboard["uid"] == "outbox" && dashboard["schemaVersion"].is_u64(), "{dashboard}");
}

#[test]
fn every_alert_leads_to_a_place_in_the_documents() {
    for line in read("docs/alerts.yml").lines() {
        let Some(runbook) = line.trim().strip_prefix("runbook: ") else { continue };
        let (file, anchor) = runbook.split_once('#').map_or((runbook, None), |(file, anchor)| (file, Some(anchor)));
        let document = read(file);
        let headings = document.lines().filter_map(|line| line.strip_prefix("## "));
        let mut anchors = headings.map(|heading| heading.to_lowercase().replace(' ', "-"));
        assert!(anchor.is_none_or(|anchor| anchors.any(|known| known == anchor)), "{runbook}");
    }
}

/// Runs `promtool` and returns what it said. It must have no objection.
#[track_caller]
fn is_sound(args: &[&str], input: &str) -> String {
    let mut tool = promtool();
    let tool = tool.args(args).current_dir(root());
    let child = tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the tests need promtool: run `make promtool`");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success(), "promtool {}: {said}", args.join(" "));
    said
}

#[test]
fn prometheus_accepts_the_alert_rules_and_they_fire_when_they_should() {
    let said = is_sound(&["check", "rules", "docs/alerts.yml"], "");
    assert!(said.contains("rules found"), "{said}");
    is_sound(&["test", "rules", "tests/alerts.yml"], "");
}

mod on_each {
    use super::*;
    use crate::support::Backend;

    /// Both scrapes of a process with this status.
    async fn scrape(f: &Fixture, status: HostStatus) -> (String, String) {
        let of = async |path| {
            let request = Request::builder().uri(path).header("host", "localhost").body(Body::empty()).unwrap();
            let body = router_over(f, status.clone()).oneshot(request).await.unwrap().into_body();
            String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
        };
        (of("/metrics").await, of("/metrics/store").await)
    }

    fn busy() -> HostStatus {
        let (name, state) = ("mail".to_owned(), PluginState::Active);
        let plugin = PluginStatus { name, state, generation: Some(1), ..PluginStatus::default() };
        let breaker = BreakerStatus { origin: Some("https://a".into()), ..BreakerStatus::default() };
        let durations = [(("mail".to_owned(), "done"), DurationHistogram::default())].into();
        HostStatus {
            plugins: vec![plugin],
            breakers: vec![breaker],
            durations,
            attempts_running: 1,
            attempts_limit: 2,
            dropped_log_lines: 3,
            ..HostStatus::default()
        }
    }

    pub(super) async fn every_metric_exists_and_moves_and_no_other_does(backend: Backend) {
        let f = Fixture::new(backend).await;
        let before = scrape(&f, HostStatus::default()).await;
        something_of_everything(&f).await;
        f.clock.advance(Duration::from_mins(2));
        if backend == Backend::Sqlite {
            f.sql("PRAGMA wal_checkpoint").unwrap();
        }
        // Always 1, and what the other engine has.
        let of_other = match backend {
            Backend::Sqlite => "outbox_oldest_transaction_seconds",
            Backend::Postgres => "outbox_wal_bytes",
        };
        let expected = BTreeSet::from(["outbox_build_info", of_other]);
        let (mut after, mut still) = (before.clone(), BTreeSet::new());
        f.in_transaction("UPDATE outbox_pods SET ready = ready", async || {
            let start = std::time::Instant::now();
            while still != expected && start.elapsed() < SOON {
                after = scrape(&f, busy()).await;
                still = unmoved(&before, &after);
            }
        })
        .await;
        assert_eq!(still, expected, "{}", after.1);
        for text in [&before.0, &before.1, &after.0, &after.1] {
            is_sound(&["check", "metrics"], text);
            let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
            let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
            assert!(kinds.clone().all(|name| known.contains(name)), "{text}");
        }
    }

    /// The metrics whose samples are the same in both scrapes.
    fn unmoved(before: &(String, String), after: &(String, String)) -> BTreeSet<&'static str> {
        let [before, after] = [before, after].map(|(process, store)| format!("{process}{store}"));
        let names = METRICS.iter().map(|metric| metric.name);
        names.filter(|name| of(name, &before) == of(name, &after)).collect()
    }

    /// The samples of one metric.
    fn of(name: &str, text: &str) -> BTreeMap<String, f64> {
        let is_its = |sample: &String| named(sample).contains(name);
        samples(text).into_iter().filter(|(sample, _)| is_its(sample)).collect()
    }

    async fn something_of_everything(f: &Fixture) {
        let saga = |key: &str| NewItem { saga: Some("S".into()), ..item(key) };
        // Random, so that no engine compresses it.
        let large: String = std::iter::repeat_with(fastrand::alphanumeric).take(1 << 20).collect();
        let followup = NewItem::new("mail", "k/followup", large);
        f.enqueue(saga("saga")).await;
        let writes = HostWrites { followups: vec![followup], ..HostWrites::default() };
        settle(f, settled(Settlement::Done { result: None, writes })).await;
        settle(f, retry(Duration::ZERO)).await;
        f.enqueue(ordered("first")).await;
        f.enqueue(ordered("second")).await;
        f.enqueue(NewItem::new("nobody", "unhandled", "{}")).await;
        f.clock.advance(Duration::from_millis(1));
        let claims = f.claim("mail", 2).await;
        for claim in claims {
            let end = if claim.item.ordering_key.is_some() { dead() } else { done() };
            f.store.settle(&claim.reference(), end).await.unwrap();
        }
        f.enqueue(item("expires")).await;
        f.claim_one("mail").await;
        f.enqueue(item("retried")).await;
        settle(f, retry(Duration::ZERO)).await;
        f.store.count_violation(Violation::MissingCorrelationId).await.unwrap();
        let (actor, execution) = ("ada".to_owned(), Execution::Apply);
        for control in [
            Control::Pause { item_type: "mail".into() },
            Control::PauseKey { fairness_key: "tenant".into(), item_type: None },
        ] {
            let request = ControlRequest { control, actor: actor.clone(), reason: None, execution };
            f.store.control(&request).await.unwrap();
        }
        f.store.heartbeat(&pod("pod-1")).await.unwrap();
    }

    async fn settle(f: &Fixture, end: SettleRequest) {
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), end).await.unwrap();
        f.clock.advance(Duration::from_millis(1));
    }

    pub(super) async fn sums_over_five_processes_are_what_happened_and_each_tells_the_same_of_the_store(
        backend: Backend,
    ) {
        let deployment = Deployment::on(TestDb::new(backend)).await;
        let mut hosts = Vec::new();
        for _ in 0..5 {
            hosts.push(
                deployment.plan.clone().set("OUTBOX_CONCURRENCY", "2").set("OUTBOX_PREFETCH", "0").start("serve").await,
            );
        }
        let lines: Vec<_> =
            (0..60).map(|number| format!(r#"{{"type":"webhook","idem_key":"k{number}","payload":{{}}}}"#)).collect();
        let headers = [("content-type", "application/x-ndjson")];
        let answer = hosts[0].send("POST", "/items", &headers, &lines.join("\n")).await;
        assert_eq!(answer.status, 202, "{:?}", answer.body);
        let total = r#"outbox_attempts_total{type="webhook",outcome="done"}"#;
        eventually("all are done", SOON, async || scraped(&hosts[4], "/metrics/store").await.get(total) == Some(&60.0))
            .await;

        let count = r#"outbox_attempt_seconds_count{type="webhook",outcome="done"}"#;
        let mut sum = 0.0;
        for host in &hosts {
            let process = scraped(host, "/metrics").await;
            assert!(!process.keys().any(|sample| sample.starts_with("outbox_items")), "{process:?}");
            sum += process.get(count).copied().unwrap_or_default();
            let store = scraped(host, "/metrics/store").await;
            assert_eq!((store[total], store[r#"outbox_items{status="DONE",type="webhook"}"#]), (60.0, 60.0));
            assert!(!store.keys().any(|sample| sample.starts_with("outbox_attempt_seconds")), "{store:?}");
        }
        assert!((sum - 60.0).abs() < f64::EPSILON, "{sum}");
    }

    async fn scraped(host: &HostProcess, path: &str) -> BTreeMap<String, f64> {
        let text = String::from_utf8(host.send("GET", path, &[], "").await.body.to_vec()).unwrap();
        is_sound(&["check", "metrics"], &text);
        samples(&text)
    }
}

on_each_backend! {
    every_metric_exists_and_moves_and_no_other_does
    sums_over_five_processes_are_what_happened_and_each_tells_the_same_of_the_store
}
