//! The Open Outbox specification, one requirement at a time, tested through the public interfaces: the `Store` trait,
//! SQL, HTTP and the command line.
//!
//! The name of each test begins with the numbers of the requirements that it tests: `x3_…` tests X-3. Each test runs
//! once on every store. `ARCHITECTURE.md` lists the declined requirements with their reasons; they have no test.
//! `make conformance` prints all requirements.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use outbox::core::{Failure, Settlement};
use outbox::http::HostStatus;
use outbox::item::{Item, ItemId, NewItem, Status};
use outbox::store::{Action, EffectKeys, Execution, Filter, OperateRequest, Selection};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::support::guests::root;
use crate::support::host::HostConfig;
use crate::support::{Fixture, dead, done, item, router_over, settled};

/// Lists the tests of a chapter and runs each of them on every store.
macro_rules! requirements {
    ($($name:ident)*) => {
        pub(super) const TESTS: &[&str] = &[$(stringify!($name)),*];
        requirements!(@on sqlite Sqlite $($name)*);
        requirements!(@on postgres Postgres $($name)*);
    };
    (@on $module:ident $backend:ident $($name:ident)*) => {
        mod $module { $(
            #[tokio::test]
            async fn $name() {
                let f = crate::support::Fixture::new(crate::support::Backend::$backend).await;
                super::requirement::$name(f).await;
            }
        )* }
    };
}

mod delivery;
mod events;
mod lifecycle;
mod operations;
mod ordering;
mod publisher;
mod retries;
mod stores;

const CHAPTERS: [&[&str]; 8] = [
    delivery::TESTS,
    events::TESTS,
    lifecycle::TESTS,
    operations::TESTS,
    ordering::TESTS,
    publisher::TESTS,
    retries::TESTS,
    stores::TESTS,
];

/// The chapters of the specification, each with its number of requirements.
const NUMBERED: [(char, u32); 10] =
    [('I', 3), ('T', 1), ('E', 22), ('D', 5), ('L', 15), ('S', 14), ('P', 9), ('R', 10), ('O', 7), ('X', 18)];

/// The requirement numbers at the beginning of a test's name: `e1_e2_keys_are_unique` contains E-1 and E-2.
fn numbers(name: &str) -> impl Iterator<Item = String> {
    let number = |word: &str| {
        let (chapter, number) = word.split_at_checked(1)?;
        let number: u32 = number.parse().ok()?;
        Some(format!("{}-{number}", chapter.to_uppercase()))
    };
    name.split('_').map_while(number)
}

/// The numbers of the declined requirements, each with its reason.
fn declined() -> Vec<(String, String)> {
    let document = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = document.split("## Conformance").nth(1).expect("a section about conformance");
    let section = section.split("\n## ").next().unwrap();
    let row = |line: &str| {
        let (number, reason) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
        number.chars().nth(1).filter(|dash| *dash == '-').map(|_| (number.to_owned(), reason.to_owned()))
    };
    section.lines().filter_map(row).filter(|(number, _)| number != "--").collect()
}

#[test]
fn every_requirement_is_tested_or_declined_with_a_reason() {
    let numbered = NUMBERED.iter().flat_map(|(chapter, last)| (1..=*last).map(move |n| format!("{chapter}-{n}")));
    let numbered: BTreeSet<_> = numbered.collect();
    let tested: BTreeSet<_> = CHAPTERS.concat().into_iter().flat_map(numbers).collect();
    let refused = declined();
    assert!(refused.iter().all(|(_, reason)| reason.len() > 20), "a reason is a sentence: {refused:?}");
    let refused: BTreeSet<_> = refused.into_iter().map(|(number, _)| number).collect();
    assert_eq!(tested.intersection(&refused).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(tested.union(&refused).cloned().collect::<BTreeSet<_>>(), numbered);
}

const REPLAY: Action = Action::Replay { keys: EffectKeys::Same };

/// Performs an action on one item; the error is the reason of a refusal.
async fn operate(f: &Fixture, action: Action, id: ItemId) -> Result<(), String> {
    let mut report = f.store.operate(&operate_request(action, Selection::Ids(vec![id]))).await.unwrap();
    report.refused.pop().map_or(Ok(()), |refusal| Err(refusal.reason.to_string()))
}

fn operate_request(action: Action, selection: Selection) -> OperateRequest {
    OperateRequest {
        action,
        selection,
        actor: "ada@host".into(),
        reason: Some("repaired".into()),
        execution: Execution::Apply,
    }
}

fn every(status: Status) -> Selection {
    Selection::Filter(Filter { status: vec![status], ..Filter::default() })
}

/// Enqueues a new item and brings it into a status by claiming and settling it.
async fn item_in(f: &Fixture, status: Status, new: NewItem) -> ItemId {
    let item_type = new.item_type.clone();
    let id = f.enqueue(new).await;
    let settled = match status {
        Status::Pending => return id,
        Status::Claimed => None,
        Status::Done => Some(done()),
        Status::Dlq => Some(dead()),
    };
    let claim = f.claim_one(&item_type).await;
    assert_eq!(claim.item.id, id);
    if let Some(settled) = settled {
        f.store.settle(&claim.reference(), settled).await.unwrap();
    }
    id
}

fn keyed(key: &str, ordering_key: &str) -> NewItem {
    NewItem { ordering_key: Some(ordering_key.into()), ..item(key) }
}

/// A settlement that retries after the delay, for the reason given.
fn retry_because(message: &str, delay: Duration) -> outbox::store::SettleRequest {
    let failure = Failure::new(outbox::core::FailureClass::Retryable, "upstream.503", message);
    settled(Settlement::Retry { failure, delay })
}

/// Sends a request to the HTTP server and returns the status and the body.
async fn http(f: &Fixture, method: &str, path: &str, body: &str) -> (u16, String) {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "localhost").header("content-type", "application/json");
    let request = request.header("accept", "application/json").body(Body::from(body.to_owned())).unwrap();
    let router = router_over(f, HostStatus { is_scanned: true, ..HostStatus::default() });
    let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

/// Sends a request that must succeed and returns the answer's JSON.
async fn http_json(f: &Fixture, method: &str, path: &str, body: &str) -> Value {
    let (status, answer) = http(f, method, path, body).await;
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    serde_json::from_str(&answer).unwrap()
}

/// The settings that run the command line on the database of this fixture.
fn plan(f: &Fixture) -> HostConfig {
    let folder = std::env::temp_dir();
    HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), &folder).set("OUTBOX_DB", &f.test_db.address())
}

/// Runs a command that must succeed.
fn cli(f: &Fixture, args: &[&str]) -> Output {
    let output = plan(f).run(args);
    assert!(output.status.success(), "outbox {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    output
}

/// Reads the item again and checks that its immutable fields are unchanged.
async fn is_the_same(f: &Fixture, first: &Item) -> bool {
    let now = f.item(first.id).await;
    let facts = |item: &Item| {
        let keys = (item.idem_key.clone(), item.cid.clone(), item.saga.clone(), item.ordering_key.clone());
        let content = (item.item_type.clone(), item.payload.clone(), item.content_type.clone());
        (keys, content, item.headers.clone(), item.created_at)
    };
    facts(&now) == facts(first)
}
