//! The cockpit in a browser, on both stores. The walks are in `tests/browser/`: this file starts the host that they visit.
//!
//! They need Chromium and tools from npm, and take minutes: `make test-browser` and `make browser-full` run them.

use std::path::Path;
use std::process::Command;

use outbox::core::sha256;
use outbox::http::Role;
use serde_json::json;

use crate::support::guests::root;
use crate::support::host::free_port;
use crate::support::stage::Deployment;
use crate::support::{Backend, TestDb};

/// Where `make` puts the tools from npm.
const TOOLS: &str = "OUTBOX_BROWSER_TOOLS";

/// The text of the token of a role.
fn token(role: Role) -> String {
    format!("{role}-token-of-the-browser-test")
}

/// `outbox.toml` with a token for each role. Who operates may read payloads too.
fn settings() -> String {
    let table = |role: Role| {
        let rights = if role == Role::Operate { "rights = ['read-payload']\n" } else { "" };
        let digest = sha256(token(role).as_bytes());
        format!("[[tokens]]\nname = 'the-{role}'\nrole = '{role}'\nsha256 = '{digest}'\n{rights}")
    };
    Role::ALL.map(table).concat()
}

/// Runs a walk against a host of its own. `pictures` is where it puts pictures of the views, if it makes any.
async fn walk(script: &'static str, backend: Backend, pictures: Option<&Path>) {
    let deployment = Deployment::on(TestDb::new(backend)).await;
    std::fs::write(deployment.dir.path().join("outbox.toml"), settings()).unwrap();
    let receiver = free_port();
    let plan = deployment.plan.clone().set("WEBHOOK_URL", &format!("http://127.0.0.1:{receiver}/hook"));
    let plan = plan.set("OUTBOX_ENVIRONMENT", "staging").set("OUTBOX_ENVIRONMENT_COLOUR", "amber");
    let host = plan.start("serve").await;
    let tokens: serde_json::Map<_, _> =
        Role::ALL.map(|role| (role.to_string(), token(role).into())).into_iter().collect();
    let stage = json!({
        "url": host.url,
        "tokens": tokens,
        "plugins": deployment.plugins(),
        "receiver": receiver,
        "tools": std::env::var(TOOLS).unwrap_or_else(|_| panic!("{TOOLS} is not set: use make test-browser")),
        "pictures": pictures,
    });
    let mut node = Command::new("node");
    node.arg(root().join("tests/browser").join(script)).env("OUTBOX_BROWSER_STAGE", stage.to_string());
    // The receivers of this test answer meanwhile.
    let ended = tokio::task::spawn_blocking(move || node.status()).await.unwrap().unwrap();
    let log = || std::fs::read_to_string(deployment.dir.path().join("host.log")).unwrap_or_default();
    assert!(ended.success(), "{script} on {backend:?}: the host says\n{}", log());
    assert!(!log().contains("panicked"), "{}", log());
    assert_eq!(host.terminate(), Some(0));
}

#[tokio::test]
#[ignore = "needs a browser: make test-browser"]
async fn an_operator_walks_through_a_night_on_sqlite() {
    walk("walk.mjs", Backend::Sqlite, None).await;
}

#[tokio::test]
#[ignore = "needs a browser: make test-browser"]
async fn an_operator_walks_through_a_night_on_postgres() {
    walk("walk.mjs", Backend::Postgres, None).await;
}

#[tokio::test]
#[ignore = "needs a browser: make browser-full"]
async fn every_view_is_for_everybody_in_both_themes_on_sqlite() {
    walk("full.mjs", Backend::Sqlite, Some(&root().join("docs/cockpit"))).await;
}

#[tokio::test]
#[ignore = "needs a browser: make browser-full"]
async fn every_view_is_for_everybody_in_both_themes_on_postgres() {
    walk("full.mjs", Backend::Postgres, None).await;
}
