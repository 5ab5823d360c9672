//! Every column of every table holds values that no host writes, as far as the schema takes them: extremes, texts that
//! are no UTF-8 or no JSON, distant times. The host goes on with everything else, on each engine.
//!
//! The everyday suite plants one value in each column, and looks after each table; the soak plants all, and looks after
//! each.

use std::time::Duration;

use outbox::core::{HostWrites, Settlement, StateChange, StateKeyChange};
use outbox::item::{ItemId, NewItem};
use outbox::store::{
    Action, Alert, AlertKind, AuditQuery, BatchMode, ClaimRequest, Control, ControlRequest, EffectKeys, Execution,
    Filter, OperateRequest, Retention, Selection, SignalSeq, StateQuery, StuckQuery,
};

use crate::support::{
    Backend, Fixture, TestDb, all, dead, done, is_soak, item, on_each_backend, pod, report, request, retry, settled,
};

on_each_backend! {
    no_value_in_any_column_stops_what_it_does_not_belong_to
}

/// The tables that hosts and applications write, each with SQL for a row of it that is planted. The migrations are left
/// out: a database of another version is not opened. So is the look at a long line, of which only what the queue confirms
/// is used.
const TABLES: [&str; 25] = [
    "items",
    "queue",
    "leases",
    "lanes",
    "done",
    "dead",
    "past",
    "attempts",
    "handlers",
    "saga_open",
    "sagas",
    "signals",
    "counters",
    "backlog",
    "state",
    "state_totals",
    "rates",
    "pods",
    "breakers",
    "owners",
    "pauses",
    "jobs",
    "alerts",
    "quarantine",
    "descendants",
];

/// Values of every kind, as SQL of the engine.
fn values(backend: Backend) -> Vec<&'static str> {
    let mut values = vec![
        "'-9223372036854775808'",
        "'9223372036854775807'",
        "'-1'",
        "'0'",
        "'1'",
        "'4294967296'",
        "'253402300800000'",
        "''",
        "'{'",
        "'null'",
        "'[]'",
        "'{}'",
        "'[1e400]'",
        "'{\"a\":1e400}'",
        "'[9223372036854775808]'",
        "'[-1]'",
        "'[1.5]'",
        "'[\"a\"]'",
        "'\"replay-of-the-future\"'",
        "'{\"no_such\":1}'",
        "'RUNNING'",
        "'Ünïcode \u{202e}'",
        "'[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]'",
        "NULL",
    ];
    values.extend(match backend {
        Backend::Sqlite => vec![
            "CAST(x'ff' AS TEXT)",
            "'a' || char(0) || 'b'",
            "x''",
            "x'00ff'",
            "9e999",
            "-9e999",
            "1.5",
            "CAST(x'7b2261223aff7d' AS TEXT)",
        ],
        Backend::Postgres => {
            vec!["'\\x'", "'\\x00ff'", "'NaN'", "'Infinity'", "'-Infinity'", "'{1,2}'", "'{-1}'", "'{NULL}'", "'true'"]
        }
    });
    values
}

/// A client of the database that stays connected.
enum Client {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client),
}

impl Client {
    async fn of(f: &Fixture) -> Self {
        match &f.test_db {
            TestDb::Sqlite(folder) => {
                let connection = rusqlite::Connection::open(folder.file()).unwrap();
                connection.busy_timeout(Duration::from_secs(10)).unwrap();
                Self::Sqlite(connection)
            }
            TestDb::Postgres(database) => Self::Postgres(database.connect().await),
        }
    }

    /// Runs statements with the table names of SQLite. Returns whether the schema took them.
    async fn run(&self, sql: &str) -> bool {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(sql).is_ok(),
            Self::Postgres(client) => client.batch_execute(&sql.replace("outbox_", "outbox.")).await.is_ok(),
        }
    }
}

