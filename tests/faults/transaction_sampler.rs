//! The longest transactions that hosts have on a server, looked at from outside each millisecond or two.
//!
//! It knows what each of them did with its time: which statements ran, and what the server waited for.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_postgres::Row;

use crate::support::postgres::Database;

/// The transactions of hosts. One that has no number has written nothing yet. A connection that is idle is left out: it
/// is in a transaction for a moment when it reads notifications, and the server says of that one that it began with the
/// last statement of the connection.
const RUNNING: &str = "SELECT pid, (extract(epoch FROM xact_start) * 1000000)::bigint,
        (extract(epoch FROM clock_timestamp() - xact_start) * 1000000)::bigint, backend_xid IS NOT NULL,
        CASE WHEN state <> 'active' THEN 'the host, after ' WHEN wait_event_type = 'Client' THEN ''
             ELSE coalesce(wait_event || ' in ', '') END || left(query, 60),
        coalesce(wait_event_type = 'IO' OR wait_event_type = 'LWLock' AND wait_event LIKE 'WAL%'
                 OR wait_event_type = 'Lock' AND wait_event = 'relation', false)
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'outbox' AND xact_start IS NOT NULL AND state <> 'idle'";

/// How many statements of a transaction are shown.
const SHOWN: usize = 6;

/// A thread that looks. It ends when this is dropped.
pub(crate) struct Sampler {
    samples: Arc<Samples>,
    thread: Option<JoinHandle<()>>,
}

/// A transaction, as far as it was seen.
#[derive(Clone, Default)]
pub(crate) struct Transaction {
    lasted: Duration,
    /// The part of it in which the server waited for its files, or for a vacuum that cuts off the empty end of a table.
    server: Duration,
    is_writing: bool,
    /// The time of each statement and of what it waited for.
    statements: HashMap<String, Duration>,
}

/// The longest transactions since the last look, the waits of the server not counted.
#[derive(Clone, Default)]
pub(crate) struct Longest {
    pub(crate) writing: Transaction,
    pub(crate) reading: Transaction,
}

#[derive(Default)]
struct Samples {
    is_over: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// By the process and the begin.
    open: HashMap<(i32, i64), Transaction>,
    longest: Longest,
}

impl Sampler {
    pub(crate) fn start(database: &Database) -> Self {
        let (samples, url) = (Arc::<Samples>::default(), database.url());
        let shared = Arc::clone(&samples);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(shared.sample(&url));
        });
        Self { samples, thread: Some(thread) }
    }

    /// The longest transactions since the last call, with those that are open.
    pub(crate) fn take(&self) -> Longest {
        let mut seen = self.samples.seen.lock().unwrap();
        seen.end_all_but(|_| false);
        std::mem::take(&mut seen.longest)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.samples.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

impl Samples {
    async fn sample(&self, url: &str) {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let statement = client.prepare(RUNNING).await.unwrap();
        while !self.is_over.load(Ordering::Relaxed) {
            let rows = client.query(&statement, &[]).await.unwrap();
            self.seen.lock().unwrap().add(&rows);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Seen {
    fn add(&mut self, rows: &[Row]) {
        let key = |row: &Row| (row.get(0), row.get(1));
        for row in rows {
            self.open.entry(key(row)).or_default().add(row);
        }
        self.end_all_but(|open| rows.iter().any(|row| key(row) == *open));
    }

    fn end_all_but(&mut self, is_open: impl Fn(&(i32, i64)) -> bool) {
        for (_, ended) in self.open.extract_if(|key, _| !is_open(key)) {
            let Longest { writing, reading } = &mut self.longest;
            let longest = if ended.is_writing { writing } else { reading };
            if longest.of_host() < ended.of_host() {
                *longest = ended;
            }
        }
    }
}

impl Transaction {
    /// Counts the time since the last look as that of what is seen now.
    fn add(&mut self, row: &Row) {
        let lasted = Duration::from_micros(u64::try_from(row.get::<_, i64>(2)).unwrap_or(0));
        let more = lasted.saturating_sub(self.lasted);
        self.lasted += more;
        self.is_writing |= row.get::<_, bool>(3);
        if row.get(5) {
            self.server += more;
        }
        *self.statements.entry(row.get(4)).or_default() += more;
    }

    /// How long it lasted, without the waits of the server, which no host can shorten.
    pub(crate) fn of_host(&self) -> Duration {
        self.lasted.saturating_sub(self.server)
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        write!(f, "{:.1} ms and {:.1} ms of waits of the server", ms(&self.of_host()), ms(&self.server))?;
        let mut statements: Vec<_> = self.statements.iter().collect();
        statements.sort_by_key(|(_, time)| std::cmp::Reverse(**time));
        for (statement, time) in statements.into_iter().take(SHOWN) {
            let words: Vec<_> = statement.split_whitespace().collect();
            write!(f, "\n    {:.1} ms: {}", ms(time), words.join(" "))?;
        }
        Ok(())
    }
}
