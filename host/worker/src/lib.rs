//! The worker of one process: it claims items, runs their handlers, and settles the claims.
//!
//! The worker renews the leases of what it has in hand, and interrupts an attempt before the end of the last lease that
//! is known to be held: two attempts at one item never overlap. A failed item is retried, given back or dead-lettered
//! by the policy of its type, and a shutdown releases the attempts that it interrupts. The worker sees
//! [`Handler`](outbox_core::Handler) and [`Queue`](outbox_store::Queue); it knows neither WebAssembly nor SQL, and cannot
//! list or change items except through its claims.
//!
//! The items of an ordering key that one claim took, a *streak*, are attempted one after the other. The next one begins
//! when the settlement of the one before it has been sent.
//!
//! An item holds a *claim permit* from its claim to its settlement, and a *run permit* while its attempt runs. There
//! are more claim permits than run permits, so that a worker with short attempts claims the next batch ahead. When one
//! type has all of them, each other type still gets a few, so that a slow receiver does not hold up the others. The part
//! of a request that a claim did not fill stays at the store as a *long poll*: the store may fulfil it in the
//! transaction that makes the items available.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use async_trait::async_trait;
//! use outbox_core::{Attempt, AttemptReport, CrashBudget, Handler, HostWrites, Outcome, ServedType};
//! use outbox_item::NewItem;
//! use outbox_sqlite::{SqliteOptions, SqliteStore};
//! use outbox_store::{BatchMode, Enqueue as _};
//! use outbox_worker::{Worker, WorkerSettings};
//! use tokio::sync::watch;
//! use tokio_util::sync::CancellationToken;
//!
//! /// Prints one greeting, then stops the worker.
//! struct Greeter {
//!     changes: watch::Sender<u64>,
//!     stop: CancellationToken,
//! }
//!
//! #[async_trait]
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
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("outbox.sqlite");
//! let store = SqliteStore::open(&path, SqliteOptions::default())?;
//! store.enqueue(vec![NewItem::new("greeting", "key-1", "Ada")], BatchMode::PerItem).await?;
//!
//! let stop = CancellationToken::new();
//! let greeter = Greeter { changes: watch::Sender::new(0), stop: stop.clone() };
//! let settings = WorkerSettings {
//!     instance: "host-1".into(),
//!     concurrency: 8,
//!     prefetch: 0,
//!     payload_bytes: 64 << 20,
//!     lease: Duration::from_mins(1),
//!     drain: Duration::from_secs(5),
//!     crash_budget: CrashBudget::default(),
//! };
//! Worker::new(store, Arc::new(greeter), settings).run(stop).await;
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

mod attempt;
mod breaker_news;
mod claim_loop;
mod claim_shares;
mod clock_watch;
mod failure_log;
mod floor;
mod host_faults;
mod lease_book;
mod lease_expiry;
mod lease_keeper;
mod lease_times;
mod leases_in_hand;
mod lost_claims;
mod prefetch;
mod run_permits;
mod settle;
mod streak;
mod suspects;
mod tally;
#[cfg(test)]
mod tests;
mod wait_plan;

pub use crate::claim_loop::{Worker, WorkerSettings};
pub use crate::floor::most_attempts;
pub use crate::lease_expiry::LeaseExpiry;
pub use crate::lease_times::attempt_time_without_timeout;
pub use crate::leases_in_hand::LeasesInHand;
pub use crate::tally::Tally;