/// The values that are planted in a column, with their numbers: all in the soak, else the one that is this column's turn.
fn drawn(backend: Backend, turn: usize) -> Vec<(usize, &'static str)> {
    let mut all: Vec<_> = values(backend).into_iter().enumerate().collect();
    if !is_soak() {
        let one = all.swap_remove(turn % all.len());
        all = vec![one];
    }
    all
}

/// A claim of everything that waits.
fn claim_of(types: &[&str]) -> ClaimRequest {
    let mut request = request(types, 200);
    request.types.iter_mut().for_each(|terms| terms.max_retries = u32::MAX);
    request
}

/// A row of each table, in the states that they have while hosts work.
async fn furnish(f: &Fixture) {
    let step = NewItem { saga: Some("S".into()), cid: Some("c".into()), ..item("step") };
    f.enqueue(step).await;
    let change = StateKeyChange { key: "n".into(), read_version: None, change: StateChange::Put(vec![1]) };
    let writes = HostWrites {
        plugin: "p".into(),
        state: vec![change],
        state_quota: 1 << 20,
        followups: vec![NewItem::new("sms", "step/sms/1", "{}")],
        ..HostWrites::default()
    };
    let mut first = settled(Settlement::Done { result: Some(b"{}".to_vec()), writes });
    first.handler_digest = Some("ab".repeat(32));
    f.store.settle(&f.claim_one("mail").await.reference(), first).await.unwrap();
    f.store.heartbeat(&pod("pod-1")).await.unwrap();
    let pause = ControlRequest {
        control: Control::Pause { item_type: "paused".into() },
        actor: "ada@host".into(),
        reason: None,
        execution: Execution::Apply,
    };
    f.store.control(&pause).await.unwrap();
    f.store.quarantine(&"cd".repeat(32), "p", "it faulted").await.unwrap();
    f.sql("INSERT INTO outbox_rates (type, tokens, filled_at) VALUES ('mail', 1, 1)").unwrap();
    f.sql("INSERT INTO outbox_alerts (kind, subject, sent_at) VALUES ('dlq', 'mail', 1)").unwrap();
    f.sql("INSERT INTO outbox_backlog VALUES ('mail', 1, 1, 1, 1)").unwrap();
}

/// Makes a row of the table and returns SQL that selects it; `None` where the rows of [`furnish`] do.
async fn victim(f: &Fixture, table: &str, key: &str) -> String {
    match table {
        "queue" => format!("id = {}", f.enqueue(item(key)).await),
        "lanes" => {
            f.enqueue(NewItem { ordering_key: Some(key.into()), ..item(key) }).await;
            f.store.claim(&claim_of(&["mail"])).await.unwrap();
            format!("ordering_key = '{key}'")
        }
        "saga_open" | "sagas" => {
            f.enqueue(NewItem { saga: Some("S".into()), cid: Some(key.into()), ..item(key) }).await;
            f.store.claim(&claim_of(&["mail"])).await.unwrap();
            format!("cid = '{key}'")
        }
        "leases" | "done" | "dead" | "past" | "attempts" => ended(f, table, key).await,
        "jobs" => "id = (SELECT max(id) FROM outbox_jobs)".into(),
        "counters" => "name = 'attempts'".into(),
        "state" | "state_totals" => "plugin = 'p'".into(),
        _ => "1 = 1".into(),
    }
}

/// An item that was claimed, and that has left its lease unless the victim is the lease.
async fn ended(f: &Fixture, table: &str, key: &str) -> String {
    f.enqueue(item(key)).await;
    let claims = f.store.claim(&claim_of(&["mail"])).await.unwrap().claims;
    let Some(claim) = claims.into_iter().find(|claim| claim.item.idem_key == key) else { return "1 = 0".into() };
    let id = claim.item.id;
    match table {
        "leases" => return format!("token = {}", claim.token),
        "done" => f.store.settle(&claim.reference(), done()).await.unwrap(),
        "dead" => f.store.settle(&claim.reference(), dead()).await.unwrap(),
        _ => f.store.settle(&claim.reference(), retry(Duration::from_millis(1))).await.unwrap(),
    }
    if table == "attempts" { format!("item_id = {id}") } else { format!("id = {id}") }
}

