//! The items table as applications use it: with their own SQLite library, in their own transactions.

mod bad_rows;
mod client;
mod postgres;
mod status_view;

use std::process::Command;

use outbox::item::{ItemId, Millis, NewItem, Status};
use outbox::sqlite::{SqliteOptions, SqliteStore, migrate};
use outbox::store::Queue as _;

use crate::support::{Fixture, all, blocks, done, item, request, sqlite3};

fn accepted(path: &str, sql: &str) -> String {
    sqlite3(path, sql).unwrap_or_else(|err| panic!("{sql}: {err}"))
}

fn refused(path: &str, sql: &str, why: &str) {
    let told = sqlite3(path, sql).unwrap_err();
    assert!(told.contains(why), "{sql}: {told}");
}

const INSERT: &str = "INSERT INTO outbox_items (type, idem_key, payload)";

#[tokio::test]
async fn an_item_inserted_in_an_applications_transaction_is_handled_and_a_rolled_back_one_is_not() {
    let f = Fixture::sqlite().await;
    accepted(&f.test_db.address(), "CREATE TABLE orders (id INTEGER PRIMARY KEY)");
    accepted(
        &f.test_db.address(),
        &format!("BEGIN; INSERT INTO orders VALUES (1); {INSERT} VALUES ('mail', 'a', '{{}}'); COMMIT"),
    );
    accepted(
        &f.test_db.address(),
        &format!("BEGIN; INSERT INTO orders VALUES (2); {INSERT} VALUES ('mail', 'b', '{{}}'); ROLLBACK"),
    );
    let mut items = all(&*f.store).await;
    assert_eq!(items.len(), 1);
    let stored = items.pop().unwrap();
    assert_eq!((stored.idem_key.as_str(), stored.payload.as_slice(), stored.cid.len()), ("a", &b"{}"[..], 32));
    // The database's own clock sets the time of the item; the test's clock is in the year 2027.
    assert!(stored.created_at > Millis::new(1_700_000_000_000) && stored.created_at == stored.available_at);
    let claim = f.claim_one("mail").await;
    f.store.settle(&claim.reference(), done()).await.unwrap();
    assert_eq!(f.status(stored.id).await, Status::Done);
}

