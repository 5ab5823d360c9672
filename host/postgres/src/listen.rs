//! Notices the commits of other processes, at a cost that does not depend on the backlog: by notifications, or by
//! polling the database's snapshot, which every commit changes, where the schema does not notify.
//!
//! It does not know what was committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client};

use crate::context::PgContext;
use crate::error::PgError;

/// Time between two reads of the snapshot, where the schema does not notify: short enough for a low latency, and one
/// cheap statement for the server.
const INTERVAL: Duration = Duration::from_millis(50);
/// Time between two empty statements that check whether the connection still works.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The longest wait for a reply on this connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait between the loss of the connection and the next attempt to connect.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// A task with a connection of its own. The task ends when this is dropped.
pub(crate) struct ChangeListener(AbortHandle);

impl ChangeListener {
    pub(crate) fn start(pg: &Arc<PgContext>) -> Self {
        Self(tokio::spawn(run(Arc::clone(pg))).abort_handle())
    }
}

impl Drop for ChangeListener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(pg: Arc<PgContext>) {
    loop {
        if let Err(err) = listen(&pg).await {
            pg.record_background_failure("listening for changes", &err);
        }
        sleep(RECONNECT_DELAY).await;
        // Commits in between were not noticed.
        pg.wake();
    }
}

/// Listens until the connection is lost.
async fn listen(pg: &PgContext) -> Result<(), PgError> {
    let (client, mut connection) = pg.pool.dedicated_connection().await?;
    let drive = async {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(_) = message? {
                pg.wake();
            }
        }
        Ok(())
    };
    tokio::select! {
        lost = drive => lost,
        failed = watch_changes(&client, pg) => failed,
    }
}

async fn watch_changes(client: &Client, pg: &PgContext) -> Result<(), PgError> {
    if pg.tx.notifies {
        client.batch_execute("LISTEN outbox").await?;
        pg.wake();
        loop {
            sleep(PROBE_INTERVAL).await;
            timeout(PROBE_TIMEOUT, client.simple_query("")).await.map_err(|_| PgError::TimedOut)??;
        }
    }
    let mut seen = String::new();
    loop {
        let query = client.query_one("SELECT pg_current_snapshot()::text", &[]);
        let snapshot: String = timeout(PROBE_TIMEOUT, query).await.map_err(|_| PgError::TimedOut)??.try_get(0)?;
        if snapshot != seen {
            seen = snapshot;
            pg.wake();
        }
        sleep(INTERVAL).await;
    }
}
