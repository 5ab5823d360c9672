//! The promises of every store about moving its data to another store.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox::core::{HostWrites, Settlement, StateChange, StateKeyChange};
use outbox::item::{ItemId, NewItem, Status};
use outbox::store::{
    Action, AuditQuery, Control, ControlRequest, EffectKeys, Execution, ExportPosition, Filter, IMPORT_PAUSE_REASON,
    ImportReport, ItemDetails, JobId, JobPace, JobState, OperateRequest, Record, Selection, SignalSeq, Store,
    StoreError,
};

use crate::support::{Backend, Fixture, all, dead, done, item, retry, settled};

promises! {
    an_import_has_the_same_items_history_state_and_totals_and_can_be_repeated
    an_import_is_refused_where_an_id_or_a_key_is_taken_and_a_claim_is_not_moved
    an_imported_dead_item_of_a_saga_without_a_run_makes_the_next_run_end_with_an_error
    reserved_ids_are_kept_free_for_an_import
    every_column_of_what_is_moved_is_exported_or_follows_from_the_rest
    what_an_earlier_version_took_is_imported_as_strings_or_refused_by_its_id
    what_operators_did_is_moved_and_a_running_job_is_not
    a_pause_of_the_target_stays_and_that_of_the_import_gives_way
    a_file_of_the_store_itself_adds_nothing_to_it
    an_export_shows_one_moment
    an_import_keeps_the_line_of_each_key_whatever_the_order_of_its_file_is
}

async fn exported(store: &dyn Store) -> Vec<Record> {
    let mut records = Vec::new();
    let mut snapshot = store.begin_export().await.unwrap();
    let mut next = Some(ExportPosition::START);
    while let Some(position) = next {
        let page = snapshot.page(position, 2).await.unwrap();
        records.extend(page.records);
        next = page.next;
    }
    records
}

/// Items in every status except CLAIMED, with history, binary payloads, a saga and state.
async fn furnish(f: &Fixture) {
    let saga = NewItem { saga: Some("S".into()), cid: Some("c".into()), ..item("done") };
    f.enqueue(saga).await;
    let key_change = StateKeyChange { key: "n".into(), read_version: None, change: StateChange::Put(vec![0xff, 0]) };
    let writes = HostWrites {
        plugin: "p".into(),
        state: vec![key_change],
        state_quota: 1 << 20,
        followups: vec![NewItem::new("sms", "done/sms/1", "{}")],
        ..HostWrites::default()
    };
    let claim = f.claim_one("mail").await;
    let done = settled(Settlement::Done { result: Some(vec![0xfe]), writes });
    f.store.settle(&claim.reference(), done).await.unwrap();
    for (key, how) in [("dead", dead()), ("retry", retry(Duration::from_secs(9)))] {
        f.enqueue(NewItem { ordering_key: Some(key.into()), ..item(key) }).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), how).await.unwrap();
    }
    f.enqueue(NewItem { ordering_key: Some("dead".into()), ..NewItem::new("mail", "held", vec![0xff]) }).await;
}

/// Pauses, a quarantined component, and an item that an operator purged by a job.
async fn operate(f: &Fixture) {
    let control = |control| ControlRequest {
        control,
        actor: "ada@host".into(),
        reason: Some("until Monday".into()),
        execution: Execution::Apply,
    };
    f.store.control(&control(Control::Pause { item_type: "webhook".into() })).await.unwrap();
    let key = Control::PauseKey { fairness_key: "acme".into(), item_type: Some("webhook".into()) };
    f.store.control(&control(key)).await.unwrap();
    f.store.quarantine(&"ab".repeat(32), "webhook", "it kept faulting").await.unwrap();
    let selection = Selection::Filter(Filter { status: vec![Status::Dlq], ..Filter::default() });
    let replay = OperateRequest {
        action: Action::Replay { keys: EffectKeys::Same },
        selection,
        actor: "ada@host".into(),
        reason: None,
        execution: Execution::Apply,
    };
    f.store.start_job(&replay, JobPace::default()).await.unwrap();
}

async fn finish_job(f: &Fixture) {
    while f.store.run_job_batch(JobId::new(1)).await.unwrap().unwrap().state == JobState::Running {}
}

fn resume(item_type: &str) -> ControlRequest {
    ControlRequest {
        control: Control::Resume { item_type: item_type.into() },
        actor: "ada@host".into(),
        reason: None,
        execution: Execution::Apply,
    }
}

