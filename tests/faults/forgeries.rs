//! PostgreSQL: what a role that may only insert items tries in order to forge the state of items.
//!
//! The role has the widest grants that the documentation ever named: `INSERT` on every column, `EXECUTE` on every
//! function. That it needs fewer is tested beside the documentation.

use crate::support::postgres::{Cluster, Database, psql};

/// A database in which this new role has enqueued three items.
fn furnish(role: &str) -> Database {
    let cluster = Cluster::shared();
    cluster.sql("postgres", &format!("CREATE ROLE {role} LOGIN")).unwrap();
    let database = cluster.database();
    database
        .sql(&format!(
            "GRANT USAGE ON SCHEMA outbox TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox TO {role};
             GRANT INSERT ON outbox.items TO {role}"
        ))
        .unwrap();
    for honest in [
        "INSERT INTO outbox.items (type, idem_key, payload, ordering_key) VALUES ('mail', 'a', '{}', 'order-7')",
        "SELECT outbox.enqueue('mail', 'b', '{}', ordering_key => 'order-7')",
        "INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', 'c', '{}')",
    ] {
        psql(&database.url_of(role), honest).unwrap();
    }
    database
}

/// A temporary table of the role, with a trigger of the outbox on it.
fn hijacked(trigger: &str) -> String {
    format!(
        "CREATE TEMP TABLE mine (id bigint, available_at bigint, type text, ordering_key text, fairness_key text,
                                 saga text, cid text, idem_key text, payload bytea, content_type text);
         CREATE TRIGGER hijacked {trigger};
         INSERT INTO mine (id, available_at, type, ordering_key, idem_key) VALUES (1, 0, 'mail', 'order-7', 'f')"
    )
}

/// Statements of the role, each with words of its refusal.
fn forgeries() -> Vec<(String, &'static str)> {
    let absent = "of relation \"items\" does not exist";
    let denied = "permission denied for table";
    let foreign = "this trigger function is for outbox.items";
    let item = |columns: &str, values: &str| {
        format!("INSERT INTO outbox.items (type, idem_key, payload, {columns}) VALUES ('mail', 'f', '{{}}', {values})")
    };
    let row = |table: &str, values: &str| format!("INSERT INTO outbox.{table} VALUES ({values})");
    vec![
        (item("status, done_at, result", "'DONE', 1, 'paid'"), absent),
        (item("ordering_key, status, dead_at, blocks_key", "'order-7', 'DLQ', 1, true"), absent),
        (item("attempts, deliveries, maybe_executed", "1000, 1000, true"), absent),
        (item("claimed_at, claimed_by, claim_token, lease_until", "1, 'me', 't', 9000000000000000"), absent),
        (item("id", "9000000000000000000"), "leave out the id"),
        (item("id", "2") + " ON CONFLICT DO NOTHING", "leave out the id"),
        (row("done", "3, 1, 0, NULL, NULL, 'paid'"), denied),
        (row("dead", "3, 1, 0, NULL, 'mail', 1, 'order-7', true, 'f', 'e'"), denied),
        (row("past", "3, 1000, 1000"), denied),
        (row("leases", "7, 'mail', 'me', 1, 9000000000000000, 0, 1, '{3}', NULL"), denied),
        (row("queue", "9, 0"), denied),
        (row("lanes", "'order-8', 3, 1"), denied),
        ("DELETE FROM outbox.queue".into(), denied),
        ("UPDATE outbox.queue SET available_at = 9000000000000000".into(), denied),
        (
            "SELECT outbox.claim('{mail}', '{\"\"}', '{9}', '{0}', '{1}', '{7}', '{9000000000000000}', 'me', outbox.now(), 0, 0)"
                .into(),
            denied,
        ),
        ("SELECT outbox.into_done('{3}', '{NULL}', '{NULL}', '{NULL}', '{1}')".into(), denied),
        ("SELECT outbox.leave_leases('{7}', '{3}')".into(), denied),
        ("SELECT outbox.find_front('{order-7}')".into(), denied),
        ("SELECT outbox.fold()".into(), denied),
        (
            hijacked(
                "AFTER INSERT ON mine REFERENCING NEW TABLE AS arrived
                 FOR EACH STATEMENT EXECUTE FUNCTION outbox.arrive()",
            ),
            foreign,
        ),
        (hijacked("AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION outbox.line_up()"), foreign),
        (hijacked("BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION outbox.admit()"), foreign),
    ]
}

#[test]
fn a_role_that_may_insert_items_can_forge_no_status_no_attempt_no_claim_and_no_id() {
    let role = "forger";
    let database = furnish(role);
    let before = database.dump();
    for (forgery, why) in forgeries() {
        let told = psql(&database.url_of(role), &forgery).expect_err(&forgery);
        assert!(told.contains(why), "{forgery}: {told}");
    }
    assert!(database.dump() == before, "a refused statement left something");
    let untouched = "SELECT count(*) FROM outbox.status
                     WHERE status = 'PENDING' AND attempts = 0 AND NOT maybe_executed AND id < 1000";
    assert_eq!(database.sql(untouched).unwrap(), "3");
}

#[test]
fn a_role_that_may_insert_items_has_no_right_on_any_other_table() {
    let role = "enqueuer";
    let database = furnish(role);
    let rights = format!(
        "SELECT relname FROM pg_class
         WHERE relnamespace = 'outbox'::regnamespace AND relname <> 'items' AND CASE
             WHEN relkind = 'S' THEN has_sequence_privilege('{role}', oid, 'USAGE, UPDATE')
             WHEN relkind IN ('r', 'v', 'p')
             THEN has_table_privilege('{role}', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER') END"
    );
    assert_eq!(database.sql(&rights).unwrap(), "");
}
