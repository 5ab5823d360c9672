//! Notices the commits of other processes, at a cost that does not depend on the backlog: by notifications, or else by
//! looking for work again and again (`poller`).
//!
//! A pooler that gives each transaction another session accepts `LISTEN` and delivers nothing. So the store sends itself
//! a notification through the pool, and trusts the connection once it has heard that. It does not know what was
//! committed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client};

use crate::context::{PgContext, Purpose};
use crate::error::PgError;
use crate::poller::Poller;
use crate::tx::Query as _;

/// Time between two empty statements that check whether the connection still works.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The longest wait for a reply on this connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait for the notification that the store sends itself: many times what a busy server takes.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// Wait between the loss of the connection and the next attempt to connect.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// Wait before all begins again after a panic.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Wait before the next attempt to listen on a connection that delivered nothing. Each attempt at a pooler leaves one
/// of its sessions listening, so there are few.
const UNHEARD_DELAY: Duration = Duration::from_mins(10);

/// Why notifications are not relied on.
pub(crate) enum NotListening {
    /// The schema sends none.
    Silent,
    /// The connection accepted `LISTEN`, and the notification that the store sent did not arrive.
    Unheard,
    /// The connection failed, or could not be opened.
    Failed(PgError),
}

impl NotListening {
    fn delay(&self) -> Option<Duration> {
        match self {
            Self::Silent => None,
            Self::Unheard => Some(UNHEARD_DELAY),
            Self::Failed(_) => Some(RECONNECT_DELAY),
        }
    }

    /// The reason, for people.
    pub(crate) fn reason(&self, pg: &PgContext) -> String {
        let target = pg.pool.listening_target();
        match self {
            Self::Silent => "inserts send no notification (`outbox migrate --notify` changes this)".to_owned(),
            Self::Unheard => {
                format!("a notification did not arrive through {target}, which is perhaps a pooler in transaction mode")
            }
            Self::Failed(err) => format!("listening at {target} failed: {}", err.message()),
        }
    }
}

impl<E: Into<PgError>> From<E> for NotListening {
    fn from(err: E) -> Self {
        Self::Failed(err.into())
    }
}

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

/// Listens and looks for work until the task is aborted. A panic begins it again.
async fn run(pg: Arc<PgContext>) {
    while AssertUnwindSafe(follow(&pg)).catch_unwind().await.is_err() {
        tracing::error!("listening for changes panicked and begins again");
        sleep(RESTART_PAUSE).await;
    }
}

async fn follow(pg: &PgContext) {
    let is_heard = watch::Sender::new(false);
    tokio::join!(keep_listening(pg, &is_heard), poll(pg, is_heard.subscribe()));
}

async fn keep_listening(pg: &PgContext, is_heard: &watch::Sender<bool>) {
    loop {
        let lost = match listen(pg, is_heard).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        };
        is_heard.send_replace(false);
        match &lost {
            NotListening::Failed(err) => pg.record_background_failure("listening for changes", err),
            NotListening::Unheard => tracing::warn!("looking for work instead of listening: {}", lost.reason(pg)),
            NotListening::Silent => {}
        }
        match lost.delay() {
            Some(delay) => sleep(delay).await,
            None => return,
        }
    }
}

/// Wakes the workers of this process again and again while notifications are not heard.
async fn poll(pg: &PgContext, mut is_heard: watch::Receiver<bool>) {
    let mut poller = Poller::default();
    while is_heard.wait_for(|is_heard| !is_heard).await.is_ok() {
        tokio::select! {
            _ = is_heard.changed() => {}
            () = pg.claimed.notified() => poller.found(),
            () = sleep(poller.delay()) => {
                poller.looked();
                pg.wake();
            }
        }
    }
}

/// What a function returns that ends only with an error.
enum Never {}

/// Listens until the connection is lost.
async fn listen(pg: &PgContext, is_heard: &watch::Sender<bool>) -> Result<Never, NotListening> {
    if !pg.tx.notifies {
        return Err(NotListening::Silent);
    }
    let mut left = pg.pool.left();
    let (client, mut connection) = pg.pool.listening_connection().await?;
    let word = uuid::Uuid::new_v4().simple().to_string();
    let heard = watch::Sender::new(false);
    let drive = async {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message? {
                heard.send_if_modified(|heard| {
                    let is_first = !*heard && notification.payload() == word;
                    *heard |= is_first;
                    is_first
                });
                pg.wake();
            }
        }
        Err(NotListening::Failed(PgError::TimedOut))
    };
    tokio::select! {
        lost = drive => lost,
        // The pool has left the server, which may not be the one that accepts writes.
        Ok(()) = left.changed() => Err(NotListening::Failed(PgError::TimedOut)),
        failed = stay(pg, &client, &word, heard.subscribe(), is_heard) => failed,
    }
}

/// Begins to listen, waits for the word that the store sends itself, and then checks the connection from time to time.
async fn stay(
    pg: &PgContext,
    client: &Client,
    word: &str,
    mut heard: watch::Receiver<bool>,
    is_heard: &watch::Sender<bool>,
) -> Result<Never, NotListening> {
    timeout(PROBE_TIMEOUT, client.batch_execute("LISTEN outbox")).await.map_err(|_| PgError::TimedOut)??;
    send(pg, word).await?;
    if timeout(HEARD_WITHIN, heard.wait_for(|heard| *heard)).await.is_err() {
        client.batch_execute("UNLISTEN *").await?;
        return Err(NotListening::Unheard);
    }
    is_heard.send_replace(true);
    // Commits until now were perhaps not noticed.
    pg.wake();
    loop {
        sleep(PROBE_INTERVAL).await;
        timeout(PROBE_TIMEOUT, client.simple_query("")).await.map_err(|_| PgError::TimedOut)??;
    }
}

/// Notifies every process that listens, in a transaction of the pool.
async fn send(pg: &PgContext, word: &str) -> Result<(), PgError> {
    let client = pg.pool.connection(Purpose::Work).await?;
    let tx = pg.begin(&client).await?;
    tx.rows("SELECT pg_notify('outbox', $1)", &[&word]).await?;
    tx.commit().await.map(drop)
}

/// Why a store like this one would look for work instead of listening; `None` when it listens.
pub(crate) async fn diagnose(pg: &PgContext) -> Option<String> {
    let is_heard = watch::Sender::new(false);
    let mut heard = is_heard.subscribe();
    tokio::select! {
        Err(lost) = listen(pg, &is_heard) => Some(lost.reason(pg)),
        _ = heard.wait_for(|heard| *heard) => None,
    }
}
