//! What a server allows: the store's own statements, and the cheapest possible ones, each run directly by the caller.
//! `outbox bench` compares the host with these.
//!
//! No production code uses this module; it needs the feature `bench-support`.

use std::time::{Duration, Instant};

use outbox_core::{HostWrites, Settlement};
use outbox_item::{NewItem, Status};
use outbox_store::engine::counters::Counter;
use outbox_store::{BatchMode, Claim, ClaimRequest, ClaimTerms, ClaimToken, SettleRequest, StoreError};

use crate::context::PgContext;
use crate::enqueue;
use crate::error::PgError;
use crate::group::settle_and_claim;
use crate::options::PostgresOptions;
use crate::pool::{Pool, Purpose};
use crate::tx::Query as _;

/// A store without its background tasks: each transaction runs in the caller's task.
pub struct DirectStore {
    pg: PgContext,
}

impl DirectStore {
    /// Uses a database that has the outbox's schema. Connects on demand.
    pub fn open(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let pool = Pool::new(url, &options)?;
        Ok(Self { pg: PgContext::new(pool, options, false) })
    }

    /// Enqueues the items in one transaction.
    pub async fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError> {
        let pg = &self.pg;
        transact!(pg, "enqueueing by hand", |tx| enqueue::enqueue(tx, items, BatchMode::PerItem)).map(|_| ())
    }

    /// Claims items and makes them DONE until none is left: each transaction settles a batch and claims the next.
    /// Returns how many items it handled.
    pub async fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError> {
        let (mut count, mut batch) = (0, self.settle_and_claim(&[], request).await?);
        while !batch.is_empty() {
            count += batch.len();
            batch = self.settle_and_claim(&batch, request).await?;
        }
        Ok(count)
    }

    async fn settle_and_claim(&self, claims: &[Claim], request: &ClaimRequest) -> Result<Vec<Claim>, StoreError> {
        let settlement = Settlement::Done { result: None, writes: HostWrites::default() };
        let done =
            SettleRequest { settlement, maybe_executed: false, stderr: None, handler_digest: None, exchanges: None };
        let references: Vec<_> = claims.iter().map(Claim::reference).collect();
        let group: Vec<_> = references.iter().map(|claim| (claim, &done)).collect();
        let types = request.types.iter().map(|terms| ClaimTerms { token: ClaimToken::random(), ..terms.clone() });
        let request = ClaimRequest { types: types.collect(), ..request.clone() };
        let call = || Box::pin(settle_and_claim(&self.pg, &group, Some(&request)));
        let (settled, claimed) = self.pg.with_retries("draining by hand", call).await?;
        settled.results.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(claimed.unwrap_or_default().claims)
    }

    /// Writes the rows that enqueued items have, or handled items if `status` is DONE, in one transaction.
    pub async fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError> {
        let pg = &self.pg;
        transact!(pg, "filling the database", |tx| async {
            enqueue::enqueue(tx, items, BatchMode::PerItem).await?;
            if status == Status::Done {
                let done = "WITH handled AS (DELETE FROM outbox.queue RETURNING id)
                            INSERT INTO outbox.done (id, done_at, epoch) SELECT id, $1, 0 FROM handled";
                tx.rows(done, &[&tx.now.get()]).await?;
                let item_type = items.first().map_or("", |item| &item.item_type);
                tx.count(Counter::Done { item_type }, i64::try_from(items.len()).unwrap_or(i64::MAX));
            }
            Ok::<_, PgError>(())
        })
    }

    /// Vacuums and analyses the tables that items pass through now, as autovacuum does some time later.
    pub async fn vacuum(&self) -> Result<(), StoreError> {
        let vacuum = async || {
            let client = self.pg.pool.connection(Purpose::Call).await?;
            // A vacuum of a million rows takes longer than the limit of a statement.
            client.batch_execute("SET statement_timeout = 0").await?;
            client.batch_execute("VACUUM (ANALYZE) outbox.items, outbox.queue, outbox.done").await?;
            // The connection has other settings now, so it leaves the pool.
            drop(deadpool_postgres::Client::take(client));
            Ok::<_, PgError>(())
        };
        vacuum().await.map_err(|err| err.into_store_error("vacuuming"))
    }

