//! A durable outbox: an application writes an *item* together with its own data, and the host performs the side effect
//! of that item, again and again until it succeeds or an operator has to decide. The code that performs side effects is
//! a handler: a WebAssembly component in a sandbox, or native code that implements [`core::Handler`].
//!
//! This crate is the program `outbox`: configuration, command line, and the composition of all parts. As a library it
//! only re-exports the other crates, each as one module:
//!
//! | module | crate | what it is |
//! |---|---|---|
//! | [`item`] | `outbox-item` | the item: its fields, its status, validation, JSON |
//! | [`client`] | `outbox-client` | enqueues in a transaction of the application; small, for use in applications |
//! | [`core`] | `outbox-core` | the handler and its attempts, failures, retries, sagas, settlements |
//! | [`store`] | `outbox-store` | the traits of a store, and what every store promises |
//! | [`sqlite`], [`postgres`] | `outbox-sqlite`, `outbox-postgres` | the two stores |
//! | [`worker`] | `outbox-worker` | claims items, runs attempts, settles them |
//! | [`runtime`] | `outbox-runtime` | loads components and runs them in a sandbox |
//! | [`http`] | `outbox-http` | the HTTP interface |
//! | [`check`] | `outbox-check` | tests a handler: its cases, and a crash at every call |
//!
//! ```text
//!  application ── client ──┐                         ┌── http ◀── callers, operators
//!                          ▼                         ▼
//!                 ┌──────────────────────────────────────┐
//!                 │ store: SQLite file or PostgreSQL     │
//!                 └──────────────────────────────────────┘
//!                          ▲ claim, settle
//!                          │
//!                       worker ──── Handler ────▶ runtime ────▶ component ────▶ downstream service
//!                                  (in core)                   (sandboxed)
//! ```
//!
//! The worker does not know WebAssembly, and the runtime does not know the store: they meet at [`core::Handler`]. An
//! application depends on `outbox-client` alone, which is small; this crate compiles all of the above.
//!
//! # Enqueue in a transaction
//!
//! The item is committed with the data of the application, or not at all.
//!
//! ```
//! use outbox::client::sqlite::enqueue_in;
//! use outbox::item::NewItem;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("app.sqlite");
//! outbox::sqlite::migrate(&path)?;
//! let mut connection = rusqlite::Connection::open(&path)?;
//! connection.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER)")?;
//!
//! let transaction = connection.transaction()?;
//! transaction.execute("INSERT INTO orders VALUES (17, 4200)", [])?;
//! let confirmation = NewItem::new("mail", "order-17", r#"{"order":17}"#);
//! let id = enqueue_in(&transaction, &confirmation)?;
//! // The same key with the same content again enqueues nothing.
//! assert_eq!(enqueue_in(&transaction, &confirmation)?, id);
//! transaction.commit()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Handle items with native code
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use outbox::core::{Attempt, AttemptReport, CrashBudget, Handler, HostWrites, Outcome, ServedType};
//! use outbox::item::{NewItem, Status};
//! use outbox::sqlite::{SqliteOptions, SqliteStore};
//! use outbox::store::{BatchMode, Enqueue as _, Inspect as _};
//! use outbox::worker::{Worker, WorkerSettings};
//! use tokio::sync::watch;
//! use tokio_util::sync::CancellationToken;
//!
//! /// Prints greetings, and stops the worker after the first.
//! struct Greeter {
//!     changes: watch::Sender<u64>,
//!     stop: CancellationToken,
//! }
//!
//! #[async_trait::async_trait]
//! impl Handler for Greeter {
//!     fn served_types(&self) -> Vec<ServedType> {
//!         vec![ServedType::new("greeting")]
//!     }
//!
//!     fn changes(&self) -> watch::Receiver<u64> {
//!         self.changes.subscribe()
//!     }
//!
//!     async fn handle(&self, attempt: Attempt) -> AttemptReport {
//!         println!("Hello, {}!", String::from_utf8_lossy(&attempt.item.payload));
//!         self.stop.cancel();
//!         AttemptReport::without_component(Outcome::Done { result: None, writes: HostWrites::default() })
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("outbox.sqlite");
//! let store = SqliteStore::open(&path, SqliteOptions::default())?;
//! let enqueued = store.enqueue(vec![NewItem::new("greeting", "first", r#""Ada""#)], BatchMode::PerItem).await?;
//!
//! let stop = CancellationToken::new();
//! let handler = Greeter { changes: watch::Sender::new(0), stop: stop.clone() };
//! let settings = WorkerSettings {
//!     instance: "example".to_owned(),
//!     concurrency: 8,
//!     prefetch: 0,
//!     payload_bytes: 64 << 20,
//!     lease: Duration::from_mins(1),
//!     drain: Duration::from_secs(5),
//!     crash_budget: CrashBudget::default(),
//! };
//! // `run` returns when every attempt has been settled.
//! Worker::new(store.clone(), Arc::new(handler), settings).run(stop).await;
//!
//! let details = store.get(enqueued.ids[0].unwrap()).await?.unwrap();
//! assert_eq!(details.item.status, Status::Done);
//! # Ok(())
//! # }
//! ```
//!
//! # Check a component
//!
//! `check` crashes a component at every call of the host, delivers the item again, and compares the effects. The same
//! works in the tests of a handler: [`check::assert_cases`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use outbox::check::{CheckOptions, CheckProgress, check};
//!
//! # #[tokio::main]
//! # async fn main() -> anyhow::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let (component, cases) = (folder.path().join("noop.wasm"), folder.path().join("cases"));
//! # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench/noop.wat"));
//! # std::fs::write(&component, wat::parse_str(text)?)?;
//! # std::fs::create_dir(&cases)?;
//! std::fs::write(cases.join("one.toml"), "[item]\ntype = 'noop'\n[expect]\noutcome = 'done'\n")?;
//! let options = CheckOptions { component, cases, ..CheckOptions::default() };
//! let progress = Arc::new(|at: CheckProgress<'_>| println!("{}: {} of {} schedules", at.case, at.done, at.total));
//! for report in check(&options, progress).await? {
//!     assert!(report.has_no_findings(), "{:?}", report.findings);
//! }
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

mod bench;
mod cli;
mod config;
mod filesystem;
mod host;
mod images;
mod open_plugins;
mod open_store;
mod plugin_folders;
mod rerun;
mod telemetry;

pub use outbox_check as check;
pub use outbox_client as client;
pub use outbox_core as core;
pub use outbox_http as http;
pub use outbox_item as item;
pub use outbox_postgres as postgres;
pub use outbox_runtime as runtime;
pub use outbox_sqlite as sqlite;
pub use outbox_store as store;
pub use outbox_worker as worker;

#[doc(hidden)]
pub use crate::cli::main;
