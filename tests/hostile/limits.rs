//! Every limit, with one example that stays within it and one that exceeds it.
//!
//! An example is a component or an order of the hostile corpora, which run all of them, or a separate test.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use outbox::core::Outcome;
use outbox::runtime::{EnvLookup, Limits, check_manifest};

use super::Ending;
use super::components::{self, LOG, calling};
use crate::support::guests::root;
use crate::support::plugins::PluginHost;

/// An example for one side of a limit.
#[derive(Clone, Copy, Debug)]
enum Half {
    /// A component of the corpus, by its name.
    Component(&'static str),
    /// An order of the corpus, by its name.
    Order(&'static str),
    /// A separate test, by its file and its name.
    Test(&'static str, &'static str),
}

use Half::{Component, Order, Test};

/// The limited resource, the manifest's setting if there is one, the example within the limit, and the one beyond it.
const LIMITS: [(&str, Option<&str>, Half, Half); 41] = [
    ("one memory", Some("memory"), Component("memory-within"), Component("memory-bomb")),
    ("memories together", Some("memory"), Component("memories-within"), Component("memories-together")),
    ("the largest memory that can be allowed", None, Component("memories-within"), Component("memory-beyond-any")),
    ("memories", None, Component("memories-within"), Component("many-memories")),
    ("elements of tables", Some("table_elements"), Component("table-within"), Component("table-bomb")),
    ("the most elements that can be allowed", None, Component("table-within"), Component("table-beyond-any")),
    ("tables", None, Component("tables-within"), Component("many-tables")),
    ("core instances", Some("instances"), Component("instances-within"), Component("many-instances")),
    (
        "the most instances that can be allowed",
        None,
        Component("instances-within"),
        Component("far-too-many-instances"),
    ),
    ("what the host keeps of an instance", None, Component("record-within"), Component("large-record")),
    ("stack", None, Component("recursion-within"), Component("endless-recursion")),
    ("CPU", Some("cpu"), Component("loop-within"), Component("endless-loop")),
    ("wall time", None, Order("sleep within"), Order("slow for ever")),
    ("bytes of a host call", None, Component("string-within"), Component("huge-string")),
    ("handles of the host's", None, Component("handles-within"), Component("handle-leak")),
    ("handles of a component's own", None, Component("hoard-within"), Component("hoard")),
    ("random bytes", None, Component("chance-within"), Component("too-much-chance")),
    ("log bytes", None, LOGGING, LOGGING),
    ("emitted items", Some("followups"), Order("items within"), Order("flood of items")),
    ("items that descend from one", Some("descendants"), DESCENDING, DESCENDING),
    ("payload of an emitted item", None, Order("item of that size within"), Order("large item")),
    ("delay of an emitted item", None, Order("late item within"), Order("item of another age")),
    ("value of the state", None, Order("value within"), Order("large value")),
    ("state, when it is written", Some("state_bytes"), Order("value within"), Order("value over quota")),
    ("state, when it is settled", Some("state_bytes"), SETTLING, SETTLING),
    ("state that an attempt writes", None, Order("state within"), Order("flood of state")),
    ("keys of the state that an attempt touches", None, Order("keys within"), Order("flood of keys")),
    ("size of a component", Some("component"), Component("component-within"), Component("large-component")),
    ("time to compile", None, COMPILING, COMPILING),
    ("time to describe itself", None, Component("loop-within"), Component("describe-loop")),
    ("types, name and version of a description", None, DESCRIBING, DESCRIBING),
    ("requests", Some("http_requests"), Order("requests within"), Order("flood of requests")),
    ("body of a request", Some("request"), Order("body within"), Order("large body")),
    ("body of a response", Some("response"), Order("response within"), Order("response bomb")),
    ("headers of a request", None, Order("header within"), Order("large header")),
    ("headers of a response", None, Order("many headers within"), Order("header bomb")),
    ("bytes of the answer", Some("result"), Order("result within"), Order("large result")),
    ("claims at a time", Some("concurrency"), CLAIMING, CLAIMING),
    ("claims per second", Some("rate"), RATING, RATING),
    ("claims of a fairness key at a time", Some("concurrency_per_key"), SHARING, SHARING),
    ("claims of a fairness key per second", Some("rate_per_key"), PACING, PACING),
];

const LOGGING: Half = Test("tests/hostile/limits.rs", "an_attempt_fills_its_share_of_the_hosts_log_and_no_more");
const SETTLING: Half =
    Test("tests/sandbox.rs", "state_within_its_quota_is_kept_and_what_goes_beyond_fails_at_settlement");
const DESCENDING: Half =
    Test("tests/sandbox.rs", "items_that_enqueue_items_without_an_end_are_stopped_and_stuck_names_their_root");
const COMPILING: Half = Test("host/runtime/src/load/loader.rs", "compiling_is_given_up_when_it_takes_too_long");
const DESCRIBING: Half = Test("host/runtime/src/load/compatibility.rs", "a_description_is_short_enough_to_be_shown");
const CLAIMING: Half =
    Test("tests/store_contract/claims.rs", "a_claim_never_exceeds_its_limit_or_the_types_concurrency");
const RATING: Half = Test("tests/store_contract/claims.rs", "a_rate_limits_claims_per_second");
const SHARING: Half =
    Test("tests/store_contract/fairness.rs", "no_more_than_the_concurrency_of_a_key_is_claimed_and_other_keys_go_on");
const PACING: Half = Test("tests/store_contract/fairness.rs", "the_rate_of_a_key_limits_this_key_only");

#[test]
fn every_limit_has_what_keeps_to_it_and_what_does_not() {
    for (limit, _, obeyed, violated) in LIMITS {
        assert!(ends(obeyed, |ending| matches!(ending, Ending::Done)), "{limit}: {obeyed:?}");
        assert!(ends(violated, |ending| !matches!(ending, Ending::Done)), "{limit}: {violated:?}");
    }
}

#[test]
fn every_limit_that_a_manifest_sets_is_in_the_table() {
    let settings: BTreeSet<_> = defaults().into_keys().collect();
    let listed: BTreeSet<_> = LIMITS.iter().filter_map(|(_, setting, ..)| setting.map(str::to_owned)).collect();
    assert_eq!(listed, settings);
}

/// The default of each setting of a manifest, times in seconds; `None` where there is none.
fn defaults() -> BTreeMap<String, Option<u64>> {
    let limits = serde_json::to_value(Limits::default()).unwrap();
    let default = |(name, value): (&String, &serde_json::Value)| match name.strip_suffix("_ms") {
        Some(name) => (name.to_owned(), value.as_u64().map(|ms| ms / 1_000)),
        None => (name.clone(), value.as_u64()),
    };
    limits.as_object().unwrap().iter().map(default).collect()
}

/// Setting, default and ceiling of each row of the table in the documentation.
fn documented(text: &str) -> Vec<[String; 3]> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>());
    cells.map(|cells| [cells[1].clone(), cells[2].clone(), cells[3].clone()]).collect()
}

