//! A truncated or changed component file is refused with a reason or passes every check, and the host keeps the good
//! version.

use outbox::core::PluginState;
use outbox::runtime::inspect;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::plugins::{PluginHost, Wat};
use crate::support::{guests, is_soak};

/// A kind of damage to a file.
#[derive(Clone, Debug)]
enum Harm {
    Cut(Index),
    Flip(Vec<(Index, u8)>),
    Swap(Index, Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        any::<Index>().prop_map(Harm::Cut),
        prop::collection::vec((any::<Index>(), 1..=u8::MAX), 1..8).prop_map(Harm::Flip),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Harm::Swap(one, other)),
    ]
}

fn harmed(good: &[u8], harm: &Harm) -> Vec<u8> {
    let mut bytes = good.to_vec();
    match harm {
        Harm::Cut(at) => bytes.truncate(at.index(good.len())),
        Harm::Flip(flips) => flips.iter().for_each(|(at, mask)| bytes[at.index(good.len())] ^= mask),
        Harm::Swap(one, other) => bytes.swap(one.index(good.len()), other.index(good.len())),
    }
    bytes
}

/// Asserts that the host either refuses the bytes with a reason or accepts a component that passes every check.
fn is_judged(runtime: &tokio::runtime::Runtime, host: &PluginHost, bytes: &[u8]) {
    host.put("harmed", bytes);
    let file = host.path("harmed");
    let inspection = runtime.block_on(inspect(&file, host.settings())).unwrap();
    assert!(!inspection.types.is_empty() || !inspection.errors.is_empty(), "{inspection:?}");
    assert!(inspection.errors.iter().all(|error| !error.is_empty()));
}

#[test]
fn no_harm_to_a_component_makes_the_loader_panic_or_guess() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let host = runtime.block_on(PluginHost::start(None, |_| ()));
    let compiled = std::fs::read(guests::chaos(1)).unwrap();
    // A compiled component is large, and the host finds much of the damage only after it has compiled everything.
    let corpus = [(Wat::default().bytes(), 96), (compiled, if is_soak() { 256 } else { 12 })];
    for (good, cases) in corpus {
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(harm in harm())| is_judged(&runtime, &host, &harmed(&good, &harm)));
    }
}

#[tokio::test]
async fn the_good_one_stays_live_while_harmed_ones_come_and_go() {
    let good = Wat::default().bytes();
    let host = PluginHost::start(None, |dir| std::fs::write(dir.join("p.wasm"), &good).unwrap()).await;
    let live = host.status("p").digest;
    for step in 1..12 {
        host.put("p.wasm", &good[..good.len() * step / 12]);
        host.until("the refusal", |host| host.status("p").error.is_some()).await;
        assert_eq!((host.status("p").state, host.status("p").digest), (PluginState::Active, live.clone()));
        let report = host.handle("t").await;
        assert!(matches!(report.outcome, outbox::core::Outcome::Done { .. }), "{report:?}");
        host.put("p.wasm", &good);
        host.until("the good one", |host| host.status("p").error.is_none()).await;
    }
}
