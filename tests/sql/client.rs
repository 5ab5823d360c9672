//! The crate with which applications enqueue: its behaviour with every driver, its examples and its documentation.

use std::path::Path;
use std::process::Command;

use outbox::item::{Item, ItemId, Millis};
use outbox::postgres::{PostgresOptions, PostgresStore};
use outbox::sqlite::{SqliteOptions, SqliteStore, migrate};
use outbox::store::Store;

use super::{flat, rust_example, sections};
use crate::support::guests::root;
use crate::support::postgres::Cluster;
use crate::support::{all, blocks};

/// Cargo for the client crate alone, with every driver. In one build with the host, the features of sqlx would change
/// crates that both use, and cargo would compile these crates again.
fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([command, "--quiet", "-p", "outbox-client", "--all-features"]).current_dir(root());
    cargo.args(["--features", "sqlx-core/_rt-tokio"]);
    cargo
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Runs an example of the client on the database at the address.
pub(super) fn run_example(name: &str, address: &str) {
    run(cargo("run").args(["--example", name, "--", address]));
}

#[test]
fn the_page_of_the_client_shows_the_examples_that_run() {
    let page = blocks(include_str!("../../host/client/README.md"), "rust");
    let shown: Vec<_> = page.iter().map(|example| flat(example)).collect();
    assert!(shown.len() == 3 && shown.contains(&rust_example(sections().0)), "SQLite");
    assert!(shown.contains(&rust_example(sections().1)), "PostgreSQL");
}

#[tokio::test]
async fn every_driver_keeps_the_promise_of_enqueue_in_and_the_host_reads_what_it_stored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sqlite");
    migrate(&path).unwrap();
    let databases = [Cluster::shared().database(), Cluster::shared().database()];
    let mut promise = cargo("test");
    promise.args(["--test", "drivers", "--", "--ignored"]).env("OUTBOX_RUSQLITE", &path);
    promise.env("OUTBOX_TOKIO_POSTGRES", databases[0].url()).env("OUTBOX_SQLX_POSTGRES", databases[1].url());
    let told = run(&mut promise);
    assert!(told.contains("3 passed"), "{told}");
    let sqlite = read(&*open_sqlite(&path)).await;
    assert_eq!(sqlite.iter().map(|item| item.idem_key.as_str()).collect::<Vec<_>>(), ["bare", "full", "m", "l", "k"]);
    for database in databases {
        let store = PostgresStore::open_existing(&database.url(), PostgresOptions::default()).await.unwrap();
        let items = read(&*store).await;
        assert_eq!(
            items.iter().filter(|item| !item.idem_key.contains("race")).collect::<Vec<_>>(),
            sqlite.iter().collect::<Vec<_>>()
        );
        assert_eq!(items.iter().filter(|item| item.idem_key.contains("race")).count(), 2);
    }
}

fn open_sqlite(path: &Path) -> std::sync::Arc<dyn Store> {
    SqliteStore::open_existing(path, SqliteOptions::default()).unwrap()
}

/// The stored items, the newest first, without ids and times, which differ between runs.
async fn read(store: &dyn Store) -> Vec<Item> {
    let mut items = all(store).await;
    for item in &mut items {
        item.available_at = Millis::default().saturating_add(item.available_at.since(item.created_at));
        (item.id, item.created_at) = (ItemId::new(0), Millis::default());
    }
    items
}
