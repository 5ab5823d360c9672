//! `outbox bench`: its JSON output, and the data that it must not change.

use std::collections::BTreeSet;

use super::CliFixture;
use crate::support::postgres::Cluster;

/// The names of the figures. Tools compare them between versions, so they must not change.
const NAMES: [&str; 14] = [
    "fsync",
    "limit.drain",
    "limit.enqueue_bulk",
    "drain.native",
    "drain.sandbox",
    "drain.sandbox_ordered",
    "drain.webhook",
    "enqueue.bulk",
    "enqueue.callers_1",
    "enqueue.callers_8",
    "enqueue.callers_64",
    "enqueue.http_64",
    "latency.idle_p50",
    "latency.idle_p99",
];

#[test]
fn a_bench_prints_every_figure_once_with_its_unit_its_spread_and_its_ratio() {
    let fixture = CliFixture::empty();
    let plugins = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins.d");
    let plan = fixture.plan.clone().set("OUTBOX_PLUGINS", plugins).set("OUTBOX_CONCURRENCY", "8");
    let report = plan.json(&["bench", "--quick", "--rounds", "2", "--items", "100", "--json"]);
    assert_eq!(report["rounds"], 2);
    let figures = report["figures"].as_array().unwrap();
    let names: BTreeSet<_> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), figures.len(), "{report}");
    for name in NAMES {
        assert!(names.contains(name), "{name} is missing in {names:?}");
    }
    for figure in figures {
        let values = ["per_s", "ms", "bytes"].into_iter().filter_map(|unit| figure[unit].as_f64());
        assert!(values.clone().count() == 1 && values.sum::<f64>() >= 0.0, "{figure}");
        assert!(figure["spread"].is_f64() && figure["ratio"].as_f64().unwrap() > 0.0, "{figure}");
    }
    assert!(!fixture.dir.path().join("outbox.sqlite").exists(), "the configured database is not the bench's");
}

#[test]
fn a_bench_leaves_a_database_alone_that_holds_items() {
    let fixture = CliFixture::migrated();
    fixture.enqueue("k");
    let args = ["bench", "--db", "outbox.sqlite", "--quick", "--rounds", "1", "--items", "100"];
    fixture.run(&args).fails(1, &["outbox.sqlite holds items", "--db"]);
    assert_eq!(fixture.json(&["list"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_bench_of_a_server_works_beside_the_database_that_is_named_and_leaves_nothing_there() {
    let database = Cluster::shared().empty_database();
    let url = database.url_of("postgres");
    let fixture = CliFixture::empty();
    let plan = fixture.plan.clone().set("OUTBOX_CONCURRENCY", "8");
    let args = ["bench", "--db", &url, "--quick", "--rounds", "1", "--items", "100", "--json"];
    let report = plan.json(&args);
    let figures = report["figures"].as_array().unwrap();
    for name in NAMES.iter().filter(|name| **name != "drain.webhook") {
        let figure =
            figures.iter().find(|figure| figure["name"] == *name).unwrap_or_else(|| panic!("{name}: {report}"));
        assert!(figure["ratio"].as_f64().unwrap() > 0.0, "{figure}");
    }
    assert_eq!(database.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'outbox_bench_%'").unwrap(), "0");
    assert_eq!(database.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'outbox'").unwrap(), "0");
}

#[test]
fn a_bench_leaves_a_server_alone_whose_database_holds_items() {
    let database = Cluster::shared().database();
    database.sql("SELECT outbox.enqueue('mail', 'k', '{}')").unwrap();
    let args = ["bench", "--db", &database.url_of("postgres"), "--quick", "--rounds", "1", "--items", "100"];
    CliFixture::empty().run(&args).fails(1, &["holds items", "--db"]);
}
