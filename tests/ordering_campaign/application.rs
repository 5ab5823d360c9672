//! The application of a campaign: threads that enqueue in transactions of their own, through plain SQL.
//!
//! A transaction enqueues one to four items of several keys. Before or after that, it may update the application's row
//! of each key, so that other transactions wait for it and the row's version shows in which order they committed. It
//! may roll back to a savepoint, or as a whole. This file does not know how a store orders items.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use outbox::item::ItemId;

use super::ledger::{Enqueued, Ledger, Note};
use super::{KEYS, TYPES};
use crate::support::TestDb;

/// Creates the application's own table, with a row for each key.
pub(super) fn create_rows(test_db: &TestDb) {
    let rows = KEYS.map(|key| format!("('{key}', 0)")).join(", ");
    let create = "CREATE TABLE accounts (key text PRIMARY KEY, version bigint NOT NULL)";
    test_db.sql(&format!("{create}; INSERT INTO accounts VALUES {rows}")).unwrap();
}

/// A connection of the application.
enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client),
}

impl Connection {
    async fn open(test_db: &TestDb) -> Self {
        match test_db {
            TestDb::Sqlite(folder) => {
                let connection = rusqlite::Connection::open(folder.file()).unwrap();
                connection.busy_timeout(Duration::from_secs(30)).unwrap();
                // Nobody cuts the power, and an application that waits less for the disk enqueues more.
                connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
                Self::Sqlite(connection)
            }
            TestDb::Postgres(database) => Self::Postgres(database.connect().await),
        }
    }

    async fn begin(&self) {
        match self {
            // A deferred transaction of SQLite fails when it begins to write after another has committed.
            Self::Sqlite(_) => self.run("BEGIN IMMEDIATE").await,
            Self::Postgres(_) => self.run("BEGIN").await,
        }
    }

    async fn run(&self, statements: &str) {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(statements).unwrap(),
            Self::Postgres(client) => client.batch_execute(&statements.replace("outbox_", "outbox.")).await.unwrap(),
        }
    }

    /// Runs a statement that returns one number.
    async fn number(&self, statement: &str) -> i64 {
        match self {
            Self::Sqlite(connection) => connection.query_row(statement, [], |row| row.get(0)).unwrap(),
            Self::Postgres(client) => {
                client.query_one(&statement.replace("outbox_", "outbox."), &[]).await.unwrap().get(0)
            }
        }
    }
}

/// When a transaction updates the application's rows of its keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowUpdates {
    BeforeInserts,
    AfterInserts,
    None,
}

/// One thread of the application.
pub(super) struct Producer {
    connection: Connection,
    ledger: Ledger,
    random: Rng,
    name: String,
    serial: u32,
}

impl Producer {
    pub(super) async fn open(test_db: &TestDb, ledger: Ledger, random: Rng, name: String) -> Self {
        Self { connection: Connection::open(test_db).await, ledger, random, name, serial: 0 }
    }

    /// Enqueues until the time is over.
    pub(super) async fn work(&mut self, until: Instant) {
        while Instant::now() < until {
            self.transaction().await;
            self.pause(0.8, 30).await;
        }
    }

    async fn transaction(&mut self) {
        let keys: Vec<_> = (0..self.random.usize(1..=4)).map(|_| self.key()).collect();
        let updates = match self.random.u8(0..4) {
            0 => RowUpdates::BeforeInserts,
            1 => RowUpdates::AfterInserts,
            _ => RowUpdates::None,
        };
        self.connection.begin().await;
        let mut versions = BTreeMap::new();
        if updates == RowUpdates::BeforeInserts {
            versions = self.update_rows(&keys).await;
        }
        let mut ids = Vec::new();
        for key in &keys {
            ids.push(self.insert(key.as_deref()).await);
        }
        if updates == RowUpdates::AfterInserts {
            versions = self.update_rows(&keys).await;
        }
        let item = |(id, key): (ItemId, Option<String>)| {
            let version = key.as_ref().and_then(|key| versions.get(key)).copied();
            Enqueued { id, key, version }
        };
        self.end(ids.into_iter().zip(keys).map(item).collect()).await;
    }

    /// Commits nine transactions of ten, and rolls the others back.
    async fn end(&mut self, items: Vec<Enqueued>) {
        if self.random.u8(0..10) == 0 {
            return self.connection.run("ROLLBACK").await;
        }
        let begun = self.ledger.position();
        self.connection.run("COMMIT").await;
        self.ledger.note(Note::Committed { begun, items });
    }

    /// A key, or none for one item of eight.
    fn key(&mut self) -> Option<String> {
        (self.random.u8(0..8) > 0).then(|| KEYS[self.random.usize(..KEYS.len())].to_owned())
    }

    /// Raises the versions of the application's rows of these keys, in an order in which nobody waits in a circle.
    async fn update_rows(&self, keys: &[Option<String>]) -> BTreeMap<String, i64> {
        let mut versions: BTreeMap<_, _> = keys.iter().flatten().map(|key| (key.clone(), 0)).collect();
        for (key, version) in &mut versions {
            let update = format!("UPDATE accounts SET version = version + 1 WHERE key = '{key}' RETURNING version");
            *version = self.connection.number(&update).await;
        }
        versions
    }

    /// Inserts an item, in one case of ten after another one that is taken back.
    async fn insert(&mut self, key: Option<&str>) -> ItemId {
        if self.random.u8(0..10) == 0 {
            self.connection.run("SAVEPOINT attempt").await;
            self.insert_one(key).await;
            self.connection.run("ROLLBACK TO SAVEPOINT attempt").await;
        }
        let id = self.insert_one(key).await;
        self.pause(0.1, 2).await;
        id
    }

    async fn insert_one(&mut self, key: Option<&str>) -> ItemId {
        self.serial += 1;
        let (item_type, name) = (TYPES[self.random.usize(..TYPES.len())], format!("{}-{}", self.name, self.serial));
        let key = key.map_or_else(|| "NULL".to_owned(), |key| format!("'{key}'"));
        let columns = "INSERT INTO outbox_items (type, idem_key, payload, ordering_key)";
        let insert = format!("{columns} VALUES ('{item_type}', '{name}', '{{}}', {key}) RETURNING id");
        ItemId::new(self.connection.number(&insert).await)
    }

    /// Waits for a random time up to `millis`, with this probability.
    async fn pause(&mut self, probability: f64, millis: u64) {
        if self.random.f64() < probability {
            tokio::time::sleep(Duration::from_micros(self.random.u64(0..millis * 1_000))).await;
        }
    }
}