async fn details(f: &Fixture) -> Vec<ItemDetails> {
    let mut details = Vec::new();
    for item in all(&*f.store).await {
        details.push(f.store.get(item.id).await.unwrap().unwrap());
    }
    details
}

/// Rows of one kind in an export.
struct MovedKind {
    /// The table of which a record is a row, or whose rows have the most of a record.
    name: &'static str,
    /// The tables whose columns a record has.
    tables: &'static [&'static str],
    /// Columns of these tables that no record has: the importing store derives them.
    derived: &'static [&'static str],
    /// Columns that a record has in their place.
    instead: &'static [&'static str],
}

const MOVED: [MovedKind; 12] = [
    // Whether an item is held or has a past follows from the other items and from the rest of its columns, and `epoch`
    // refers to a store's own jobs. The place of an item is its status, and a component has another number elsewhere.
    MovedKind {
        name: "items",
        tables: &["items", "queue", "done", "dead", "past", "descendants"],
        derived: &["again", "epoch", "handler", "held"],
        instead: &["handler_digest", "status"],
    },
    MovedKind { name: "attempts", tables: &["attempts"], derived: &[], instead: &[] },
    // The dead items of a run are counted when they are imported.
    MovedKind { name: "sagas", tables: &["sagas"], derived: &["dead"], instead: &[] },
    MovedKind { name: "state", tables: &["state"], derived: &[], instead: &[] },
    MovedKind { name: "counters", tables: &["counters"], derived: &[], instead: &[] },
    MovedKind { name: "pauses", tables: &["pauses"], derived: &[], instead: &[] },
    MovedKind { name: "key_pauses", tables: &["key_pauses"], derived: &[], instead: &[] },
    MovedKind { name: "quarantine", tables: &["quarantine"], derived: &[], instead: &[] },
    MovedKind { name: "jobs", tables: &["jobs"], derived: &[], instead: &[] },
    MovedKind { name: "signals", tables: &["signals"], derived: &[], instead: &[] },
    MovedKind { name: "audit", tables: &["audit"], derived: &[], instead: &[] },
    MovedKind { name: "audit_items", tables: &["audit_items"], derived: &[], instead: &[] },
];

/// The tables that an export leaves out: they follow from what is moved, belong to processes that run, hold what renews
/// itself within minutes (`alerts`, `rates`, `key_rates`), or tell of the hosts of the store (`history_minutes`). CLAIMED
/// items are not moved.
const STAYING: [&str; 17] = [
    "alerts",
    "audit_kept",
    "backlog",
    "breakers",
    "deltas",
    "handlers",
    "history_minutes",
    "key_rates",
    "lanes",
    "leases",
    "line_looks",
    "migrations",
    "owners",
    "pods",
    "rates",
    "saga_open",
    "state_totals",
];

/// The tables of an outbox.
fn schema_tables(f: &Fixture) -> BTreeSet<String> {
    let sql = match f.backend() {
        Backend::Sqlite => "SELECT substr(name, 8) FROM sqlite_schema WHERE type = 'table' AND name GLOB 'outbox?*'",
        Backend::Postgres => {
            "SELECT table_name FROM information_schema.tables
             WHERE table_schema = 'outbox' AND table_type = 'BASE TABLE'"
        }
    };
    f.sql(sql).unwrap().lines().map(str::to_owned).collect()
}

/// The columns of a table in the database.
fn schema_columns(f: &Fixture, table: &str) -> BTreeSet<String> {
    let sql = match f.backend() {
        Backend::Sqlite => format!("SELECT name FROM pragma_table_info('outbox_{table}')"),
        Backend::Postgres => format!(
            "SELECT column_name FROM information_schema.columns
             WHERE table_schema = 'outbox' AND table_name = '{table}'"
        ),
    };
    f.sql(&sql).unwrap().lines().map(str::to_owned).collect()
}

/// The columns that the exported records of a table have.
fn exported_columns(records: &[Record], table: &str) -> BTreeSet<String> {
    let rows = records.iter().flat_map(|record| match (record, table) {
        (Record::Item { item, .. }, "items") => vec![item],
        (Record::Item { attempts, .. }, "attempts") => attempts.iter().collect(),
        (Record::Item { run: Some(run), .. }, "sagas") => vec![run],
        (Record::State { state }, "state") => vec![state],
        (Record::Total { total }, "counters") => vec![total],
        (Record::Row { table: of, row }, table) if of == table => vec![row],
        _ => Vec::new(),
    });
    rows.flat_map(|row| row.keys().cloned()).collect()
}

