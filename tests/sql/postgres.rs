//! `outbox.items` and `outbox.enqueue` as applications use them: with their own drivers, in their own
//! transactions.

use std::process::Command;

use super::{client, contains_example, sections};
use crate::support::guests::root;
use crate::support::postgres::{Cluster, Database, psql};
use crate::support::{Backend, Fixture, blocks};

#[test]
fn the_documented_rust_example_is_the_one_that_runs() {
    assert!(contains_example(include_str!("../../host/client/examples/postgres.rs"), sections().1));
}

/// Runs an example in another language with the pinned drivers.
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

/// A database in which a new role of this name has the documented grants of one that only inserts.
fn with_documented_grants(role: &str) -> Database {
    let (cluster, grants) =
        (Cluster::shared(), blocks(sections().1, "sql").into_iter().find(|sql| sql.contains("GRANT")));
    let (database, grants) = (cluster.database(), grants.unwrap().replace("shop", role));
    let (create, grants) = grants.split_once('\n').unwrap();
    cluster.sql("postgres", &create.replace(';', " LOGIN;")).unwrap();
    database.sql(grants).unwrap();
    database
}

#[test]
fn the_documented_examples_for_postgresql_run_as_the_role_with_the_documented_grants() {
    let (role, document) = ("clerk", sections().1);
    let database = with_documented_grants(role);
    let (url, as_clerk) = (database.url_of(role), |sql: &str| psql(&database.url_of(role), sql));
    // The tables of the application are the role's own.
    database.cluster().sql(database.name(), &format!("CREATE SCHEMA {role} AUTHORIZATION {role}")).unwrap();
    let examples = blocks(document, "sql").into_iter().filter(|sql| !sql.contains("GRANT"));
    let (reading, inserting): (Vec<_>, Vec<_>) = examples.partition(|sql| sql.contains("outbox.status"));
    for sql in inserting {
        as_clerk(sql).unwrap();
    }
    for python in blocks(document, "python") {
        run_example("python3", "-c", python, &url);
    }
    for javascript in blocks(document, "javascript") {
        run_example("node", "-e", javascript, &url);
    }
    // What these need in addition is documented as well.
    assert!(as_clerk(reading[0]).unwrap_err().contains("permission denied for view status"));
    database.sql(&format!("GRANT SELECT ON outbox.status, outbox.status_dlq TO {role}")).unwrap();
    for sql in reading {
        as_clerk(sql).unwrap();
    }
    database.sql(&format!("GRANT INSERT, SELECT ON outbox.items TO {role}")).unwrap();
    client::run_example("postgres", &url);
    let keys = database.sql("SELECT idem_key FROM outbox.items ORDER BY id").unwrap();
    let expected = ["17-confirmed", "17-shipped", "17-paid", "18-confirmed", "20-confirmed", "19-confirmed"];
    assert_eq!(keys.split('\n').collect::<Vec<_>>(), expected.map(|key| format!("order-{key}")));
    assert_eq!(as_clerk("SELECT count(*) FROM orders").unwrap(), "4");
}

#[test]
fn the_documented_grants_are_enough_to_insert_and_allow_nothing_else() {
    let database = with_documented_grants("shop");
    let as_shop = |sql: &str| psql(&database.url_of("shop"), sql);
    as_shop("SELECT outbox.enqueue('webhook', 'a', '{}')").unwrap();
    as_shop("SELECT outbox.enqueue('webhook', 'o', '{}', ordering_key => 'o')").unwrap();
    as_shop("SELECT outbox.enqueue('webhook', 'f', '{}', fairness_key => 'acme')").unwrap();
    let destination =
        "SELECT outbox.enqueue('webhook', 'u', '{}', headers => '{\"webhook-url\": \"https://a/?b#c@d\"}')";
    as_shop(destination).unwrap();
    as_shop(
        "INSERT INTO outbox.items (type, idem_key, payload, content_type, headers, metadata, cid, saga, ordering_key,
                                   fairness_key, available_at)
         VALUES ('webhook', 'b', '{}', 'application/json', '{}', '{}', 'c', 'S', 'o', 'globex', 0)",
    )
    .unwrap();
    for forbidden in [
        "INSERT INTO outbox.items (type, idem_key, payload, created_at) VALUES ('webhook', 'c', '', 1)",
        "INSERT INTO outbox.items (type, idem_key, payload, id) VALUES ('webhook', 'c', '', 7)",
        "INSERT INTO outbox.items (type, idem_key, payload) VALUES ('webhook', 'c', '') RETURNING id",
        "SELECT * FROM outbox.items",
        "UPDATE outbox.items SET metadata = '{}'",
        "DELETE FROM outbox.items",
        "SELECT * FROM outbox.audit",
        "SELECT outbox.lock_keys('{o}')",
        "SELECT outbox.find_front('{o}')",
        "SELECT outbox.fold()",
    ] {
        assert!(as_shop(forbidden).unwrap_err().contains("permission denied"), "{forbidden}");
    }
    assert_eq!(database.sql("SELECT count(*) FROM outbox.items").unwrap(), "5");
    assert_eq!(database.sql("SELECT count(*) FROM outbox.queue WHERE fairness_key = 'acme'").unwrap(), "1");
}