/// A job that is due.
const JOB: &str = "INSERT INTO outbox_jobs (action, filter, actor, began_at, next_at, last_id, matched)
                   VALUES ('{\"action\":\"replay\"}', '{}', 'ada', 1, 1, 1, 1)";

/// Plants the value. Returns whether the schema took it.
async fn plant(f: &Fixture, client: &Client, table: &str, column: &str, (number, value): (usize, &str)) -> bool {
    let key = format!("{table}-{column}-{number}");
    if table == "items" {
        return client.run(&insert_of(column, value, &key)).await;
    }
    if table == "jobs" {
        client.run(JOB).await;
    }
    let victim = victim(f, table, &key).await;
    client.run(&format!("UPDATE outbox_{table} SET {column} = {value} WHERE {victim}")).await
}

/// An insert of an item that has the value in this column.
fn insert_of(column: &str, value: &str, key: &str) -> String {
    let mut row = vec![("type", "'mail'".to_owned()), ("idem_key", format!("'{key}'")), ("payload", "'{}'".into())];
    row.retain(|(name, _)| *name != column);
    row.push((column, value.to_owned()));
    let (names, values): (Vec<_>, Vec<_>) = row.into_iter().unzip();
    format!("INSERT INTO outbox_items ({}) VALUES ({})", names.join(", "), values.join(", "))
}

fn columns(f: &Fixture, table: &str) -> Vec<String> {
    let sql = match f.backend() {
        Backend::Sqlite => format!("SELECT name FROM pragma_table_info('outbox_{table}')"),
        Backend::Postgres => format!(
            "SELECT column_name FROM information_schema.columns
             WHERE table_schema = 'outbox' AND table_name = '{table}' ORDER BY ordinal_position"
        ),
    };
    f.sql(&sql).unwrap().lines().map(str::to_owned).collect()
}

/// Expects the host to serve a new item, all that reads, and its upkeep.
async fn serves(f: &Fixture, after: &str) {
    let new = NewItem { item_type: "good".into(), ..item(&format!("good-{}", uuid::Uuid::new_v4())) };
    let enqueued = f.store.enqueue(vec![new], BatchMode::PerItem).await;
    let id = enqueued.unwrap_or_else(|err| panic!("{after}: enqueue: {err}")).ids[0].unwrap();
    works(f, id, after).await;
    shows(f, id, after).await;
    upkeep(f, after).await;
}

macro_rules! expect {
    ($after:expr, $what:literal, $call:expr) => {
        $call.await.unwrap_or_else(|err| panic!("{}: {}: {err}", $after, $what))
    };
}

/// Claims and settles the item. Whatever else is claimed may fail alone.
async fn works(f: &Fixture, id: ItemId, after: &str) {
    f.clock.advance(Duration::from_secs(1));
    let mut claims = expect!(after, "claim", f.store.claim(&claim_of(&["good", "mail"]))).claims;
    for _ in 0..20 {
        if claims.iter().any(|claim| claim.item.id == id) {
            break;
        }
        claims.extend(expect!(after, "claim", f.store.claim(&claim_of(&["good", "mail"]))).claims);
    }
    let ours = claims.iter().find(|claim| claim.item.id == id);
    let ours = ours.unwrap_or_else(|| panic!("{after}: the good item is not claimed"));
    expect!(after, "settle", f.store.settle(&ours.reference(), done()));
    for (number, claim) in claims.iter().filter(|claim| claim.item.id != id).enumerate() {
        let settlement = if number.is_multiple_of(2) { done() } else { retry(Duration::from_millis(1)) };
        drop(f.store.settle(&claim.reference(), settlement).await);
    }
}

