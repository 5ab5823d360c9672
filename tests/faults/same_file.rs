//! SQLite: the file of the store is removed, moved, replaced or robbed of its log while the store has it open.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use outbox::item::Status;
use outbox::sqlite::{SqliteOptions, SqliteStore, migrate};
use outbox::store::{BatchMode, StoreError};

use crate::support::{Fixture, all, done, eventually, item, request, sqlite3};

const SOON: Duration = Duration::from_secs(30);

/// The database, and the files that SQLite keeps beside it.
fn files(f: &Fixture) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| format!("{}{suffix}", f.test_db.address()).into())
}

fn remove(paths: &[PathBuf]) {
    for path in paths {
        fs::remove_file(path).unwrap();
    }
}

/// Moves each file to a name beside it, or back.
fn rename(paths: &[PathBuf], from: &str, to: &str) {
    for path in paths {
        let name = |suffix: &str| format!("{}{suffix}", path.display());
        fs::rename(name(from), name(to)).unwrap();
    }
}

/// Expects that nothing can be written, read or claimed, and that the reason is told.
async fn is_refused(f: &Fixture, why: &str) {
    let told = |err: StoreError| {
        assert!(matches!(err, StoreError::Unavailable { .. }), "the caller may try again: {err}");
        assert!(err.to_string().contains(why), "{err}");
    };
    told(f.store.enqueue(vec![item("refused")], BatchMode::PerItem).await.unwrap_err());
    told(f.store.enqueue(vec![item("a"), item("b")], BatchMode::PerItem).await.unwrap_err());
    told(f.store.claim(&request(&["mail"], 9)).await.unwrap_err());
    told(f.store.probe().await.unwrap_err());
    told(f.store.overview().await.unwrap_err());
}