#[test]
fn the_further_documented_grants_allow_what_is_said_of_them_and_never_an_id() {
    let database = with_documented_grants("till");
    let as_till = |sql: &str| psql(&database.url_of("till"), sql);
    let insert = |columns: &str, values: &str| {
        format!("INSERT INTO outbox.items (type, idem_key, payload{columns}) VALUES ('webhook', {values})")
    };
    let returning = insert("", "'r', ''") + " ON CONFLICT (idem_key) DO NOTHING RETURNING id";
    assert!(as_till(&returning).unwrap_err().contains("permission denied"));
    database.sql("GRANT SELECT (id, idem_key) ON outbox.items TO till").unwrap();
    assert_eq!(as_till(&returning).unwrap(), "1");
    assert_eq!(as_till(&returning).unwrap(), "", "a duplicate has no row");
    assert!(as_till("SELECT payload FROM outbox.items").unwrap_err().contains("permission denied"));
    database.sql("GRANT INSERT, SELECT ON outbox.items TO till").unwrap();
    as_till(&insert(", created_at", "'c', '', 7")).unwrap();
    assert!(as_till(&insert(", id", "'i', '', 7")).unwrap_err().contains("leave out the id"));
    assert_eq!(as_till("SELECT idem_key, created_at = 7 FROM outbox.items ORDER BY id").unwrap(), "r|f\nc|t");
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
    for (item_type, key, why) in [
        ("Mail", "b", "type: [a-z0-9]"),
        ("mail", "", "idem_key is '': it must be 1 to 255 printable ASCII bytes"),
        ("mail", "a\nb", "idem_key is"),
    ] {
        refused(&format!("{insert} VALUES ('{item_type}', '{key}', '')"), why);
        refused(&format!("SELECT outbox.enqueue('{item_type}', '{key}', '')"), why);
    }
    let with = |column: &str, value: &str, key: &str| {
        format!("INSERT INTO outbox.items (type, idem_key, payload, {column}) VALUES ('mail', '{key}', '', {value})")
    };
    for (column, value, why) in [
        ("cid", "''", "cid is"),
        ("ordering_key", "'a\tb'", "ordering_key is"),
        ("fairness_key", "'a\tb'", "fairness_key is"),
        ("fairness_key", "''", "fairness_key is ''"),
        ("headers", "'{\"Webhook-URL\": \"https://u@h/\"}'", "an absolute URL in webhook-url"),
        ("headers", "'{\"webhook-url\": \"ftp://a\"}'", "an absolute URL in webhook-url"),
        ("content_type", "repeat('a', 256)", "content_type is"),
        ("saga", "'-'", "saga: [A-Za-z0-9]"),
        ("headers", "'[]'", "headers, metadata: a JSON object"),
        ("headers", "'{\"a\": 1}'", "headers is '{\"a\": 1}': it must be an object of strings"),
        ("headers", "'{\"a\": {\"b\": \"c\"}}'", "an object of strings"),
        ("available_at", "1790000000", "available_at is '1790000000': it must be Unix milliseconds"),
        ("available_at", "-1", "available_at is"),
    ] {
        refused(&with(column, value, "x"), why);
    }
    for (n, column) in
        ["content_type", "headers", "metadata", "cid", "available_at", "created_at"].into_iter().enumerate()
    {
        accepted(&with(column, "NULL", &format!("null-{n}")));
    }
    accepted(&with("available_at", "0", "at-0"));
    accepted("SELECT outbox.enqueue('mail', 'null-e', '{}', content_type => NULL, headers => NULL, delay => NULL)");
    let defaults = "SELECT count(*) FROM outbox.items WHERE content_type = 'application/json' AND headers::text = '{}'
                    AND metadata::text = '{}' AND available_at > 0 AND idem_key LIKE 'null-%'";
    assert_eq!(accepted(defaults), "7");
    refused("UPDATE outbox.items SET status = 'CLAIMED'", "column \"status\" of relation \"items\" does not exist");
    refused("UPDATE outbox.items SET status = 'DONE'", "column \"status\" of relation \"items\" does not exist");
    let forged = "INSERT INTO outbox.items (type, idem_key, payload, status) VALUES ('mail', 'f', '', 'DONE')";
    refused(forged, "column \"status\" of relation \"items\" does not exist");
    refused("SELECT status FROM outbox.items", "column \"status\" does not exist");
    refused("UPDATE outbox.status SET status = 'DONE'", "cannot update view \"status\"");
    refused("UPDATE outbox.items SET metadata = '[]'", "check");
    accepted("UPDATE outbox.items SET metadata = '{\"note\": 1}'");
    assert_eq!(accepted("SELECT outbox.enqueue('mail', 'k', '{}')"), "1");
    refused("SELECT outbox.enqueue('mail', 'k', '[]')", "already used by item 1");
    accepted("SELECT outbox.enqueue('mail', 'l', '{}')");
    assert_eq!(accepted("SELECT cid FROM outbox.items WHERE idem_key = 'l'"), "l");
}

