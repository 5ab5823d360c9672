//! Calls of a small component: its outcomes, its limits and its deadline.

use outbox_core::{ComponentDigest, FailureClass};
use outbox_item::{ItemId, Millis, NewItem, Status};

use crate::load::contract::CONTRACT_VERSION;
use crate::load::loader::{Generation, Loader};
use crate::load::signature::TrustedKeys;
use crate::load::source::PluginSource;
use crate::outgoing::authorities::TlsConfig;
use crate::outgoing::resolve::SystemResolver;
use crate::sandbox::instance::*;

fn item() -> Item {
    let item = NewItem { cid: Some("cid".into()), ..NewItem::new("t", "key", "{}") }
        .into_item(ItemId::new(1), Millis::default());
    Item { status: Status::Claimed, attempts: 1, deliveries: 1, ..item }
}

fn attempt(time_allowed: Duration) -> Attempt {
    Attempt {
        item: Arc::new(item()),
        deadline: Instant::now() + time_allowed,
        deadline_at: Millis::new(1),
        mode: DeliveryMode::Durable,
        stop: tokio_util::sync::CancellationToken::new(),
        locks: Arc::default(),
        trace: None,
    }
}

/// A component that computes for ever, on these terms.
fn looping(manifest: &str) -> PluginSource {
    let words = [
        ("{types}", r"\08\02\00\00\01\00\00\00t"),
        ("{count}", r"\01"),
        ("{memory}", "1"),
        ("{version}", CONTRACT_VERSION),
    ];
    let describe = ("{describe}", "(i32.const 8)");
    let handle = ("{handle}", "(loop $again (br $again)) unreachable");
    let blank = ["{imports}", "{core}", "{with}"].map(|word| (word, ""));
    let text = words
        .into_iter()
        .chain([describe, handle])
        .chain(blank)
        .fold(include_str!("../../../../../tests/wat/handler.wat").to_owned(), |text, (word, replacement)| {
            text.replace(word, replacement)
        });
    let wasm = wat::parse_str(text).unwrap();
    PluginSource {
        name: "p".to_owned(),
        role: None,
        file: "p.wasm".into(),
        digest: ComponentDigest::of(&wasm),
        wasm: Arc::new(wasm),
        manifest: Some(manifest.to_owned()),
        manifest_files: Vec::new(),
        signature: None,
    }
}

async fn generation(slots: usize, source: PluginSource) -> Generation {
    let engine = SharedEngine::new(slots, Arc::new(SystemResolver), TlsConfig::public()).unwrap();
    Arc::new(Loader::new(engine, None, Arc::new(|_| None), TrustedKeys::default())).load(source).await.unwrap()
}

#[tokio::test]
async fn a_guest_that_computes_after_a_time_of_rest_is_interrupted_too() {
    let generation = generation(1, looping("limits.cpu = '20ms'")).await;
    for burst in 0..3 {
        while !generation.plugin.ticker.is_idle() {
            tokio::task::yield_now().await;
        }
        let report = generation.plugin.attempt(&attempt(Duration::from_secs(20)), Arc::new(NoState), None).await;
        let failed = |class| matches!(&report.outcome, Outcome::Failed(failure) if failure.class == class);
        assert!(failed(FailureClass::Cpu), "burst {burst}: {report:?}");
    }
}

#[tokio::test]
async fn an_attempt_that_finds_the_pool_of_instances_empty_is_given_back() {
    let generation = generation(0, looping("limits.cpu = '60s'")).await;
    let attempts: Vec<_> = (0..20).map(|_| attempt(Duration::from_millis(500))).collect();
    let running = attempts.iter().map(|attempt| generation.plugin.attempt(attempt, Arc::new(NoState), None));
    let reports = futures_util::future::join_all(running).await;
    let classes: Vec<_> = reports.into_iter().map(|report| report.outcome).collect();
    let of = |class| {
        let is = |outcome: &&Outcome| matches!(outcome, Outcome::Failed(failure) if failure.class == class);
        classes.iter().filter(is).count()
    };
    assert_eq!((of(FailureClass::Timeout), of(FailureClass::Host)), (8, 12), "{classes:?}");
}