async fn keys(f: &Fixture) -> Vec<String> {
    let mut keys: Vec<_> = all(&*f.store).await.into_iter().map(|item| item.idem_key).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn nothing_is_acknowledged_after_the_file_was_removed() {
    let f = Fixture::sqlite().await;
    f.enqueue(item("before")).await;
    remove(&files(&f));
    is_refused(&f, "was removed: nothing can be stored").await;
    drop(f.store);
    migrate(f.test_db.address().as_ref()).unwrap();
}

#[tokio::test]
async fn a_file_that_was_moved_away_and_back_goes_on_with_all_that_was_acknowledged() {
    let f = Fixture::sqlite().await;
    f.enqueue(item("before")).await;
    let claim = f.claim_one("mail").await;
    rename(&files(&f), "", ".away");
    is_refused(&f, "was removed").await;
    let settled = f.store.settle(&claim.reference(), done()).await;
    assert!(matches!(settled, Err(StoreError::Unavailable { .. })), "{settled:?}");
    rename(&files(&f), ".away", "");
    f.store.probe().await.unwrap();
    f.enqueue(item("after")).await;
    let settled = f.store.settle(&claim.reference(), done()).await;
    assert!(matches!(settled, Ok(()) | Err(StoreError::ClaimLost)), "{settled:?}");
    assert_eq!(f.status(claim.item.id).await, Status::Done);
    assert!(keys(&f).await.starts_with(&["after".into(), "before".into()]));
}

#[tokio::test]
async fn a_file_that_takes_the_place_of_another_is_opened_by_writer_readers_and_watch() {
    let f = Fixture::sqlite().await;
    f.enqueue(item("old")).await;
    assert_eq!(keys(&f).await, ["old"]);
    remove(&files(&f));
    migrate(f.test_db.address().as_ref()).unwrap();
    eventually("the new file is open", SOON, async || {
        f.store.enqueue(vec![item("new")], BatchMode::PerItem).await.is_ok()
    })
    .await;
    f.store.probe().await.unwrap();
    assert_eq!(keys(&f).await, ["new"]);
    let seen = sqlite3(&f.test_db.address(), "SELECT idem_key FROM outbox_items").unwrap();
    assert_eq!(seen, "new", "it is in the file that others open");
    let mut changes = f.store.subscribe();
    // What was noticed before is read away: it takes the watch one look to follow the writer.
    tokio::time::sleep(Duration::from_millis(200)).await;
    changes.borrow_and_update();
    f.sql("INSERT INTO outbox_items (type, idem_key, payload) VALUES ('mail', 'theirs', '{}')").unwrap();
    tokio::time::timeout(SOON, changes.changed()).await.expect("commits of others are noticed").unwrap();
}

#[tokio::test]
async fn a_new_file_is_not_mixed_with_the_log_of_the_one_before() {
    let f = Fixture::sqlite().await;
    f.enqueue(item("old")).await;
    let [database, wal, shm] = files(&f);
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new.sqlite");
    migrate(&new).unwrap();
    fs::rename(&database, folder.path().join("old.sqlite")).unwrap();
    fs::copy(&new, &database).unwrap();
    is_refused(&f, "SQLite would mix the two").await;
    remove(&[wal, shm]);
    eventually("the new file is open", SOON, async || {
        f.store.enqueue(vec![item("new")], BatchMode::PerItem).await.is_ok()
    })
    .await;
    assert_eq!(keys(&f).await, ["new"]);
}

#[tokio::test]
async fn a_removed_log_loses_nothing_when_the_process_stops() {
    let f = Fixture::sqlite().await;
    f.enqueue(item("in the log")).await;
    let [_, wal, shm] = files(&f);
    remove(&[wal, shm]);
    is_refused(&f, "stop every process").await;
    drop(f.store);
    let stored = sqlite3(&f.test_db.address(), "SELECT idem_key FROM outbox_items WHERE idem_key = 'in the log'");
    assert_eq!(stored.unwrap(), "in the log");
}

#[tokio::test]
async fn a_symbolic_link_that_leads_elsewhere_is_followed() {
    let f = Fixture::sqlite().await;
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let lead_to = |name: &str| {
        let _ = fs::remove_file(place("link"));
        std::os::unix::fs::symlink(place(name), place("link")).unwrap();
    };
    migrate(&place("one")).unwrap();
    migrate(&place("two")).unwrap();
    lead_to("one");
    let store = SqliteStore::open(&place("link"), SqliteOptions::default()).unwrap();
    let f = Fixture { store, ..f };
    f.enqueue(item("first")).await;
    assert!(f.store.overview().await.unwrap().wal_bytes > 0, "the log is beside the target");
    lead_to("two");
    eventually("the other file is open", SOON, async || {
        f.store.enqueue(vec![item("second")], BatchMode::PerItem).await.is_ok()
    })
    .await;
    let stored = |name: &str| sqlite3(&place(name).display().to_string(), "SELECT idem_key FROM outbox_items").unwrap();
    assert_eq!((stored("one").as_str(), stored("two").as_str()), ("first", "second"));
}

#[tokio::test]
async fn a_claim_from_before_a_restore_settles_nothing_that_was_claimed_after_it() {
    let f = Fixture::sqlite().await;
    let id = f.enqueue(item("k")).await;
    let backup = format!("{}.backup", f.test_db.address());
    sqlite3(&f.test_db.address(), &format!("VACUUM INTO '{backup}'")).unwrap();
    let before = f.claim_one("mail").await;
    let Fixture { store, test_db, clock } = f;
    drop(store);
    for path in ["-wal", "-shm"].map(|suffix| format!("{}{suffix}", test_db.address())) {
        fs::remove_file(path).ok();
    }
    fs::rename(backup, test_db.address()).unwrap();
    let restored = Fixture { store: test_db.open("pod-1", &clock, None).await, test_db, clock };
    let after = restored.claim_one("mail").await;
    assert_eq!(after.item.id, id);
    let late = restored.store.settle(&before.reference(), done()).await;
    assert!(matches!(late, Err(StoreError::ClaimLost)), "{late:?}");
    assert_eq!(restored.status(id).await, Status::Claimed);
    restored.store.settle(&after.reference(), done()).await.unwrap();
}
