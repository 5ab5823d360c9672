//! `outbox.items` and `outbox.enqueue` as applications use them: with their own drivers, in their own
//! transactions.

use std::process::Command;
use std::time::Duration;

use outbox::item::NewItem;
use outbox::postgres::enqueue_in;
use outbox::store::StoreError;

use super::{contains_example, sections};
use crate::support::blocks;
use crate::support::guests::root;
use crate::support::postgres::{Cluster, psql};

#[test]
fn the_documented_rust_example_is_the_one_that_runs() {
    assert!(contains_example(include_str!("postgres.rs"), sections().1));
}

/// Runs an example of another language with the pinned drivers.
fn run_example(program: &str, flag: &str, code: &str, url: &str) {
    let clients = root().join("target/clients");
    let output = Command::new(program)
        .args([flag, code])
        .env("DATABASE_URL", url)
        .env("PYTHONPATH", clients.join("python"))
        .env("NODE_PATH", clients.join("node_modules"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_documented_examples_for_postgresql_run() {
    let database = Cluster::shared().database();
    let document = sections().1;
    for sql in blocks(document, "sql").into_iter().filter(|sql| !sql.contains("GRANT")) {
        database.sql(sql).unwrap();
    }
    for python in blocks(document, "python") {
        run_example("python3", "-c", python, &database.url());
    }
    for javascript in blocks(document, "javascript") {
        run_example("node", "-e", javascript, &database.url());
    }
    place_order_there(&mut database.connect().await).await.unwrap();
    let keys = database.sql("SELECT idem_key FROM outbox.items ORDER BY id").unwrap();
    let expected = ["17-confirmed", "17-shipped", "17-paid", "18-confirmed", "20-confirmed", "19-confirmed"];
    assert_eq!(keys.split('\n').collect::<Vec<_>>(), expected.map(|key| format!("order-{key}")));
    assert_eq!(database.sql("SELECT count(*) FROM orders").unwrap(), "4");
}

#[test]
fn the_documented_grants_are_enough_to_insert_and_allow_nothing_else() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let grants = blocks(sections().1, "sql").into_iter().find(|sql| sql.contains("GRANT")).unwrap();
    let (role, grants) = grants.split_once('\n').unwrap();
    cluster.sql("postgres", &role.replace(';', " LOGIN;")).unwrap();
    database.sql(grants).unwrap();
    let as_shop = |sql: &str| psql(&database.url_of("shop"), sql);
    as_shop("SELECT outbox.enqueue('webhook', 'a', '{}')").unwrap();
    as_shop("SELECT outbox.enqueue('webhook', 'o', '{}', ordering_key => 'o')").unwrap();
    as_shop("INSERT INTO outbox.items (type, idem_key, payload) VALUES ('webhook', 'b', '{}')").unwrap();
    for forbidden in [
        "SELECT * FROM outbox.items",
        "UPDATE outbox.items SET metadata = '{}'",
        "DELETE FROM outbox.items",
        "SELECT * FROM outbox.audit",
    ] {
        assert!(as_shop(forbidden).unwrap_err().contains("permission denied"), "{forbidden}");
    }
    assert_eq!(database.sql("SELECT count(*) FROM outbox.items").unwrap(), "3");
}

async fn place_order_there(db: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
    let tx = db.transaction().await?;
    tx.execute("INSERT INTO orders (id, customer) VALUES (19, 'barbara')", &[]).await?;
    enqueue_in(&tx, &NewItem::new("webhook", "order-19-confirmed", r#"{"order": 19}"#)).await?;
    tx.commit().await?;
    Ok(())
}

#[tokio::test]
async fn enqueue_in_follows_the_applications_transaction_and_the_conflict_rule() {
    let database = Cluster::shared().database();
    let mut db = database.connect().await;
    let item = NewItem::new("mail", "k", "{}");
    let tx = db.transaction().await.unwrap();
    enqueue_in(&tx, &item).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(database.sql("SELECT count(*) FROM outbox.items").unwrap(), "0");
    let tx = db.transaction().await.unwrap();
    let first = enqueue_in(&tx, &item).await.unwrap();
    assert_eq!(enqueue_in(&tx, &item).await.unwrap(), first);
    let other = enqueue_in(&tx, &NewItem::new("mail", "k", "[]")).await.unwrap_err();
    assert!(matches!(other, StoreError::Conflict { first: id, .. } if id == first));
    tx.commit().await.unwrap();
    assert_eq!(database.sql("SELECT count(*) FROM outbox.items").unwrap(), "1");
}

#[tokio::test]
async fn a_key_that_is_taken_while_enqueue_in_looks_is_a_conflict_and_the_transaction_goes_on() {
    let database = Cluster::shared().database();
    // Every insert waits here before the schema's own trigger looks.
    let gate = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
                CREATE TRIGGER a_gate BEFORE INSERT ON outbox.items FOR EACH ROW EXECUTE FUNCTION gate()";
    database.sql(gate).unwrap();
    let (mut one, mut other) = (database.connect().await, database.connect().await);
    let (first, second) = (one.transaction().await.unwrap(), other.transaction().await.unwrap());
    let id = enqueue_in(&first, &NewItem::new("mail", "k", "{}")).await.unwrap();
    let late = NewItem::new("mail", "k", "[]");
    let mut inserting = Box::pin(enqueue_in(&second, &late));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut inserting).await.is_err(), "it waits at the gate");
    first.commit().await.unwrap();
    let refused = inserting.await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { first, .. } if first == id), "{refused}");
    enqueue_in(&second, &NewItem::new("mail", "l", "{}")).await.unwrap();
    let by_hand = "INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', 'k', 'x')";
    let loud = second.batch_execute(by_hand).await.unwrap_err();
    assert!(loud.as_db_error().unwrap().message().contains("other content"), "{loud}");
}