/// What a restore of the data alone runs, with the places of finished items before the items: 1 and 2 are DONE, 3 and 4
/// are dead, 3 blocks the key of 5, which waits, and 6 waits after a failed attempt.
const RESTORE: &str = "
BEGIN;
INSERT INTO outbox.done (id, done_at, epoch, turn) VALUES (1, 1, 0, NULL), (2, 1, 0, 2);
INSERT INTO outbox.dead (id, dead_at, epoch, type, turn, ordering_key, blocks_key, fingerprint, last_error)
VALUES (3, 1, 0, 'mail', 3, 'k', true, 'f', 'refused'), (4, 1, 0, 'mail', NULL, NULL, false, 'f', 'refused');
INSERT INTO outbox.past (id, attempts, deliveries, last_error)
VALUES (3, 1, 1, 'refused'), (4, 1, 1, 'refused'), (6, 1, 1, 'down');
INSERT INTO outbox.lanes (ordering_key, id, turn) VALUES ('k', 3, 3);
INSERT INTO outbox.items (id, type, idem_key, payload, ordering_key, saga, cid)
VALUES (1, 'mail', '1', '', NULL, 'S', 'c'), (2, 'mail', '2', '', 'k', 'S', 'c'), (3, 'mail', '3', '', 'k', 'S', 'c'),
       (4, 'mail', '4', '', NULL, 'S', 'c'), (5, 'mail', '5', '', 'k', NULL, 'c'), (6, 'mail', '6', '', NULL, NULL, 'c');
SELECT setval('outbox.items_id_seq', 6), setval('outbox.turn_seq', 3);
COMMIT";

#[tokio::test]
async fn finished_items_whose_places_are_restored_before_them_stay_finished() {
    let f = Fixture::new(Backend::Postgres).await;
    f.sql(RESTORE).unwrap();
    let mut claimed = Vec::new();
    for _ in 0..2 {
        claimed.extend(f.claim("mail", 9).await.iter().map(|claim| (claim.item.id.get(), claim.item.attempts)));
    }
    assert_eq!(claimed, [(6, 2)], "5 waits behind the dead item");
    let statuses = "SELECT string_agg(status, ' ' ORDER BY id) FROM outbox.status";
    assert_eq!(f.sql(statuses).unwrap(), "DONE DONE DLQ DLQ PENDING CLAIMED");
    assert_eq!(f.sql("SELECT count(*) FROM outbox.saga_open").unwrap(), "0");
    assert!(f.store.misplaced(9).await.unwrap().is_empty());
}
