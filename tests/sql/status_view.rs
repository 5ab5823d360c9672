//! The view `outbox_status`, or `outbox.status` on PostgreSQL, which people and scripts read: it says of each item what
//! the store says, and a condition reads no more than it must.

use std::collections::BTreeSet;

use outbox::item::{Item, NewItem, Status};
use rusqlite::{Connection, StatementStatus};

use crate::support::places::ALL_DONE;
use crate::support::{Backend, Fixture, all, dead, done, on_each_backend};

on_each_backend! {
    the_view_has_the_columns_that_its_readers_know
    the_view_says_of_each_item_what_the_store_says
    an_item_that_is_enqueued_for_a_key_is_shown_from_its_commit_on
}

/// The columns of the view. On PostgreSQL there is also `turn`, the place in the line of the ordering key.
const COLUMNS: [&str; 37] = [
    "id",
    "idem_key",
    "type",
    "payload",
    "content_type",
    "headers",
    "metadata",
    "cid",
    "saga",
    "ordering_key",
    "fairness_key",
    "root",
    "depth",
    "created_at",
    "status",
    "attempts",
    "deliveries",
    "replays",
    "effects",
    "losses",
    "give_backs",
    "available_at",
    "claimed_at",
    "claimed_by",
    "claim_token",
    "lease_until",
    "given_back_since",
    "maybe_executed",
    "blocks_key",
    "held",
    "epoch",
    "fingerprint",
    "last_error",
    "done_at",
    "dead_at",
    "result",
    "handler_digest",
];

/// One item in each status. The items have the names of their statuses as types, keys and correlation ids.
async fn one_of_each(f: &Fixture) {
    for status in Status::ALL {
        let name = status.as_str().to_lowercase();
        f.enqueue(NewItem { cid: Some(format!("{name}-run")), ..NewItem::new(&name, &name, "{}") }).await;
        if status == Status::Pending {
            continue;
        }
        let claim = f.claim_one(&name).await.reference();
        match status {
            Status::Done => f.store.settle(&claim, done()).await.unwrap(),
            Status::Dlq => f.store.settle(&claim, dead()).await.unwrap(),
            Status::Pending | Status::Claimed => {}
        }
    }
}

/// What the view shows of an item, in one line.
const SHOWN: &str =
    "SELECT id || ' ' || idem_key || ' ' || type || ' ' || status || ' ' || attempts || ' ' || deliveries
        || ' ' || coalesce(claimed_by, '-') || ' ' || coalesce(lease_until, 0) || ' ' || coalesce(done_at, 0)
        || ' ' || coalesce(dead_at, 0) || ' ' || coalesce(last_error, '-') || ' ' || available_at
     FROM outbox_status ORDER BY id";

/// The line of [`SHOWN`] that the store's item leads to.
fn expected_line(item: &Item) -> String {
    let time = |time: Option<outbox::item::Millis>| time.map_or(0, outbox::item::Millis::get);
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".into());
    format!(
        "{} {} {} {} {} {} {} {} {} {} {} {}",
        item.id,
        item.idem_key,
        item.item_type,
        item.status,
        item.attempts,
        item.deliveries,
        word(&item.claimed_by),
        time(item.lease_until),
        time(item.done_at),
        time(item.dead_at),
        word(&item.last_error),
        item.available_at
    )
}

mod on_each {
    use super::*;

    pub(super) async fn the_view_has_the_columns_that_its_readers_know(backend: Backend) {
        let f = Fixture::new(backend).await;
        let (list, more) = match backend {
            Backend::Sqlite => ("SELECT name FROM pragma_table_info('outbox_status')", None),
            Backend::Postgres => (
                "SELECT column_name FROM information_schema.columns
                 WHERE table_schema = 'outbox' AND table_name = 'status'",
                Some("turn"),
            ),
        };
        let listed = f.sql(list).unwrap();
        assert_eq!(listed.lines().collect::<BTreeSet<_>>(), COLUMNS.into_iter().chain(more).collect());
    }

    pub(super) async fn the_view_says_of_each_item_what_the_store_says(backend: Backend) {
        let f = Fixture::new(backend).await;
        one_of_each(&f).await;
        let mut items = all(&*f.store).await;
        items.reverse();
        assert_eq!(items.len(), Status::ALL.len());
        let lines: Vec<_> = items.iter().map(expected_line).collect();
        assert_eq!(f.sql(SHOWN).unwrap().lines().collect::<Vec<_>>(), lines);
    }

    pub(super) async fn an_item_that_is_enqueued_for_a_key_is_shown_from_its_commit_on(backend: Backend) {
        let f = Fixture::new(backend).await;
        let insert = "INSERT INTO outbox_items (type, idem_key, payload, ordering_key) VALUES ('mail', 'k', '', 'o')";
        let count = "SELECT count(*) FROM outbox_status WHERE status <> 'PENDING'";
        assert_eq!(f.sql(&format!("BEGIN; {insert}; {count}; COMMIT")).unwrap(), "0", "it is nothing but PENDING");
        assert_eq!(f.sql("SELECT status FROM outbox_status WHERE idem_key = 'k'").unwrap(), "PENDING");
    }
}

/// What people and scripts look items up by.
const LOOK_UPS: [&str; 3] = ["id = 2", "idem_key = 'done'", "cid = 'done-run' AND cid <> idem_key"];

/// The number of finished items that a look at others must not notice.
const FINISHED: u32 = 2_000;

