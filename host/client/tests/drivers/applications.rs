//! Applications that differ in the driver: each runs the same steps in a transaction of its own.

use outbox_client::{EnqueueError, ItemId, NewItem, postgres, sqlite, sqlx_postgres};
use sqlx_core::row::Row as _;
use sqlx_core::sql_str::AssertSqlSafe;

/// What an application does in a transaction.
pub(crate) enum Step<'a> {
    Sql(&'a str),
    Enqueue(&'a NewItem),
}

/// How the transaction ends.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Commit,
    Rollback,
}

/// What came of a step: the id, where it enqueued. The driver's errors of its own statements are wrapped as well.
pub(crate) type StepResult = Result<Option<ItemId>, EnqueueError>;

pub(crate) trait Application {
    /// The table of the items.
    const ITEMS: &str;
    /// The function that makes text of a payload.
    const HEX: &str;
    /// Runs the steps in one transaction; a failed one does not keep the next ones from running.
    async fn transact(&mut self, steps: &[Step<'_>], end: End) -> Vec<StepResult>;
    /// The rows of a query with one column of text.
    async fn read(&mut self, sql: &str) -> Vec<String>;
    /// Whether the error holds one of the driver's own errors.
    fn is_driver_error(error: &EnqueueError) -> bool;
}

fn database(error: impl std::error::Error + Send + Sync + 'static) -> EnqueueError {
    EnqueueError::Database(Box::new(error))
}

fn holds<E: std::error::Error + 'static>(error: &EnqueueError) -> bool {
    matches!(error, EnqueueError::Database(source) if source.is::<E>())
}

pub(crate) struct Rusqlite(rusqlite::Connection);

impl Rusqlite {
    pub(crate) fn connect(path: &str) -> Self {
        Self(rusqlite::Connection::open(path).unwrap())
    }
}

impl Application for Rusqlite {
    const ITEMS: &str = "outbox_items";
    const HEX: &str = "hex(payload)";

    async fn transact(&mut self, steps: &[Step<'_>], end: End) -> Vec<StepResult> {
        let tx = self.0.transaction().unwrap();
        let run = |step: &Step<'_>| match step {
            Step::Sql(sql) => tx.execute_batch(sql).map(|()| None).map_err(database),
            Step::Enqueue(item) => sqlite::enqueue_in(&tx, item).map(Some),
        };
        let results = steps.iter().map(run).collect();
        match end {
            End::Commit => tx.commit().unwrap(),
            End::Rollback => tx.rollback().unwrap(),
        }
        results
    }

    async fn read(&mut self, sql: &str) -> Vec<String> {
        let mut select = self.0.prepare(sql).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn is_driver_error(error: &EnqueueError) -> bool {
        holds::<rusqlite::Error>(error)
    }
}

pub(crate) struct TokioPostgres(tokio_postgres::Client);

impl TokioPostgres {
    pub(crate) async fn connect(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        Self(client)
    }
}

impl Application for TokioPostgres {
    const ITEMS: &str = "outbox.items";
    const HEX: &str = "upper(encode(payload, 'hex'))";

    async fn transact(&mut self, steps: &[Step<'_>], end: End) -> Vec<StepResult> {
        let tx = self.0.transaction().await.unwrap();
        let mut results = Vec::new();
        for step in steps {
            results.push(match step {
                Step::Sql(sql) => tx.batch_execute(sql).await.map(|()| None).map_err(database),
                Step::Enqueue(item) => spawnable(postgres::enqueue_in(&tx, item)).await.map(Some),
            });
        }
        match end {
            End::Commit => tx.commit().await.unwrap(),
            End::Rollback => tx.rollback().await.unwrap(),
        }
        results
    }

    async fn read(&mut self, sql: &str) -> Vec<String> {
        self.0.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    fn is_driver_error(error: &EnqueueError) -> bool {
        holds::<tokio_postgres::Error>(error)
    }
}

pub(crate) struct SqlxPostgres(sqlx_core::pool::Pool<::sqlx_postgres::Postgres>);

impl SqlxPostgres {
    pub(crate) async fn connect(url: &str) -> Self {
        Self(::sqlx_postgres::PgPoolOptions::new().connect(url).await.unwrap())
    }
}

impl Application for SqlxPostgres {
    const ITEMS: &str = TokioPostgres::ITEMS;
    const HEX: &str = TokioPostgres::HEX;

    async fn transact(&mut self, steps: &[Step<'_>], end: End) -> Vec<StepResult> {
        let mut tx = self.0.begin().await.unwrap();
        let mut results = Vec::new();
        for step in steps {
            results.push(match step {
                Step::Sql(sql) => {
                    let statement = sqlx_core::raw_sql::raw_sql(AssertSqlSafe(*sql));
                    statement.execute(&mut *tx).await.map(|_| None).map_err(database)
                }
                Step::Enqueue(item) => spawnable(sqlx_postgres::enqueue_in(&mut tx, item)).await.map(Some),
            });
        }
        match end {
            End::Commit => tx.commit().await.unwrap(),
            End::Rollback => tx.rollback().await.unwrap(),
        }
        results
    }

    async fn read(&mut self, sql: &str) -> Vec<String> {
        let rows = sqlx_core::query::query(AssertSqlSafe(sql)).fetch_all(&self.0).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    fn is_driver_error(error: &EnqueueError) -> bool {
        holds::<sqlx_core::error::Error>(error)
    }
}

/// An application may run the future on any thread.
fn spawnable<F: Future + Send>(future: F) -> F {
    future
}