mod promise {
    use super::*;

    pub(super) async fn an_import_has_the_same_items_history_state_and_totals_and_can_be_repeated(f: Fixture) {
        furnish(&f).await;
        let records = exported(&*f.store).await;
        let count = records.len() as u64;
        let target = Fixture::new(f.backend()).await;
        let dry = target.store.import(records.clone(), Execution::DryRun).await.unwrap();
        assert_eq!(dry, ImportReport { present: 0, created: count });
        assert!(all(&*target.store).await.is_empty());
        target.store.import(records.clone(), Execution::Apply).await.unwrap();
        assert_eq!(details(&target).await, details(&f).await);
        assert_eq!(exported(&*target.store).await, records);
        let again = target.store.import(records, Execution::Apply).await.unwrap();
        assert_eq!(again, ImportReport { present: count, created: 0 });
        assert_eq!(target.store.read_state("p", "n").await.unwrap(), f.store.read_state("p", "n").await.unwrap());
        let (theirs, ours) = (target.store.overview().await.unwrap(), f.store.overview().await.unwrap());
        assert_eq!((theirs.by_status, theirs.attempts), (ours.by_status, ours.attempts));
        assert_eq!((theirs.sagas, theirs.blocked_keys), (ours.sagas, 1));
        target.clock.advance(Duration::from_secs(10));
        assert_eq!(target.claim("mail", 9).await.len(), 1, "what waits behind a dead head is held there, too");
        assert_eq!(target.enqueue(item("new")).await, 6, "ids go on where they were");
    }

    pub(super) async fn an_import_is_refused_where_an_id_or_a_key_is_taken_and_a_claim_is_not_moved(f: Fixture) {
        furnish(&f).await;
        let records = exported(&*f.store).await;
        for key in ["another", "held"] {
            let target = Fixture::new(f.backend()).await;
            target.enqueue(item(key)).await;
            let refused = target.store.import(records.clone(), Execution::Apply).await.unwrap_err();
            assert!(matches!(refused, StoreError::Conflict { first, .. } if first == 1), "{refused}");
            assert_eq!(all(&*target.store).await.len(), 1, "all or none");
        }
        f.clock.advance(Duration::from_secs(9));
        f.claim_one("mail").await;
        let claimed = Fixture::new(f.backend())
            .await
            .store
            .import(exported(&*f.store).await, Execution::DryRun)
            .await
            .unwrap_err();
        assert!(claimed.to_string().contains("CLAIMED"), "{claimed}");
    }

