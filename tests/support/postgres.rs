//! Temporary PostgreSQL servers from the installed binaries, and a separate database for each test.
//!
//! The server is a child of a small shell that waits for the end of its standard input. When the tests end, even by
//! `kill -9`, that pipe closes, and the shell stops the server and removes its folder. If the shell itself is killed,
//! the next test run removes its files. `initdb` refuses root, so as root all server programs run as the user
//! `postgres`.

mod homes;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::clock::ProcessClock;
use super::host::{HostConfig, free_port};
use super::places;
use homes::{home, locked};

/// The template for the databases of tests: it contains only the outbox's schema.
const TEMPLATE: &str = "outbox_template";
/// Runs the server until standard input ends, and then removes its folder. The line `keep` stops the server and keeps
/// the folder.
const WATCHDOG: &str = r#"
"$@" > server.log 2>&1 &
server=$!
read -r word
kill -QUIT $server 2> /dev/null
wait $server
[ "$word" = keep ] || rm -rf "$PWD"
"#;

/// Whether a committed write survives a power cut, or only the end of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The defaults of PostgreSQL: a commit waits for the disk.
    Honest,
    /// A commit does not wait for the disk: for tests that never kill the server.
    Hasty,
}

/// A server with a data folder of its own. Stopped and removed when dropped.
pub(crate) struct Cluster {
    pub(crate) port: u16,
    /// The folder of the server; the server's owner may write there.
    pub(crate) dir: PathBuf,
    durability: Durability,
    disk: Disk,
    /// The clock of the server, which a test moves; `None` for the true one.
    clock: Option<ProcessClock>,
    watchdog: Mutex<Option<Watchdog>>,
    databases: AtomicU32,
    /// The lock of this process on the server's folder. It marks the folder as in use for other test runs.
    _lock: File,
}

/// The disk of the tablespace `small`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// There is no such tablespace.
    None,
    /// A file system of this size that only the server sees, and that disappears when the server ends.
    Small(&'static str),
}

/// Runs a command with a small file system of its own. This needs no root.
const ON_SMALL_DISK: [&str; 7] = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"];
const MOUNT: &str = r#"mount -t tmpfs -o size=$0,mode=0700 none small && exec "$@""#;

struct Watchdog {
    child: Child,
    input: ChildStdin,
}

/// A database with the outbox's schema. It is dropped together with this handle, after a check; see [`places`].
#[derive(Debug)]
pub(crate) struct Database {
    cluster: Arc<Cluster>,
    name: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.dir.display())
    }
}