    /// How many items of the type are DONE, at a cost that does not disturb the measurement.
    pub async fn done(&self, item_type: &str) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(sum(total), 0)::bigint FROM outbox.totals WHERE name = 'done' AND type = $1";
        let pg = &self.pg;
        let total: i64 = read!(pg, "reading a total", |tx| async {
            let rows = tx.rows(sql, &[&item_type]).await?;
            Ok(rows.first().ok_or(PgError::LostRace)?.try_get(0)?)
        })?;
        Ok(u64::try_from(total).unwrap_or(0))
    }
}

/// The least that a durable queue needs: a table of rows with a unique key, without other indexes, checks or triggers.
pub struct BareTable {
    client: deadpool_postgres::Client,
}

impl BareTable {
    /// Creates the table, and replaces an earlier one.
    pub async fn create(url: &str, options: &PostgresOptions) -> Result<Self, StoreError> {
        let create = async || {
            let client = Pool::new(url, options)?.connection(Purpose::Call).await?;
            let sql = "DROP TABLE IF EXISTS bare;
                       CREATE TABLE bare (id bigserial PRIMARY KEY, key text NOT NULL UNIQUE, payload bytea NOT NULL)";
            client.batch_execute(sql).await?;
            Ok::<_, PgError>(client)
        };
        let client = create().await.map_err(|err| err.into_store_error("creating a bare table"))?;
        Ok(Self { client })
    }

    /// Inserts the items, and commits after every `batch_size` of them.
    pub async fn enqueue(&self, items: &[NewItem], batch_size: usize) -> Result<(), StoreError> {
        let sql = "INSERT INTO bare (key, payload) SELECT * FROM unnest($1::text[], $2::bytea[])";
        let insert = async || {
            let statement = self.client.prepare_cached(sql).await?;
            for batch in items.chunks(batch_size) {
                let keys: Vec<_> = batch.iter().map(|item| item.idem_key.as_str()).collect();
                let payloads: Vec<_> = batch.iter().map(|item| item.payload.as_slice()).collect();
                self.client.execute(&statement, &[&keys, &payloads]).await?;
            }
            Ok::<_, PgError>(())
        };
        insert().await.map_err(|err| err.into_store_error("inserting into a bare table"))
    }

    /// The time of the cheapest durable statement: one round trip and one flush of the server's log.
    pub async fn flush(&self) -> Result<Duration, StoreError> {
        let flush = async || {
            let statement = self.client.prepare_cached("SELECT pg_logical_emit_message(true, 'outbox', '')").await?;
            let begun = Instant::now();
            self.client.execute(&statement, &[]).await?;
            Ok::<_, PgError>(begun.elapsed())
        };
        flush().await.map_err(|err| err.into_store_error("flushing the log"))
    }
}

/// Creates and removes databases for a measurement.
pub struct TemporaryDatabases {
    url: String,
    options: PostgresOptions,
}

impl TemporaryDatabases {
    /// On the server of the URL, whose role may create databases.
    pub fn on_server_of(url: &str, options: PostgresOptions) -> Self {
        Self { url: url.to_owned(), options }
    }

    /// Creates an empty database and returns its URL.
    pub async fn create(&self, name: &str) -> Result<String, StoreError> {
        self.run(&format!("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")).await?;
        let mark = if self.url.contains('?') { '&' } else { '?' };
        Ok(format!("{}{mark}dbname={name}", self.url))
    }

    /// Removes a database, and ends the connections to it.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.run(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
    }

    async fn run(&self, sql: &str) -> Result<(), StoreError> {
        let run = async || {
            let client = Pool::new(&self.url, &self.options)?.connection(Purpose::Call).await?;
            client.batch_execute(sql).await?;
            Ok::<_, PgError>(())
        };
        run().await.map_err(|err| err.into_store_error("making databases for the bench"))
    }
}
