//! `PgBouncer` in front of a test server: in transaction mode, with three server connections for each database.
//!
//! It is a child of a small shell that waits for the end of its standard input, like the servers.

use std::fs;
use std::io::Read as _;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::host::free_port;
use super::postgres::{Cluster, Database, psql};

/// Runs the pooler until standard input ends.
const WATCHDOG: &str = r#"
"$@" > pooler.log 2>&1 &
pooler=$!
read -r word
kill -KILL $pooler 2> /dev/null
"#;

/// Debian installs it outside the search path of ordinary users.
const PROGRAMS: [&str; 2] = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];

/// A running `PgBouncer`. Stopped when dropped.
pub(crate) struct Pooler {
    port: u16,
    watchdog: Child,
    input: Option<ChildStdin>,
}

/// How the stores of a test run reach PostgreSQL. `OUTBOX_TEST_POOLER` chooses it, for `make soak`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Without a pooler.
    Direct,
    /// Through a pooler, but for the connection that listens.
    Pooled,
    /// Through a pooler, where no notification arrives.
    PooledAlone,
}

impl Route {
    pub(crate) fn of_this_run() -> Self {
        match std::env::var("OUTBOX_TEST_POOLER").as_deref() {
            Err(_) | Ok("") => Self::Direct,
            Ok("listen") => Self::Pooled,
            Ok("alone") => Self::PooledAlone,
            Ok(other) => panic!("OUTBOX_TEST_POOLER is {other:?}: use listen or alone"),
        }
    }

    /// The URL of a database of the shared server, and the one to listen at.
    pub(crate) fn urls(self, database: &Database) -> (String, Option<String>) {
        match self {
            Self::Direct => (database.url(), None),
            Self::Pooled => (Pooler::shared().url(database), Some(database.url())),
            Self::PooledAlone => (Pooler::shared().url(database), None),
        }
    }
}

impl Pooler {
    /// In front of the server that tests share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Pooler> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&Cluster::shared()))
    }

    fn start(cluster: &Cluster) -> Self {
        let port = free_port();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = pooler.users\npool_mode = transaction\n\
             default_pool_size = 3\nmax_client_conn = 2000\nserver_idle_timeout = 5\n",
            cluster.port
        );
        fs::write(cluster.dir.join("pooler.ini"), settings).unwrap();
        fs::write(cluster.dir.join("pooler.users"), "\"outbox\" \"\"\n\"postgres\" \"\"\n").unwrap();
        let program = PROGRAMS.into_iter().find(|program| fs::exists(program).unwrap());
        let program = program.expect("PgBouncer is installed: `make tools` says how");
        let mut command = cluster.command("sh");
        command.args(["-c", WATCHDOG, "sh", program, "pooler.ini"]);
        let mut watchdog = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let input = watchdog.stdin.take();
        let mut pooler = Self { port, watchdog, input };
        pooler.wait_until_ready(cluster);
        pooler
    }

    fn wait_until_ready(&mut self, cluster: &Cluster) {
        let start = Instant::now();
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.port);
        while let Err(err) = psql(&url, "SELECT 1") {
            let log = fs::read_to_string(cluster.dir.join("pooler.log")).unwrap_or_default();
            assert!(
                start.elapsed() < Duration::from_mins(1),
                "the pooler does not answer: {err}\n{log}{}",
                self.noise()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the shell said.
    fn noise(&mut self) -> String {
        self.input.take();
        let mut noise = String::new();
        self.watchdog.stderr.as_mut().unwrap().read_to_string(&mut noise).unwrap();
        noise
    }

    /// The URL of a database of the server, through this pooler.
    pub(crate) fn url(&self, database: &Database) -> String {
        format!("postgres://outbox@127.0.0.1:{}/{}", self.port, database.name())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.input.take();
        self.watchdog.wait().unwrap();
    }
}