#[test]
fn the_schema_keeps_the_rules_for_sql_callers() {
    let database = Cluster::shared().database();
    let insert = "INSERT INTO outbox.items (type, idem_key, payload)";
    let accepted = |sql: &str| database.sql(sql).unwrap_or_else(|err| panic!("{sql}: {err}"));
    let refused = |sql: &str, why: &str| {
        let told = database.sql(sql).unwrap_err();
        assert!(told.contains(why), "{sql}: {told}");
    };
    accepted(&format!("{insert} VALUES ('mail', 'k', '{{}}')"));
    accepted(&format!("{insert} VALUES ('mail', 'k', '{{}}')"));
    for clause in ["", " ON CONFLICT DO NOTHING", " ON CONFLICT (idem_key) DO UPDATE SET metadata = '{}'"] {
        let statement = format!("{insert} VALUES ('mail', 'k', '[]'){clause}");
        refused(&statement, "already used by item 1 with other content");
    }
    for (column, value) in
        [("payload", "'[]'"), ("idem_key", "'z'"), ("type", "'z'"), ("cid", "'z'"), ("headers", "'{\"a\":1}'")]
    {
        refused(&format!("UPDATE outbox.items SET {column} = {value}"), "never changes");
    }
    refused("DELETE FROM outbox.items", "not finished");
    for (item_type, key) in [("Mail", "b"), ("mail", ""), ("mail", "a\nb")] {
        refused(&format!("{insert} VALUES ('{item_type}', '{key}', '')"), "check");
    }
    refused("UPDATE outbox.items SET status = 'CLAIMED'", "check");
    refused("UPDATE outbox.items SET status = 'DONE'", "check");
    refused("UPDATE outbox.items SET metadata = '[]'", "check");
    accepted("UPDATE outbox.items SET metadata = '{\"note\": 1}'");
    assert_eq!(accepted("SELECT outbox.enqueue('mail', 'k', '{}')"), "1");
    refused("SELECT outbox.enqueue('mail', 'k', '[]')", "already used by item 1");
    accepted("SELECT outbox.enqueue('mail', 'l', '{}')");
    assert_eq!(accepted("SELECT cid FROM outbox.items WHERE idem_key = 'l'"), "l");
}
