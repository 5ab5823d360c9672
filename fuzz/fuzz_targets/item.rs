//! The schema accepts every item that the rules accept: the store refuses a new item with the same reason as the
//! rules, or stores it, or reports that its key is taken.

#![no_main]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use outbox::item::NewItem;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::{BatchMode, Enqueue as _, StoreError};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The number of items after which the target opens a new file, so that the file stays small.
const ITEMS_MAX: u32 = 20_000;

struct Outbox {
    runtime: Runtime,
    store: Arc<SqliteStore>,
    items: u32,
    _dir: TempDir,
}

impl Outbox {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("outbox.sqlite"), SqliteOptions::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, store, items: 0, _dir: dir }
    }
}

thread_local!(static OUTBOX: RefCell<Outbox> = RefCell::new(Outbox::open()));

/// An item whose fields are the lines of the input. An empty line means that the field is absent.
fn item(text: &str) -> NewItem {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let given = |line: &str| Some(line.to_owned()).filter(|line| !line.is_empty());
    let mut item = NewItem::new(line(), line(), line());
    (item.cid, item.saga, item.ordering_key) = (given(line()), given(line()), given(line()));
    item.fairness_key = given(line());
    item.content_type = line().to_owned();
    item.delay = Duration::from_millis(line().parse().unwrap_or_default());
    item.headers.insert(line().to_owned(), line().to_owned());
    item.metadata.insert(line().to_owned(), line().into());
    item
}

fuzz_target!(|text: &str| {
    let item = item(text);
    OUTBOX.with_borrow_mut(|outbox| {
        if outbox.items == ITEMS_MAX {
            *outbox = Outbox::open();
        }
        let valid = item.validate();
        match outbox.runtime.block_on(outbox.store.enqueue(vec![item], BatchMode::AllOrNothing)) {
            Ok(enqueued) => {
                assert_eq!(valid, Ok(()));
                outbox.items += u32::try_from(enqueued.created).unwrap();
            }
            Err(StoreError::Invalid(invalid)) => assert_eq!(valid, Err(invalid.source)),
            Err(StoreError::Conflict { .. }) => assert_eq!(valid, Ok(())),
            Err(other) => panic!("{other}"),
        }
    });
});
