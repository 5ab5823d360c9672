//! What a server allows: the store's own statements, and the barest possible ones, driven by hand with
//! nothing beside. It is what `outbox bench` measures the host against.

use std::time::{Duration, Instant};

use crate::context::PgContext;
use crate::error::PgError;
use crate::pool::Pool;
use crate::tx::Query as _;
use crate::{PostgresOptions, claim, enqueue, settle};
use outbox_core::{HostWrites, Settlement};
use outbox_item::{NewItem, Status};
use outbox_store::{BatchMode, Claim, ClaimRequest, SettleRequest, StoreError};

/// A store without its tasks: each transaction is made for whoever asks for it.
pub struct DirectStore {
    pg: PgContext,
}

impl DirectStore {
    /// Uses a database that has the outbox's schema.
    pub fn open(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let pool = Pool::new(url, &options)?;
        Ok(Self { pg: PgContext::new(pool, options, false) })
    }

    /// Enqueues the items in one transaction.
    pub async fn enqueue(&self, items: &[NewItem]) -> Result<(), StoreError> {
        let pg = &self.pg;
        transact!(pg, "enqueueing by hand", |tx| enqueue::enqueue(tx, items, BatchMode::PerItem)).map(|_| ())
    }

    /// Claims and makes DONE until there is nothing left: while a batch is settled on one connection, the next is
    /// claimed on another. Returns how many items there were.
    pub async fn drain(&self, request: &ClaimRequest) -> Result<usize, StoreError> {
        let (mut count, mut batch) = (0, self.claim(request).await?);
        while !batch.is_empty() {
            count += batch.len();
            let (next, ()) = tokio::try_join!(self.claim(request), self.complete(&batch))?;
            batch = next;
        }
        Ok(count)
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Claim>, StoreError> {
        let pg = &self.pg;
        let claimed = transact!(pg, "claiming by hand", |tx| claim::claim(tx, request))?;
        Ok(claimed.claims)
    }

    async fn complete(&self, claims: &[Claim]) -> Result<(), StoreError> {
        let settlement = Settlement::Done { result: None, writes: HostWrites::default() };
        let done =
            SettleRequest { settlement, maybe_executed: false, stderr: None, handler_digest: None, exchanges: None };
        let references: Vec<_> = claims.iter().map(Claim::reference).collect();
        let group: Vec<_> = references.iter().map(|claim| (claim, &done)).collect();
        let pg = &self.pg;
        let settled = transact!(pg, "settling by hand", |tx| settle::settle(tx, &group))?;
        settled.into_iter().collect()
    }

    /// Puts rows in place as they are when the items were enqueued, and handled if `status` is DONE.
    pub async fn fill(&self, items: &[NewItem], status: Status) -> Result<(), StoreError> {
        let pg = &self.pg;
        transact!(pg, "filling the database", |tx| async {
            enqueue::enqueue(tx, items, BatchMode::PerItem).await?;
            if status == Status::Done {
                let done = "UPDATE outbox.items SET status = 'DONE', attempts = 1, deliveries = 1, done_at = $1
                            WHERE status = 'PENDING'";
                tx.rows(done, &[&tx.now]).await?;
                let item_type = items.first().map_or("", |item| &item.item_type);
                tx.count("done", "", item_type, "", i64::try_from(items.len()).unwrap_or(i64::MAX));
            }
            Ok::<_, PgError>(())
        })
    }

    /// What autovacuum does sooner or later.
    pub async fn vacuum(&self) -> Result<(), StoreError> {
        let vacuum = async || {
            let client = self.pg.pool.connection().await?;
            // A vacuum of a million rows takes longer than a call of the store may.
            client.batch_execute("SET statement_timeout = 0").await?;
            client.batch_execute("VACUUM (ANALYZE) outbox.items").await?;
            // The connection's settings are for this alone.
            drop(deadpool_postgres::Client::take(client));
            Ok::<_, PgError>(())
        };
        vacuum().await.map_err(|err| err.into_store_error("vacuuming"))
    }

    /// How many items of the type are DONE, at a cost that disturbs nobody.
    pub async fn done(&self, item_type: &str) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(sum(total), 0)::bigint FROM outbox.counters WHERE name = 'done' AND type = $1";
        let pg = &self.pg;
        let total: i64 = read!(pg, "reading a total", |tx| async {
            let rows = tx.rows(sql, &[&item_type]).await?;
            Ok(rows.first().ok_or(PgError::LostRace)?.try_get(0)?)
        })?;
        Ok(u64::try_from(total).unwrap_or(0))
    }
}

/// The barest of queues: a table of rows with a unique key, without indexes, checks or triggers besides.
pub struct BareTable {
    client: deadpool_postgres::Client,
}

impl BareTable {
    /// Creates the table, where an earlier one is replaced.
    pub async fn create(url: &str, options: &PostgresOptions) -> Result<Self, StoreError> {
        let create = async || {
            let client = Pool::new(url, options)?.connection().await?;
            let sql = "DROP TABLE IF EXISTS bare;
                       CREATE TABLE bare (id bigserial PRIMARY KEY, key text NOT NULL UNIQUE, payload bytea NOT NULL)";
            client.batch_execute(sql).await?;
            Ok::<_, PgError>(client)
        };
        let client = create().await.map_err(|err| err.into_store_error("creating a bare table"))?;
        Ok(Self { client })
    }

    /// Inserts and commits the items, so many at a time.
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

    /// How long the least takes that is durable when it is answered: one round trip and one flush of the
    /// server's log.
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

/// Databases on a server that are there for a while only.
pub struct TemporaryDatabases {
    url: String,
    options: PostgresOptions,
}

impl TemporaryDatabases {
    /// Beside the database that the URL names, by a role that may create databases.
    pub fn on_server_of(url: &str, options: PostgresOptions) -> Self {
        Self { url: url.to_owned(), options }
    }

    /// A new database, which has nothing in it. Returns its URL.
    pub async fn create(&self, name: &str) -> Result<String, StoreError> {
        self.run(&format!("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")).await?;
        let mark = if self.url.contains('?') { '&' } else { '?' };
        Ok(format!("{}{mark}dbname={name}", self.url))
    }

    /// Removes such a database, whoever is connected to it.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.run(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
    }

    async fn run(&self, sql: &str) -> Result<(), StoreError> {
        let run = async || {
            let client = Pool::new(&self.url, &self.options)?.connection().await?;
            client.batch_execute(sql).await?;
            Ok::<_, PgError>(())
        };
        run().await.map_err(|err| err.into_store_error("making databases for the bench"))
    }
}