    pub(super) async fn an_imported_dead_item_of_a_saga_without_a_run_makes_the_next_run_end_with_an_error(f: Fixture) {
        let step = |key: &str| NewItem { saga: Some("S".into()), cid: Some("c".into()), ..item(key) };
        f.enqueue(step("dead")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        let mut records = exported(&*f.store).await;
        records.retain(|record| record.item_id().is_some());
        for record in &mut records {
            let Record::Item { run, .. } = record else { panic!("it is an item") };
            *run = None;
        }
        let target = Fixture::new(f.backend()).await;
        target.store.import(records.clone(), Execution::Apply).await.unwrap();
        let again = target.store.import(records, Execution::DryRun).await.unwrap();
        assert_eq!((again.created, again.present), (0, 1), "it is the same as in the file");
        target.enqueue(step("done")).await;
        let claim = target.claim_one("mail").await;
        target.store.settle(&claim.reference(), done()).await.unwrap();
        let saga = target.store.overview().await.unwrap().sagas.remove("S").unwrap();
        assert_eq!((saga.began, saga.ended_ok, saga.ended_err), (1, 0, 1));
    }

    pub(super) async fn reserved_ids_are_kept_free_for_an_import(f: Fixture) {
        furnish(&f).await;
        let target = Fixture::new(f.backend()).await;
        let reserve = ControlRequest {
            control: Control::ReserveIds { up_to: ItemId::new(1_000) },
            actor: "ada@host".into(),
            reason: None,
            execution: Execution::Apply,
        };
        assert!(target.store.control(&reserve).await.unwrap().changed);
        assert!(!target.store.control(&reserve).await.unwrap().changed);
        assert_eq!(target.enqueue(item("first")).await, 1_001);
        target.store.import(exported(&*f.store).await, Execution::Apply).await.unwrap();
        assert_eq!(target.enqueue(item("second")).await, 1_002);
    }

    pub(super) async fn what_an_earlier_version_took_is_imported_as_strings_or_refused_by_its_id(f: Fixture) {
        f.enqueue(item("k")).await;
        let records = exported(&*f.store).await;
        let with = |column: &str, text: &str| {
            let mut record = records[0].clone();
            let Record::Item { item, .. } = &mut record else { panic!("the first record is an item") };
            item.insert(column.to_owned(), text.into());
            vec![record]
        };
        let (target, numbers) = (Fixture::new(f.backend()).await, with("headers", r#"{"n":1}"#));
        target.store.import(numbers.clone(), Execution::Apply).await.unwrap();
        assert_eq!(all(&*target.store).await[0].headers["n"], "1");
        let again = target.store.import(numbers, Execution::Apply).await.unwrap();
        assert_eq!(again, ImportReport { present: 1, created: 0 });
        let odd = with("ordering_key", "k\0");
        let refused = Fixture::new(f.backend()).await.store.import(odd, Execution::Apply).await.unwrap_err();
        assert!(refused.to_string().starts_with("ordering_key of item 1"), "{refused}");
    }

    pub(super) async fn what_operators_did_is_moved_and_a_running_job_is_not(f: Fixture) {
        furnish(&f).await;
        operate(&f).await;
        let mut snapshot = f.store.begin_export().await.unwrap();
        let jobs = ExportPosition::table(3).unwrap();
        let refused = snapshot.page(jobs, 9).await.unwrap_err();
        assert!(refused.to_string().contains("outbox jobs cancel 1"), "{refused}");
        drop(snapshot);
        finish_job(&f).await;
        let target = Fixture::new(f.backend()).await;
        // What operators did in the target comes later than what is imported.
        operate(&target).await;
        f.store.control(&resume("webhook")).await.unwrap();
        let records = exported(&*f.store).await;
        let mut without_jobs = records.clone();
        without_jobs.retain(|record| !matches!(record, Record::Row { table, .. } if table == "jobs"));
        target.store.import(without_jobs.clone(), Execution::Apply).await.unwrap();
        let again = target.store.import(without_jobs, Execution::DryRun).await.unwrap();
        assert_eq!(again.created, 0);
        let (ours, theirs) = (AuditQuery::default(), target.store.audit(&AuditQuery::default()).await.unwrap());
        let actions: Vec<_> = theirs.iter().map(|entry| entry.action.as_str()).collect();
        // What both did alike at one time under one number is one entry, as in a copy of a store.
        assert_eq!(actions, ["replay", "pause", "pause", "resume", "replay"]);
        assert!(theirs.is_sorted_by_key(|entry| -entry.seq));
        assert_eq!(f.store.audit(&ours).await.unwrap().len(), 4);
        let moved = all(&*target.store).await.into_iter().find(|item| item.idem_key == "dead").unwrap().id;
        let of_item = target.store.get(moved).await.unwrap().unwrap();
        assert_eq!(of_item.audit.len(), 1, "the trail of an item comes along");
        assert_eq!(
            target.store.signals(SignalSeq::new(0), 99).await.unwrap(),
            f.store.signals(SignalSeq::new(0), 99).await.unwrap()
        );
        let empty = Fixture::new(f.backend()).await;
        empty.store.import(records, Execution::Apply).await.unwrap();
        assert_eq!(empty.store.jobs(None, 9).await.unwrap(), f.store.jobs(None, 9).await.unwrap());
        assert_eq!(empty.store.list_quarantine().await.unwrap(), f.store.list_quarantine().await.unwrap());
        empty.enqueue(NewItem::new("fax", "fax", "{}")).await;
        empty.store.settle(&empty.claim_one("fax").await.reference(), dead()).await.unwrap();
        operate(&empty).await;
        assert_eq!(empty.store.jobs(None, 1).await.unwrap()[0].id, JobId::new(2), "numbers go on");
    }

    pub(super) async fn a_pause_of_the_target_stays_and_that_of_the_import_gives_way(f: Fixture) {
        operate(&f).await;
        let mut records = exported(&*f.store).await;
        records.retain(|record| record.pause().is_some());
        let target = Fixture::new(f.backend()).await;
        let pause = |reason: &str| ControlRequest {
            control: Control::Pause { item_type: "webhook".into() },
            actor: "ada@host".into(),
            reason: Some(reason.into()),
            execution: Execution::Apply,
        };
        target.store.control(&pause(IMPORT_PAUSE_REASON)).await.unwrap();
        target.store.import(records.clone(), Execution::Apply).await.unwrap();
        assert_eq!(target.store.pauses().await.unwrap(), f.store.pauses().await.unwrap());
        target.store.control(&resume("webhook")).await.unwrap();
        target.store.control(&pause("an upgrade")).await.unwrap();
        let report = target.store.import(records, Execution::Apply).await.unwrap();
        assert_eq!(report, ImportReport { present: 1, created: 0 });
        assert_eq!(target.store.pauses().await.unwrap()[0].reason.as_deref(), Some("an upgrade"));
    }

    pub(super) async fn a_file_of_the_store_itself_adds_nothing_to_it(f: Fixture) {
        furnish(&f).await;
        operate(&f).await;
        finish_job(&f).await;
        let records = exported(&*f.store).await;
        let entries =
            || f.sql("SELECT (SELECT count(*) FROM outbox_audit), (SELECT count(*) FROM outbox_audit_items)").unwrap();
        let before = entries();
        let report = f.store.import(records.clone(), Execution::Apply).await.unwrap();
        assert_eq!(report, ImportReport { present: records.len() as u64, created: 0 });
        assert_eq!(entries(), before, "the audit trail has no second copy");
    }

    pub(super) async fn an_export_shows_one_moment(f: Fixture) {
        for key in ["a", "b", "c"] {
            f.enqueue(item(key)).await;
        }
        let mut snapshot = f.store.begin_export().await.unwrap();
        let first = snapshot.page(ExportPosition::START, 2).await.unwrap();
        f.enqueue(item("later")).await;
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), done()).await.unwrap();
        let rest = snapshot.page(first.next.unwrap(), 9).await.unwrap();
        let statuses = first.records.iter().chain(&rest.records).map(|record| match record {
            Record::Item { item, .. } => item["status"].as_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        });
        assert_eq!(statuses.collect::<Vec<_>>(), ["PENDING"; 3]);
    }

    pub(super) async fn every_column_of_what_is_moved_is_exported_or_follows_from_the_rest(f: Fixture) {
        furnish(&f).await;
        operate(&f).await;
        finish_job(&f).await;
        let records = exported(&*f.store).await;
        for MovedKind { name, tables, derived, instead } in MOVED {
            let mut columns: BTreeSet<_> = tables.iter().flat_map(|table| schema_columns(&f, table)).collect();
            assert!(!columns.is_empty(), "{name}");
            columns.retain(|column| !derived.contains(&column.as_str()));
            columns.extend(instead.iter().map(|column| (*column).to_owned()));
            assert_eq!(exported_columns(&records, name), columns, "{name}");
        }
        let known: BTreeSet<_> = MOVED.iter().flat_map(|kind| kind.tables).chain(&STAYING).copied().collect();
        let unknown: Vec<_> = schema_tables(&f).into_iter().filter(|table| !known.contains(table.as_str())).collect();
        assert_eq!(unknown, [""; 0], "does an export need these tables?");
    }

    pub(super) async fn an_import_keeps_the_line_of_each_key_whatever_the_order_of_its_file_is(f: Fixture) {
        let keyed = |key: &str| NewItem { ordering_key: Some("line".into()), ..item(key) };
        // On PostgreSQL the item with the smaller id commits later and follows the other.
        match f.backend() {
            Backend::Sqlite => assert!(f.enqueue(keyed("first")).await < f.enqueue(keyed("second")).await),
            Backend::Postgres => {
                let insert = "INSERT INTO outbox_items (type, idem_key, payload, ordering_key)
                              VALUES ('mail', 'second', '{}', 'line')";
                let enqueue_first = async || assert!(f.enqueue(keyed("first")).await > ItemId::new(1));
                f.in_transaction(insert, enqueue_first).await;
            }
        }
        f.enqueue(keyed("third")).await;
        let mut records = exported(&*f.store).await;
        for _ in 0..2 {
            let target = Fixture::new(f.backend()).await;
            target.store.import(records.clone(), Execution::Apply).await.unwrap();
            target.enqueue(keyed("new")).await;
            let mut line = Vec::new();
            while let Some(claim) = target.claim("mail", 9).await.pop() {
                target.store.settle(&claim.reference(), done()).await.unwrap();
                line.push(claim.item.idem_key);
            }
            assert_eq!(line, ["first", "second", "third", "new"]);
            records.reverse();
        }
    }
}
