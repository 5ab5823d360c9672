//! Numbers at the end of their range, planted where a store draws the next one: nothing that takes a number stops.

use std::time::Duration;

use outbox::core::{HostWrites, Settlement, StateChange, StateKeyChange};
use outbox::item::NewItem;
use outbox::store::{Action, BatchMode, EffectKeys, Execution, Filter, JobId, OperateRequest, Selection, SignalSeq};

use crate::support::{Backend, Fixture, item, on_each_backend, settled};

on_each_backend! {
    a_row_with_the_last_number_leaves_numbers_for_others
    numbers_that_are_drawn_up_to_the_end_are_drawn_from_those_in_use_again
}

/// The tables whose numbers a store draws, with the column and the sequence of PostgreSQL.
const NUMBERED: [(&str, &str, &str); 6] = [
    ("items", "id", "items_id_seq"),
    ("signals", "seq", "signals_seq_seq"),
    ("state", "version", "state_version_seq"),
    ("jobs", "id", "jobs_id_seq"),
    ("audit", "seq", "audit_seq_seq"),
    ("queue", "turn", "turn_seq"),
];

/// Draws a number of each kind: an item of a key and of a saga that writes state, and a job.
async fn draw_all(f: &Fixture, key: &str) {
    let new = NewItem { saga: Some("S".into()), ordering_key: Some(key.into()), ..item(key) };
    f.store.enqueue(vec![new], BatchMode::PerItem).await.unwrap();
    let change = StateKeyChange { key: key.into(), read_version: None, change: StateChange::Put(vec![1]) };
    let writes = HostWrites { plugin: "p".into(), state: vec![change], state_quota: 1 << 20, ..HostWrites::default() };
    let end = settled(Settlement::Done { result: None, writes });
    f.store.settle(&f.claim_one("mail").await.reference(), end).await.unwrap();
    let replay = OperateRequest {
        action: Action::Replay { keys: EffectKeys::Same },
        selection: Selection::Filter(Filter { idem_key: Some(key.into()), ..Filter::default() }),
        actor: "ada@host".into(),
        reason: None,
        execution: Execution::Apply,
    };
    f.store.operate(&replay).await.unwrap();
    let again = f.claim_one("mail").await;
    f.store.settle(&again.reference(), crate::support::done()).await.unwrap();
    f.clock.advance(Duration::from_secs(1));
}

/// A statement that gives the newest row of a table the last number. A key of PostgreSQL's kind "generated always" can
/// only be inserted.
fn plant(backend: Backend, table: &str, column: &str) -> String {
    let last = i64::MAX;
    match (backend, table) {
        (_, "items") => format!(
            "INSERT INTO outbox_items (id, type, idem_key, payload) VALUES ({last}, 'planted', 'planted', '{{}}')"
        ),
        (Backend::Postgres, "signals") => format!(
            "INSERT INTO outbox_signals (seq, pod, signal, ts, data) OVERRIDING SYSTEM VALUE
             VALUES ({last}, 'p', 's', 1, '{{}}')"
        ),
        (Backend::Postgres, "jobs") => format!(
            "INSERT INTO outbox_jobs (id, action, filter, actor, state, began_at, ended_at, next_at, last_id, matched)
             OVERRIDING SYSTEM VALUE VALUES ({last}, '{{}}', '{{}}', 'ada', 'DONE', 1, 1, 1, 1, 0)"
        ),
        (Backend::Postgres, "audit") => format!(
            "INSERT INTO outbox_audit (seq, at, actor, action, selection, count, changes) OVERRIDING SYSTEM VALUE
             VALUES ({last}, 1, 'ada', 'replay', '{{}}', 0, '[]')"
        ),
        (Backend::Sqlite, "audit") => format!(
            "INSERT INTO outbox_audit (seq, at, actor, action, selection, count, changes)
             VALUES ({last}, 1, 'ada', 'replay', '{{}}', 0, '[]')"
        ),
        _ => format!(
            "UPDATE outbox_{table} SET {column} = {last} WHERE {column} = (SELECT max({column}) FROM outbox_{table})"
        ),
    }
}

mod on_each {
    use super::*;

    pub(super) async fn a_row_with_the_last_number_leaves_numbers_for_others(backend: Backend) {
        let f = Fixture::new(backend).await;
        draw_all(&f, "first").await;
        f.enqueue(NewItem { item_type: "idle".into(), ordering_key: Some("idle".into()), ..item("idle") }).await;
        for (table, column, _) in NUMBERED {
            if backend == Backend::Sqlite && table == "queue" {
                continue;
            }
            let planted = f.sql(&plant(backend, table, column));
            assert!(planted.is_err() || backend == Backend::Postgres && table != "items", "{table}: {planted:?}");
            draw_all(&f, &format!("after-{table}")).await;
            let second = f.another().await;
            draw_all(&second, &format!("opened-after-{table}")).await;
        }
    }

    pub(super) async fn numbers_that_are_drawn_up_to_the_end_are_drawn_from_those_in_use_again(backend: Backend) {
        let f = Fixture::new(backend).await;
        draw_all(&f, "first").await;
        for (table, _, sequence) in NUMBERED {
            let set = match backend {
                Backend::Sqlite => {
                    format!("UPDATE sqlite_sequence SET seq = {} WHERE name = 'outbox_{table}'", i64::MAX)
                }
                Backend::Postgres => format!("SELECT setval('outbox.{sequence}', {})", i64::MAX),
            };
            f.sql(&set).unwrap();
            draw_all(&f, &format!("after-{table}")).await;
        }
        assert!(f.store.newest_signal().await.unwrap() < SignalSeq::new(1_000_000));
        assert!(f.store.jobs(None, 1).await.unwrap()[0].id < JobId::new(1_000_000));
    }
}