/// Adds items, whose correlation ids and keys are their own, through SQL.
fn insert(f: &Fixture, then: &str) {
    let numbers = match f.backend() {
        Backend::Sqlite => "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {FINISHED})",
        Backend::Postgres => "WITH t (n) AS (SELECT generate_series(1, {FINISHED}))",
    };
    let columns = "type, idem_key, payload, cid, available_at";
    let values = "SELECT 'more', 'more-' || n || (SELECT count(*) FROM outbox_items), '{}', 'cid-' || n, 0 FROM t";
    let insert = format!("INSERT INTO outbox_items ({columns}) {numbers} {values}; {then}");
    f.sql(&insert.replace("{FINISHED}", &FINISHED.to_string())).unwrap();
}

/// The steps that SQLite's virtual machine makes for a condition. They are the same on every machine.
fn steps(f: &Fixture, condition: &str) -> i32 {
    let connection = Connection::open(f.test_db.address()).unwrap();
    let mut select = connection.prepare(&format!("SELECT id, attempts FROM outbox_status WHERE {condition}")).unwrap();
    let mut rows = select.query([]).unwrap();
    while rows.next().unwrap().is_some() {}
    drop(rows);
    select.get_status(StatementStatus::VmStep)
}

fn of_status(status: Status) -> String {
    format!("status = '{}'", status.as_str())
}

#[tokio::test]
async fn on_sqlite_one_status_reads_only_its_table_and_a_look_up_reads_only_its_item() {
    let f = Fixture::sqlite().await;
    one_of_each(&f).await;
    // EXPLAIN QUERY PLAN would name all parts of the view, also those that a constant skips when the statement runs.
    let beside = |statuses: &[Status]| -> Vec<_> {
        let conditions = statuses.iter().copied().map(of_status).chain(LOOK_UPS.map(str::to_owned));
        conditions.map(|condition| (steps(&f, &condition), condition)).collect()
    };
    let before = beside(&[Status::Claimed, Status::Done, Status::Dlq]);
    insert(&f, "");
    assert!(steps(&f, &of_status(Status::Pending)) > FINISHED.cast_signed(), "the measure notices what is read");
    assert_eq!(beside(&[Status::Claimed, Status::Done, Status::Dlq]), before, "beside {FINISHED} PENDING items");
    let before = beside(&[Status::Claimed, Status::Dlq]);
    f.sql(ALL_DONE).unwrap();
    assert_eq!(beside(&[Status::Claimed, Status::Dlq]), before, "beside {FINISHED} DONE items");
    assert!(steps(&f, &of_status(Status::Pending)) < 100, "nothing is PENDING");
}

#[tokio::test]
async fn on_postgresql_one_status_reads_only_its_table_and_a_look_up_reads_only_its_item() {
    let f = Fixture::new(Backend::Postgres).await;
    one_of_each(&f).await;
    insert(&f, ALL_DONE);
    f.sql("ANALYZE outbox_items, outbox_queue, outbox_leases, outbox_done, outbox_dead, outbox_past").unwrap();
    let plan = |condition: &str| {
        let explained = "SET enable_seqscan = off; EXPLAIN SELECT id, attempts FROM outbox_status WHERE";
        f.sql(&format!("{explained} {condition}")).unwrap()
    };
    let places = Status::ALL.map(|status| match status {
        Status::Pending => "queue",
        Status::Claimed => "leases",
        Status::Done => "done",
        Status::Dlq => "dead",
    });
    for (status, own) in Status::ALL.into_iter().zip(places) {
        let condition = of_status(status);
        let plan = plan(&condition);
        let read: Vec<_> = places.into_iter().filter(|place| reads(&plan, place)).collect();
        assert_eq!(read, [own], "{condition}: {plan}");
    }
    for condition in LOOK_UPS {
        let plan = plan(condition);
        let whole = ["items", "queue", "done", "dead", "past"].map(|table| format!("Seq Scan on {table}"));
        assert!(!whole.iter().any(|scan| plan.contains(scan)), "{condition}: {plan}");
    }
}

#[tokio::test]
async fn on_postgresql_a_condition_on_a_type_or_a_key_is_looked_up_in_the_places() {
    let f = Fixture::new(Backend::Postgres).await;
    one_of_each(&f).await;
    for (condition, index) in [
        ("status = 'PENDING' AND type = 'mail' AND NOT held AND losses = 0 AND fairness_key IS NULL", "queue_ready"),
        ("status = 'PENDING' AND type = 'mail' AND NOT held AND losses = 0 AND fairness_key = 'a'", "queue_fair"),
        ("status = 'PENDING' AND ordering_key = 'k'", "queue_line"),
        ("status = 'DLQ' AND type = 'mail'", "dead_type"),
        ("fingerprint = 'f' AND type = 'mail'", "dead_failure"),
        ("ordering_key = 'k' AND blocks_key", "dead_line"),
    ] {
        let explained = "SET enable_seqscan = off; EXPLAIN SELECT id, attempts FROM outbox_status WHERE";
        let plan = f.sql(&format!("{explained} {condition}")).unwrap();
        let conditions = plan.lines().skip_while(|line| !line.contains(index)).nth(1).unwrap_or_default();
        assert!(conditions.contains("Index Cond"), "{condition}: {plan}");
    }
}

/// Whether a plan names the table.
fn reads(plan: &str, table: &str) -> bool {
    plan.lines().any(|line| line.split(" on ").skip(1).any(|rest| rest.split(' ').next() == Some(table)))
}