impl Cluster {
    /// The server for all tests that do not kill their server.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Self::start(Durability::Hasty)))
    }

    /// Starts a separate server, with the template for databases.
    pub(crate) fn start(durability: Durability) -> Arc<Self> {
        Self::create(durability, Disk::None)
    }

    /// Starts a separate server with a clock of its own, which [`Cluster::clock`] returns.
    pub(crate) fn with_clock() -> Arc<Self> {
        let mut cluster = Self::lay(Durability::Hasty, Disk::None);
        cluster.clock = Some(ProcessClock::in_file(&cluster.dir.join("clock")));
        cluster.begin()
    }

    /// The clock of a server that [`Cluster::with_clock`] started.
    pub(crate) fn clock(&self) -> &ProcessClock {
        self.clock.as_ref().expect("a server with a clock of its own")
    }

    /// Starts a server whose tablespace `small` has this size.
    pub(crate) fn with_small_disk(size: &'static str) -> Arc<Self> {
        let cluster = Self::create(Durability::Hasty, Disk::Small(size));
        let place = cluster.dir.join("small");
        cluster.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", place.display())).unwrap();
        cluster
    }

    fn create(durability: Durability, disk: Disk) -> Arc<Self> {
        Self::lay(durability, disk).begin()
    }

    /// Starts the server for the first time, and makes the template for databases.
    fn begin(self) -> Arc<Self> {
        self.make("initdb", &["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        self.run();
        self.sql("postgres", "CREATE ROLE outbox LOGIN").unwrap();
        self.sql("postgres", &format!("CREATE DATABASE {TEMPLATE} OWNER outbox")).unwrap();
        self.migrate();
        Arc::new(self)
    }

    /// Starts a standby of this server. It answers read-only statements until it is promoted.
    pub(crate) fn standby(&self) -> Arc<Self> {
        let standby = Self::lay(self.durability, Disk::None);
        let primary = format!("host=127.0.0.1 port={} user=postgres", self.port);
        standby.make("pg_basebackup", &["-D", "data", "-d", &primary, "-R", "-c", "fast", "--no-sync"]);
        standby.run();
        Arc::new(standby)
    }

    /// Creates an empty folder and chooses a port.
    fn lay(durability: Durability, disk: Disk) -> Self {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let home = home(durability);
        let name = format!("{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let (lock, dir) = (locked(&home, &name), home.join(&name));
        for dir in [&dir, &dir.join("small")] {
            fs::create_dir(dir).unwrap();
            give(dir);
        }
        let (watchdog, databases) = (Mutex::default(), AtomicU32::new(0));
        Self { port: free_port(), dir, durability, disk, clock: None, watchdog, databases, _lock: lock }
    }

    /// Runs one of PostgreSQL's tools in the server's folder, as the server's owner.
    fn make(&self, tool: &str, args: &[&str]) {
        let made = Self::tool(tool, &self.dir).args(args).output().unwrap();
        assert!(made.status.success(), "{tool}: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// A command that runs as the server's owner in the server's folder.
    pub(crate) fn command(&self, program: &str) -> Command {
        as_owner(program, &self.dir)
    }

    /// Migrates the template to the newest schema, as the role that owns it and is no superuser.
    fn migrate(&self) {
        let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), &std::env::temp_dir());
        let migrated = plan.set("OUTBOX_DB", &self.url("outbox", TEMPLATE)).run(&["migrate"]);
        assert!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        self.sql("postgres", &format!("ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false")).unwrap();
    }

    /// Creates a database with the outbox's schema.
    pub(crate) fn database(self: &Arc<Self>) -> Database {
        self.copy(&format!("TEMPLATE {TEMPLATE}"))
    }

    /// Creates a database with the outbox's schema on the small disk.
    pub(crate) fn small_database(self: &Arc<Self>) -> Database {
        self.copy(&format!("TEMPLATE {TEMPLATE} TABLESPACE small"))
    }

    /// Creates an empty database.
    pub(crate) fn empty_database(self: &Arc<Self>) -> Database {
        self.copy("")
    }

    fn copy(self: &Arc<Self>, like: &str) -> Database {
        let name = format!("outbox_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER outbox {like}")).unwrap();
        Database { cluster: Arc::clone(self), name }
    }

    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs statements with `psql` as the superuser. Returns their output, or the reason of the refusal.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> Result<String, String> {
        psql(&self.url("postgres", database), statements)
    }

    /// Kills every process of the server at once with `kill -9`.
    pub(crate) fn kill(&self) {
        let postmaster = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        let postmaster = postmaster.lines().next().unwrap().trim();
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let all = std::iter::once(postmaster).chain(children.split_whitespace());
        // A backend may have ended by itself, so an error of `kill` is ignored.
        Command::new("kill").arg("-KILL").args(all).stderr(Stdio::null()).status().unwrap();
        self.end("keep\n");
    }

    /// Stops the server in an orderly way, as an administrator would.
    pub(crate) fn stop(&self) {
        let stopped = Self::tool("pg_ctl", &self.dir).args(["stop", "-D", "data", "-m", "fast"]).output().unwrap();
        assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
        self.end("keep\n");
    }

    /// Starts the server again on its data, after [`Cluster::kill`] or [`Cluster::stop`].
    pub(crate) fn run(&self) {
        let settings = [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".into(),
            "unix_socket_directories=".into(),
            "max_connections=400".into(),
            format!("fsync={}", if self.durability == Durability::Honest { "on" } else { "off" }),
        ];
        let mut command = as_owner("sh", &self.dir);
        command.args(["-c", WATCHDOG, "sh"]);
        command.envs(self.clock.iter().flat_map(ProcessClock::environment));
        if let Disk::Small(size) = self.disk {
            command.args(ON_SMALL_DISK).args([MOUNT, size]);
        }
        command.arg(binaries().join("postgres")).args(["-D", "data"]);
        command.args(settings.iter().flat_map(|setting| ["-c", setting.as_str()]));
        // A separate process group, so that Ctrl-C reaches only the tests.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        *self.watchdog.lock().unwrap_or_else(PoisonError::into_inner) = Some(Watchdog { child, input });
        self.ready();
    }

    fn ready(&self) {
        let start = Instant::now();
        while let Err(err) = self.sql("postgres", "SELECT 1") {
            let log = || fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_mins(1), "the server does not answer: {err}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends the watchdog a word, or an empty text, closes its input, and waits for its end.
    fn end(&self, word: &str) {
        let watchdog = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Watchdog { mut child, mut input }) = watchdog {
            // The shell may have ended already, and then its pipe is closed.
            drop(input.write_all(word.as_bytes()));
            drop(input);
            child.wait().unwrap();
        }
    }

    fn tool(name: &str, dir: &Path) -> Command {
        as_owner(binaries().join(name), dir)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end("");
    }
}

impl Database {
    /// The server that contains this database.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its name on the server.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The URL for the role that owns the database.
    pub(crate) fn url(&self) -> String {
        self.url_of("outbox")
    }

    pub(crate) fn url_of(&self, role: &str) -> String {
        self.cluster.url(role, &self.name)
    }

    /// Runs statements with `psql` as the owner of the database. Returns their output, or the reason of the refusal.
    pub(crate) fn sql(&self, statements: &str) -> Result<String, String> {
        psql(&self.url(), statements)
    }

    /// Opens a connection as an application would.
    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        self.connect_as("outbox").await
    }

    /// Opens a connection as this role.
    pub(crate) async fn connect_as(&self, role: &str) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url_of(role), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// All stored data, as text. `pg_dump` refuses a server that is newer than itself.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let statements = "SELECT string_agg(CASE relkind
                WHEN 'r' THEN format('COPY %s TO STDOUT', oid::regclass)
                ELSE format('SELECT %L, last_value, is_called FROM %s', relname, oid::regclass) END, ';' ORDER BY relname)
            FROM pg_class WHERE relkind IN ('r', 'S') AND relnamespace NOT IN
                ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)";
        let statements = self.sql(statements).unwrap();
        self.sql(&statements).unwrap().into_bytes()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let faults = if std::thread::panicking() { Vec::new() } else { self.faults() };
        // A test may have stopped the server, so an error is ignored; the database disappears with the server's folder.
        drop(self.cluster.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name)));
        places::demand_none(&faults);
    }
}

