//! Hostile components: each ends in the expected failure class, with the name and the value of the limit, while the
//! host continues to handle a well-behaved type and its memory stays bounded.

mod components;
mod limits;
mod mutations;
mod neighbour;
mod network;
mod orders;

use std::sync::Arc;
use std::time::Duration;

use outbox::core::{FailureClass, Handler as _, Outcome};

use crate::support::guests;
use crate::support::plugins::{PluginHost, Wat, attempt};
use neighbour::Neighbour;
use network::{Names, Server};

/// The expected end of a component.
pub(crate) enum Ending {
    /// The host does not load it, for a reason that contains this text.
    Refused(&'static str),
    /// Its attempt fails with this class and a message that contains this text.
    Fails(FailureClass, &'static str),
    /// Its attempt succeeds, because it stays within the limit.
    Done,
}

/// The longest attempt of the well-behaved type beside a hostile one; it allows for a busy machine.
const LATENCY_MAX: Duration = Duration::from_secs(2);
/// The most memory by which the host may grow. It is far more than the hostile components are allowed together, and far
/// less than they request.
const GROWTH_MAX: u64 = 384 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_component_ends_as_its_class_while_others_go_on() {
    let corpus = components::corpus();
    assert!(corpus.len() + orders::corpus(0).len() >= 30);
    let host = PluginHost::start(None, |dir| {
        std::fs::write(dir.join("good.wasm"), Wat { types: &["good"], ..Wat::default() }.bytes()).unwrap();
        for component in &corpus {
            std::fs::write(dir.join(component.name).with_extension("wasm"), &component.bytes).unwrap();
            std::fs::write(dir.join(component.name).with_extension("toml"), component.manifest).unwrap();
        }
    })
    .await;
    for component in corpus {
        let neighbour = Neighbour::watch(&host);
        check(&host, component.name, component.name, "{}", &component.ending).await;
        neighbour.was_well(component.name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_order_ends_as_its_class_while_others_go_on() {
    let server = Server::start().await;
    let chaos = std::fs::read(guests::chaos(1)).unwrap();
    let host = PluginHost::start_resolving(Arc::new(Names::new()), |dir| {
        std::fs::write(dir.join("good.wasm"), Wat { types: &["good"], ..Wat::default() }.bytes()).unwrap();
        std::fs::write(dir.join("chaos.wasm"), chaos).unwrap();
        std::fs::write(dir.join("chaos.toml"), orders::manifest(server.port)).unwrap();
    })
    .await;
    for (name, order, ending) in orders::corpus(server.port) {
        let neighbour = Neighbour::watch(&host);
        check(&host, name, "chaos", &order.to_string(), &ending).await;
        neighbour.was_well(name).await;
    }
    let heads = server.heads();
    assert!(heads.iter().all(|head| !head.contains("evil") && !head.contains("forged")), "{heads:?}");
}

async fn check(host: &PluginHost, name: &str, item_type: &str, payload: &str, ending: &Ending) {
    if let Ending::Refused(words) = ending {
        let error = host.status(name).error.unwrap_or_else(|| panic!("{name} was loaded"));
        return assert!(error.contains(words), "{name}: {error}");
    }
    let mut attempt = attempt(item_type, Duration::from_secs(20));
    Arc::make_mut(&mut attempt.item).payload = payload.as_bytes().to_vec();
    let timeout = Duration::from_secs(if name.starts_with("slow") { 1 } else { 20 });
    attempt.deadline = tokio::time::Instant::now() + timeout;
    match (host.plugins.handle(attempt).await.outcome, ending) {
        (Outcome::Failed(failure), Ending::Fails(class, words)) => {
            assert_eq!(failure.class, *class, "{name}: {failure:?}");
            assert!(failure.message.contains(words), "{name}: {failure:?}");
        }
        (Outcome::Done { .. }, Ending::Done) => {}
        (other, _) => panic!("{name}: {other:?}, load error {:?}", host.status(item_type).error),
    }
}