/// Everything that reads answers, and the listing has the item.
async fn shows(f: &Fixture, id: ItemId, after: &str) {
    let listed =
        expect!(after, "list", f.store.list(&Filter::default(), &outbox::store::Page { limit: 9, before: None }));
    assert!(listed.items.iter().any(|listed| listed.item.id == id), "{after}: the good item is not listed");
    for item in all(&*f.store).await.into_iter().take(if is_soak() { usize::MAX } else { 20 }) {
        expect!(format!("{after}: item {}", item.id), "show", f.store.get(item.id));
    }
    expect!(after, "stuck", f.store.stuck(&StuckQuery::default()));
    expect!(after, "overview", f.store.overview());
    expect!(after, "failures", f.store.failures(&Filter::default(), 100));
    expect!(after, "jobs", f.store.jobs(None, 1_000));
    expect!(after, "pauses", f.store.pauses());
    expect!(after, "audit", f.store.audit(&AuditQuery::default()));
    expect!(after, "signals", f.store.signals(SignalSeq::new(0), 1_000));
    expect!(after, "state totals", f.store.state_totals());
    let query = StateQuery { plugin: "p".into(), after: None, limit: 100 };
    expect!(after, "state", f.store.list_state(&query));
    expect!(after, "quarantine", f.store.list_quarantine());
    expect!(after, "misplaced", f.store.misplaced(100));
}

/// Leases end, what is old is deleted, jobs go on, operators act, alerts are sent, and another process starts.
async fn upkeep(f: &Fixture, after: &str) {
    f.clock.advance(Duration::from_mins(3));
    for _ in 0..3 {
        expect!(after, "expire", f.store.expire_leases(&[]));
    }
    expect!(after, "heartbeat", f.store.heartbeat(&pod("pod-9")));
    let alert = Alert { kind: AlertKind::BreakerOpen, subject: "mail".into(), message: "it fails".into() };
    expect!(after, "alert", f.store.send_alert(&alert));
    let retention = Retention {
        done: Some(Duration::from_hours(24)),
        dead: Some(Duration::from_hours(24)),
        signals: Some(Duration::from_hours(24)),
        audit: Some(Duration::from_hours(24)),
        history: Some(Duration::from_hours(24)),
    };
    expect!(after, "upkeep", f.store.run_maintenance(&retention));
    let replay = OperateRequest {
        action: Action::Replay { keys: EffectKeys::Same },
        selection: Selection::Filter(Filter { r#type: Some("good".into()), ..Filter::default() }),
        actor: "ada@host".into(),
        reason: None,
        execution: Execution::DryRun,
    };
    expect!(after, "preview", f.store.operate(&replay));
    drop(f.second().await);
}

mod on_each {
    use super::*;

    pub(super) async fn no_value_in_any_column_stops_what_it_does_not_belong_to(backend: Backend) {
        let f = Fixture::new(backend).await.with_alerts("alert").await;
        furnish(&f).await;
        let client = Client::of(&f).await;
        let (mut planted, mut refused) = (0, 0);
        for table in TABLES {
            let mut last = Vec::new();
            for column in columns(&f, table) {
                let values = drawn(backend, planted + refused);
                for value in &values {
                    if !plant(&f, &client, table, &column, *value).await {
                        refused += 1;
                        continue;
                    }
                    planted += 1;
                    last.push(format!("{table}.{column} = {}", value.1));
                    if is_soak() {
                        serves(&f, &last.pop().unwrap()).await;
                    }
                }
            }
            serves(&f, &last.join(", ")).await;
        }
        report(&format!("{planted} odd values planted, {refused} refused by the schema"));
        drop(client);
        // The tables contradict each other now, which is what the check at the end would find.
        let end =
            if backend == Backend::Sqlite { "DROP TABLE outbox_leases" } else { "DROP TABLE outbox_leases CASCADE" };
        f.sql(end).unwrap();
    }
}
