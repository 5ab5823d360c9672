//! One round of work by apalis-sqlite: `peer-apalis FOLDER SINGLES ITEMS`. FOLDER is empty.
//! The program prints its figures as one line of JSON; rates are in items per second.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqlitePool, SqlitePoolOptions, SqliteStorage};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

/// The default size of its connection pool.
const CONNECTIONS: u32 = 10;
/// Ten times its default batch; the larger batch makes no difference to the result.
const BATCH: usize = 100;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Payload {
    n: usize,
    text: String,
}

struct Plan {
    folder: PathBuf,
    singles: usize,
    items: usize,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("FOLDER is missing")?);
    let mut number = |name| Ok::<usize, Failure>(args.next().ok_or(name)?.parse()?);
    let plan = Plan { folder, singles: number("SINGLES is missing")?, items: number("ITEMS is missing")? };
    let pool = open(&plan.folder.join("apalis.db")).await?;
    let synchronous = synchronous(&pool).await?;
    let journal_mode = journal_mode(&pool).await?;
    let storage = SqliteStorage::<Payload>::new(&pool).with_config(Config::default().queue("noop").batch_size(BATCH));
    let (enqueue, bulk) = fill(storage.clone(), &plan).await?;
    let drain = drain(storage, &plan).await?;
    let done = settled(&pool, plan.items).await?;
    let report = serde_json::json!({
        "journal_mode": journal_mode, "synchronous": synchronous,
        "enqueue": enqueue, "bulk": bulk, "drain": drain, "done": done,
    });
    println!("{report}");
    Ok(())
}

/// `SqliteStorage::setup` sets synchronous=OFF on one connection of its pool, so it gets a separate pool.
async fn open(path: &Path) -> Result<SqlitePool, Failure> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let for_setup = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
    SqliteStorage::setup(&for_setup).await?;
    for_setup.close().await;
    let pool = SqlitePoolOptions::new().min_connections(CONNECTIONS).max_connections(CONNECTIONS);
    Ok(pool.connect_with(options).await?)
}

/// The lowest value of `PRAGMA synchronous` over all connections of the pool.
async fn synchronous(pool: &SqlitePool) -> Result<i64, Failure> {
    let mut held = Vec::new();
    let mut lowest = i64::MAX;
    for _ in 0..CONNECTIONS {
        let mut connection = pool.acquire().await?;
        lowest = lowest.min(sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await?);
        held.push(connection);
    }
    Ok(lowest)
}

async fn journal_mode(pool: &SqlitePool) -> Result<String, Failure> {
    Ok(sqlx::query_scalar("PRAGMA journal_mode").fetch_one(pool).await?)
}

fn task(n: usize) -> Task<Payload> {
    TaskBuilder::new(Payload { n, text: "x".repeat(180) }).idempotency_key(format!("key-{n}")).build()
}

async fn fill(mut storage: SqliteStorage<Payload>, plan: &Plan) -> Result<(f64, f64), Failure> {
    let begun = Instant::now();
    for n in 0..plan.singles {
        storage.push_task(task(n)).await?;
    }
    let single = rate(plan.singles, begun);
    let begun = Instant::now();
    let tasks: Vec<_> = (plan.singles..plan.items).map(task).collect();
    storage.push_all(futures::stream::iter(tasks)).await?;
    Ok((single, rate(plan.items - plan.singles, begun)))
}

async fn drain(storage: SqliteStorage<Payload>, plan: &Plan) -> Result<f64, Failure> {
    let (handled, items) = (Arc::new(AtomicUsize::new(0)), plan.items);
    let noop = move |_: Payload, worker: WorkerContext| {
        let handled = handled.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            if handled == items {
                worker.stop()?;
            }
            Ok::<_, Failure>(())
        }
    };
    let begun = Instant::now();
    WorkerBuilder::new("peer").backend(storage).build(noop).run().await?;
    Ok(rate(items, begun))
}

/// Waits until all items are settled, for at most 2 s, and returns the number of settled items.
async fn settled(pool: &SqlitePool, items: usize) -> Result<i64, Failure> {
    let asked = Instant::now();
    loop {
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status = 'Done'").fetch_one(pool).await?;
        if done as usize == items || asked.elapsed() > Duration::from_secs(2) {
            return Ok(done);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn rate(count: usize, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}
