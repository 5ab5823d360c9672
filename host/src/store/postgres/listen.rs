//! Notices what other processes commit, at a cost that does not depend on the backlog: by notifications,
//! or, where the schema does not notify, by the database's snapshot, which every commit changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client};

use super::caller::Caller;
use super::fault::Fault;

/// Without notifications, another process's insert is noticed within twice this.
const INTERVAL: Duration = Duration::from_millis(50);
/// A connection on which nothing is heard is asked for a sign of life.
const PING: Duration = Duration::from_secs(10);
/// How long a sign of life may take.
const PONG: Duration = Duration::from_secs(5);
/// After the connection was lost, the next attempt waits this long.
const RECONNECT: Duration = Duration::from_millis(500);

/// A task with a connection of its own. Ends when dropped.
pub(super) struct Listener(AbortHandle);

impl Listener {
    pub(super) fn start(caller: &Arc<Caller>) -> Self {
        Self(tokio::spawn(run(Arc::clone(caller))).abort_handle())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(caller: Arc<Caller>) {
    loop {
        if let Err(fault) = listen(&caller).await {
            caller.note("listening for changes", &fault);
        }
        sleep(RECONNECT).await;
        // Whatever was committed meanwhile was not noticed.
        caller.wake();
    }
}

/// Until the connection is lost.
async fn listen(caller: &Caller) -> Result<(), Fault> {
    let (client, mut connection) = caller.pool.apart().await?;
    let drive = async {
        while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(_) = message? {
                caller.wake();
            }
        }
        Ok(())
    };
    tokio::select! {
        lost = drive => lost,
        failed = attend(&client, caller) => failed,
    }
}

async fn attend(client: &Client, caller: &Caller) -> Result<(), Fault> {
    if caller.notifies {
        client.batch_execute("LISTEN outbox").await?;
        caller.wake();
        loop {
            sleep(PING).await;
            timeout(PONG, client.simple_query("")).await.map_err(|_| Fault::Late)??;
        }
    }
    let mut seen = String::new();
    loop {
        let look = client.query_one("SELECT pg_current_snapshot()::text", &[]);
        let snapshot: String = timeout(PONG, look).await.map_err(|_| Fault::Late)??.try_get(0)?;
        if snapshot != seen {
            seen = snapshot;
            caller.wake();
        }
        sleep(INTERVAL).await;
    }
}