/// Runs statements with `psql`, which stops at the first error.
pub(crate) fn psql(url: &str, statements: &str) -> Result<String, String> {
    let mut command = Command::new(installed().join("psql"));
    let output = command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statements]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The folder with the programs of the servers: of the version that `OUTBOX_TEST_POSTGRES` names, for `make soak`, or
/// of the installed one.
fn binaries() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| std::env::var_os("OUTBOX_TEST_POSTGRES").map_or_else(|| installed().into(), PathBuf::from))
}

/// The folder with the programs of the newest installed server, or of the server in `PATH`.
fn installed() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map(|entry| entry.unwrap().path());
        let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
        let newest = installed.filter(|path| path.join("bin/initdb").exists()).max_by_key(version);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = || std::env::split_paths(&path).find(|folder| folder.join("initdb").exists());
        newest.map(|path| path.join("bin")).or_else(in_path).expect("PostgreSQL is installed: `make tools` says how")
    })
}

/// The user and group that own the server: `postgres` when the tests run as root, because the server refuses root.
fn owner() -> Option<(u32, u32)> {
    if tempfile::tempfile().unwrap().metadata().unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find_map(|line| line.strip_prefix("postgres:")).expect("the package makes this user");
    let mut ids = line.split(':').skip(1).map(|id| id.parse().unwrap());
    Some((ids.next()?, ids.next()?))
}

fn give(path: &Path) {
    if let Some((user, group)) = owner() {
        chown(path, Some(user), Some(group)).unwrap();
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn as_owner(program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir);
    if let Some((user, group)) = owner() {
        command.uid(user).gid(group);
    }
    command
}