/// A number, its unit, and the factor of the unit; none for the word `none`.
fn number_and_unit(word: &str) -> Option<(u64, &str, u64)> {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let factor = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "m" => 60,
        _ => 1,
    };
    Some((word.strip_suffix(unit)?.parse().ok()?, unit, factor))
}

fn is_accepted(setting: &str, number: u64, unit: &str) -> bool {
    let value = if unit.is_empty() { number.to_string() } else { format!("'{number}{unit}'") };
    let environment: EnvLookup = Arc::new(|_| None);
    check_manifest(&format!("limits.{setting} = {value}"), &environment).is_ok()
}

#[test]
fn the_documented_defaults_and_ceilings_are_those_of_manifests() {
    let rows = documented(&std::fs::read_to_string(root().join("docs/security.md")).unwrap());
    let defaults = defaults();
    assert_eq!(rows.len(), defaults.len());
    for [setting, default, ceiling] in rows {
        let documented = number_and_unit(&default).map(|(number, _, factor)| number * factor);
        assert_eq!(documented, defaults[&setting], "{setting}");
        if let Some((most, unit, _)) = number_and_unit(&ceiling) {
            assert!(
                is_accepted(&setting, most, unit) && !is_accepted(&setting, most + 1, unit),
                "{setting}: {ceiling}"
            );
        }
    }
}

/// Whether the example exists and ends as expected. A separate test covers both sides of its limit.
fn ends(half: Half, so: impl Fn(&Ending) -> bool) -> bool {
    match half {
        Component(name) => components::corpus().iter().any(|component| component.name == name && so(&component.ending)),
        Order(name) => super::orders::corpus(0).iter().any(|(order, _, ending)| *order == name && so(ending)),
        Test(file, name) => {
            let text = std::fs::read_to_string(root().join(file)).unwrap();
            text.contains(&format!("fn {name}("))
        }
    }
}

/// The bytes that the host writes to its log.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The host's log after a component has logged `lines` lines of `bytes` bytes.
async fn logged(lines: u32, bytes: u32) -> String {
    let line = format!("(call $f (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 16384) (i32.const {bytes}))");
    let body = components::repeat(lines, &line);
    let component = calling("logs", &LOG, &body, Ending::Done);
    let host = PluginHost::start(None, |dir| std::fs::write(dir.join("logs.wasm"), component.bytes).unwrap()).await;
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG);
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let report = host.handle("logs").await;
    assert!(matches!(report.outcome, Outcome::Done { .. }), "{report:?}");
    assert!(report.stderr.unwrap().len() <= 16 << 10);
    let written = written.0.lock().unwrap();
    let text = String::from_utf8_lossy(&written);
    text.lines().filter(|line| line.contains("outbox::plugin::log")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn an_attempt_fills_its_share_of_the_hosts_log_and_no_more() {
    const LEFT_OUT: &str = "an attempt logs more than 64KiB: the rest is left out";
    let some = logged(10, 100).await;
    assert_eq!((some.lines().count(), some.contains(LEFT_OUT)), (10, false));
    let names_its_origin = |line: &str| line.contains(" INFO ") && line.contains("plugin=logs item.id=");
    assert!(some.lines().all(names_its_origin), "{some}");
    let flood = logged(1000, 10_000).await;
    assert_eq!(flood.matches(LEFT_OUT).count(), 1);
    assert_eq!(flood.lines().count(), 16 + 1, "lines of 4KiB, of which 64KiB have room for sixteen");
}
