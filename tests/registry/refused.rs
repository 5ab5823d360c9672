//! Hosts that have no version of an image that is refused: each says so, and is ready once a version is loaded.

use std::fs;

use serde_json::Value;

use super::follow::{Followed, SOON, runs};
use crate::support::eventually;
use crate::support::host::{HostConfig, HostProcess};
use crate::support::plugins::Wat;

/// Starts a host that must not be ready until it says all of these words of its image and `correct` was called.
async fn starts_after(
    followed: &Followed,
    plan: &HostConfig,
    words: &[&str],
    correct: impl FnOnce() -> Value,
) -> HostProcess {
    let mut starting = std::pin::pin!(plan.start("serve"));
    let refused = eventually("the refusal is told", SOON, async || {
        let error = followed.listed("failed")["error"].as_str().unwrap_or_default().to_owned();
        words.iter().all(|word| error.contains(word))
    });
    tokio::select! {
        _ = &mut starting => panic!("it is ready without a handler"),
        () = refused => {}
    }
    let pods = followed.plan.json(&["stats", "--json"])["pods"].clone();
    assert_eq!(pods[0]["ready"], false, "{pods}");
    let pushed = correct();
    let host = starting.await;
    runs(&host, &pushed).await;
    host
}

#[tokio::test]
async fn a_pod_whose_image_does_not_load_is_not_ready_and_names_the_manifests_that_are_missing() {
    let followed = Followed::new();
    let http = Wat { imports: r#"(import "wasi:http/outgoing-handler@0.2.3" (instance))"#, ..Wat::default() };
    let pushed = followed.push_as("stable", &http.bytes());
    let plan = followed.plan.clone().set("OUTBOX_ROLE", "vector");
    let places = ["manifests/vector/p.toml", "manifests/p.toml"].map(|place| followed.path(place));
    let [of_role, of_all] = places.each_ref().map(|place| format!("no file {}", place.display()));
    let grant = || {
        followed.manifest("[[grant.http]]\norigin = 'http://127.0.0.1:1'\nmethods = ['POST']");
        pushed.clone()
    };
    starts_after(&followed, &plan, &[&of_role, &of_all, "[[grant.http]]"], grant).await;
}

#[tokio::test]
async fn a_pod_whose_image_is_not_signed_is_not_ready_until_it_is() {
    let followed = Followed::new();
    followed.push(1);
    let ours = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let plan = followed.plan.clone().set("OUTBOX_PLUGIN_KEYS", &ours.pk.to_base64());
    let sign = || {
        fs::write(followed.path("secret.key"), ours.sk.to_box(None).unwrap().into_string()).unwrap();
        followed.plan.json(&["plugin", "sign", "p.wasm", "--key", "secret.key", "--json"]);
        followed.plan.json(&["plugin", "push", "p.wasm", &followed.registry.image("p:stable"), "--json"])
    };
    starts_after(&followed, &plan, &["is not signed"], sign).await;
}