#[tokio::test]
async fn the_documented_examples_run() {
    let document = sections().0;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sqlite").display().to_string();
    migrate(path.as_ref()).unwrap();
    for sql in blocks(document, "sql") {
        accepted(&path, sql);
    }
    for python in blocks(document, "python") {
        let output = Command::new("python3").arg("-c").arg(python).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    client::run_example("sqlite", &path);
    let rows = accepted(&path, "SELECT idem_key FROM outbox_items ORDER BY id; SELECT count(*) FROM orders");
    assert_eq!(rows, "order-17-confirmed\norder-18-confirmed\norder-19-confirmed\n3");
}

/// The sections of the documentation about SQLite and about PostgreSQL.
fn sections() -> (&'static str, &'static str) {
    include_str!("../docs/enqueueing.md").split_once("\n## PostgreSQL\n").unwrap()
}

/// The Rust example of a section, without white space.
fn rust_example(section: &str) -> String {
    flat(blocks(section, "rust")[0])
}

fn flat(code: &str) -> String {
    code.split_whitespace().collect()
}

/// Whether a source contains the documented Rust example.
fn contains_example(source: &str, section: &str) -> bool {
    flat(source).contains(&rust_example(section))
}

#[test]
fn the_documented_rust_example_is_the_one_that_runs() {
    assert!(contains_example(include_str!("../host/client/examples/sqlite.rs"), sections().0));
}

#[tokio::test]
async fn sql_that_replaces_rows_takes_no_key_from_the_item_that_is_claimed() {
    let f = Fixture::sqlite().await;
    let path = &f.test_db.address();
    let insert = "INSERT OR REPLACE INTO outbox_items (type, idem_key, payload, ordering_key)";
    accepted(path, &format!("{insert} VALUES ('mail', '1', '{{}}', 'o')"));
    let claim = f.claim_one("mail").await;
    accepted(path, &format!("{insert} VALUES ('mail', '2', '{{}}', 'o')"));
    assert!(f.claim("mail", 9).await.is_empty());
    f.store.settle(&claim.reference(), done()).await.unwrap();
    assert_eq!(f.claim_one("mail").await.item.idem_key, "2");
}

#[tokio::test]
async fn a_file_that_is_made_of_a_dump_goes_on() {
    let (f, folder) = (Fixture::sqlite().await, tempfile::tempdir().unwrap());
    for key in ["1", "2"] {
        f.enqueue(NewItem { ordering_key: Some("o".into()), ..item(key) }).await;
    }
    f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
    let copy = folder.path().join("copy.sqlite");
    let dump = String::from_utf8(f.dump()).unwrap();
    accepted(copy.to_str().unwrap(), &dump);
    let store =
        SqliteStore::open_existing(&copy, SqliteOptions { clock: f.clock.source(), ..SqliteOptions::default() })
            .unwrap();
    let claims = store.claim(&request(&["mail"], 9)).await.unwrap().claims;
    assert_eq!(claims.iter().map(|claim| claim.item.idem_key.as_str()).collect::<Vec<_>>(), ["2"]);
}

#[tokio::test]
async fn the_schema_keeps_the_rules_for_sql_callers() {
    let f = Fixture::sqlite().await;
    let path = &f.test_db.address();
    accepted(path, &format!("{INSERT} VALUES ('mail', 'k', '{{}}')"));
    accepted(path, &format!("{INSERT} VALUES ('mail', 'k', CAST('{{}}' AS BLOB))"));
    for clause in ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"] {
        let statement = format!("{clause} INTO outbox_items (type, idem_key, payload) VALUES ('mail', 'k', '[]')");
        refused(path, &statement, "already used by an item with other content");
    }
    let replaces_the_id =
        "INSERT OR REPLACE INTO outbox_items (id, type, idem_key, payload) VALUES (1, 'mail', 'x', '')";
    refused(path, replaces_the_id, "id is already used");
    for id in [-1, 0] {
        let named = format!("INSERT INTO outbox_items (id, type, idem_key, payload) VALUES ({id}, 'mail', 'x', '')");
        refused(path, &named, "CHECK");
    }
    for (column, value) in
        [("payload", "'[]'"), ("idem_key", "'z'"), ("type", "'z'"), ("cid", "'z'"), ("headers", "'{\"a\":1}'")]
    {
        refused(path, &format!("UPDATE outbox_items SET {column} = {value}"), "never changes");
    }
    refused(path, "DELETE FROM outbox_items", "not finished");
    refused(path, &format!("{INSERT} VALUES ('Mail', 'b', '')"), "CHECK");
    refused(path, &format!("{INSERT} VALUES ('mail', '', '')"), "CHECK");
    refused(path, &format!("{INSERT} VALUES ('mail', 'a' || char(10), '')"), "CHECK");
    refused(path, &format!("{INSERT} VALUES ('mail', 'n', 1)"), "CHECK");
    refused(path, &format!("{INSERT} VALUES ('mail', 'a' || char(0), '')"), "CHECK");
    let seconds = "INSERT INTO outbox_items (type, idem_key, payload, available_at) VALUES ('mail', 's', '', 1795957)";
    refused(path, seconds, "CHECK");
    let headers = "INSERT INTO outbox_items (type, idem_key, payload, headers) VALUES ('mail', 'h', '', '{\"a\": 3}')";
    refused(path, headers, "headers is an object of strings");
    for url in ["ftp://a", "https://", "https://u@h/", "https://a b", "hooks.example.com"] {
        let named = format!(
            "INSERT INTO outbox_items (type, idem_key, payload, headers)
             VALUES ('mail', 'w', '', json_object('Webhook-URL', '{url}'))"
        );
        refused(path, &named, "webhook-url is an absolute URL");
    }
    let shared = "INSERT INTO outbox_items (type, idem_key, payload, fairness_key) VALUES ('mail', 'f', '', ";
    refused(path, &format!("{shared} '')"), "CHECK");
    refused(path, &format!("{shared} 'a' || char(9))"), "CHECK");
    refused(path, "UPDATE outbox_items SET status = 'CLAIMED'", "no such column: status");
    refused(path, "UPDATE outbox_items SET status = 'DONE'", "no such column: status");
    let claim = "claim_token = 't', claimed_at = 1, claimed_by = 'w', lease_until = 2";
    refused(path, &format!("UPDATE outbox_items SET {claim}"), "no such column: claim_token");
    let forged = "INSERT INTO outbox_items (type, idem_key, payload, status) VALUES ('mail', 'f', '', 'DONE')";
    refused(path, forged, "has no column named status");
    refused(path, "SELECT status FROM outbox_items", "no such column: status");
    refused(path, "UPDATE outbox_status SET status = 'DONE'", "cannot modify outbox_status because it is a view");
    accepted(path, "UPDATE outbox_items SET metadata = '{\"note\": 1}'");
    refused(path, "UPDATE outbox_items SET metadata = '[]'", "CHECK");
    assert_eq!(all(&*f.store).await.len(), 1);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_goes_to_the_dlq_and_stops_nothing() {
    let f = Fixture::sqlite().await;
    // SQLite takes the number for JSON, and no 64-bit number can hold it.
    let columns = "INSERT INTO outbox_items (type, idem_key, payload, metadata)";
    accepted(&f.test_db.address(), &format!("{columns} VALUES ('mail', 'bad', '{{}}', '{{\"retries\": 1e999}}')"));
    accepted(&f.test_db.address(), &format!("{INSERT} VALUES ('mail', 'good', '{{}}')"));
    let claims = f.claim("mail", 10).await;
    assert_eq!(claims.iter().map(|claim| claim.item.idem_key.as_str()).collect::<Vec<_>>(), ["good"]);
    let bad = f.store.get(ItemId::new(1)).await.unwrap().unwrap();
    assert_eq!((bad.item.status, bad.failed_attempts[0].class.as_str()), (Status::Dlq, "undecodable"));
    assert!(bad.item.last_error.unwrap().contains("metadata"));
}

#[test]
fn the_audit_trail_cannot_be_edited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox.sqlite").display().to_string();
    migrate(path.as_ref()).unwrap();
    let insert =
        "INSERT INTO outbox_audit (at, actor, action, selection, count, changes) VALUES (1, 'a', 'b', '', 1, '')";
    accepted(&path, insert);
    refused(&path, "UPDATE outbox_audit SET actor = 'z'", "append-only");
    refused(&path, "DELETE FROM outbox_audit", "append-only");
}
