//! Throw-away PostgreSQL clusters from the installed binaries, and a database of its own for each test.
//!
//! The server is a child of a small shell that waits for the end of its standard input: however the tests
//! end, also by `kill -9`, that pipe closes, and the shell stops the server and removes its folder. What a
//! killed shell leaves behind is removed by the next run. `initdb` refuses root, so as root everything runs
//! as the user `postgres`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::guests::root;
use super::host::{HostConfig, free_port};

/// The database that others are copied from: the outbox's schema and nothing else.
const TEMPLATE: &str = "outbox_template";
/// Runs the server until standard input ends, which removes its folder, or says to stop, which keeps it.
const WATCHDOG: &str = r#"
"$@" > server.log 2>&1 &
server=$!
read -r word
kill -QUIT $server 2> /dev/null
wait $server
[ "$word" = keep ] || rm -rf "$PWD"
"#;

/// Whether a write survives a power cut, or only the end of every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// As PostgreSQL comes.
    Honest,
    /// Without waiting for the disk: for tests in which the server is never killed.
    Hasty,
}

/// A server with a data folder of its own. Stopped and removed when dropped.
pub(crate) struct Cluster {
    pub(crate) port: u16,
    /// Its folder; the server's owner may write there.
    pub(crate) dir: PathBuf,
    durability: Durability,
    disk: Disk,
    watchdog: Mutex<Option<Watchdog>>,
    databases: AtomicU32,
    /// Held as long as this process lives, so that others know what is left over.
    _lock: File,
}

/// Where a tablespace by the name of `small` lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// There is none.
    None,
    /// On a file system of this size that only the server sees, and that is gone when it ends.
    Small(&'static str),
}

/// Runs a command on a small file system of its own. Nobody needs to be root for that.
const ON_SMALL_DISK: [&str; 7] = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"];
const MOUNT: &str = r#"mount -t tmpfs -o size=$0,mode=0700 none small && exec "$@""#;

struct Watchdog {
    child: Child,
    input: ChildStdin,
}

/// A database with the outbox's schema. Dropped with its handle.
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
    /// The server that tests share which do not kill it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Self::start(Durability::Hasty)))
    }

    /// A server of its own, with the template that databases are copied from.
    pub(crate) fn start(durability: Durability) -> Arc<Self> {
        Self::create(durability, Disk::None)
    }

    /// A server with a tablespace `small` that has so much room.
    pub(crate) fn with_small_disk(size: &'static str) -> Arc<Self> {
        let cluster = Self::create(Durability::Hasty, Disk::Small(size));
        let place = cluster.dir.join("small");
        cluster.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", place.display())).unwrap();
        cluster
    }

    fn create(durability: Durability, disk: Disk) -> Arc<Self> {
        let cluster = Self::lay(durability, disk);
        cluster
            .make("initdb", &["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        cluster.run();
        cluster.sql("postgres", "CREATE ROLE outbox LOGIN").unwrap();
        cluster.sql("postgres", &format!("CREATE DATABASE {TEMPLATE} OWNER outbox")).unwrap();
        cluster.migrate();
        Arc::new(cluster)
    }

    /// A server that follows this one and answers what only reads, until it is promoted.
    pub(crate) fn standby(&self) -> Arc<Self> {
        let standby = Self::lay(self.durability, Disk::None);
        let primary = format!("host=127.0.0.1 port={} user=postgres", self.port);
        standby.make("pg_basebackup", &["-D", "data", "-d", &primary, "-R", "-c", "fast", "--no-sync"]);
        standby.run();
        Arc::new(standby)
    }

    /// A folder and a port, and nothing in it yet.
    fn lay(durability: Durability, disk: Disk) -> Self {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let home = home();
        let name = format!("{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let (lock, dir) = (locked(&home, &name), home.join(&name));
        for dir in [&dir, &dir.join("small")] {
            fs::create_dir(dir).unwrap();
            give(dir);
        }
        let (watchdog, databases) = (Mutex::default(), AtomicU32::new(0));
        Self { port: free_port(), dir, durability, disk, watchdog, databases, _lock: lock }
    }

    /// Runs a tool of the server in its folder, as its owner.
    fn make(&self, tool: &str, args: &[&str]) {
        let made = Self::tool(tool, &self.dir).args(args).output().unwrap();
        assert!(made.status.success(), "{tool}: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// A command of the server's owner in its folder.
    pub(crate) fn command(&self, program: &str) -> Command {
        as_owner(program, &self.dir)
    }

    /// Brings the template to the newest schema, as the role that owns it, which is no superuser.
    fn migrate(&self) {
        let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), &std::env::temp_dir());
        let migrated = plan.set("OUTBOX_DB", &self.url("outbox", TEMPLATE)).run(&["migrate"]);
        assert!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        self.sql("postgres", &format!("ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false")).unwrap();
    }

    /// A new database with the outbox's schema.
    pub(crate) fn database(self: &Arc<Self>) -> Database {
        self.copy(&format!("TEMPLATE {TEMPLATE}"))
    }

    /// The same where there is little room.
    pub(crate) fn small_database(self: &Arc<Self>) -> Database {
        self.copy(&format!("TEMPLATE {TEMPLATE} TABLESPACE small"))
    }

    /// A new database with nothing in it.
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

    /// What statements answer that the server's owner sends with `psql`, or why they were refused.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> Result<String, String> {
        psql(&self.url("postgres", database), statements)
    }

    /// `kill -9` of every process of the server at once.
    pub(crate) fn kill(&self) {
        let postmaster = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        let postmaster = postmaster.lines().next().unwrap().trim();
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let all = std::iter::once(postmaster).chain(children.split_whitespace());
        // A backend may have ended by itself meanwhile.
        Command::new("kill").arg("-KILL").args(all).stderr(Stdio::null()).status().unwrap();
        self.end("keep\n");
    }

    /// Stops the server in an orderly way, as an administrator does.
    pub(crate) fn stop(&self) {
        let stopped = Self::tool("pg_ctl", &self.dir).args(["stop", "-D", "data", "-m", "fast"]).output().unwrap();
        assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
        self.end("keep\n");
    }

    /// Starts the server on its data, after [`Cluster::kill`] or [`Cluster::stop`].
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
        if let Disk::Small(size) = self.disk {
            command.args(ON_SMALL_DISK).args([MOUNT, size]);
        }
        command.arg(binaries().join("postgres")).args(["-D", "data"]);
        command.args(settings.iter().flat_map(|setting| ["-c", setting.as_str()]));
        // A group of its own, so that Ctrl-C reaches the tests only.
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

    /// Tells the watchdog a word, or that nobody is there any more, and waits for its end.
    fn end(&self, word: &str) {
        let watchdog = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Watchdog { mut child, mut input }) = watchdog {
            // The shell may have ended already, with its pipe.
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
    /// Where it lies.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// For the role that owns it.
    pub(crate) fn url(&self) -> String {
        self.url_of("outbox")
    }

    pub(crate) fn url_of(&self, role: &str) -> String {
        self.cluster.url(role, &self.name)
    }

    /// What statements answer that the owner sends with `psql`, or why they were refused.
    pub(crate) fn sql(&self, statements: &str) -> Result<String, String> {
        psql(&self.url(), statements)
    }

    /// A connection of an application.
    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Everything that is stored, as text.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let dumped = Command::new(binaries().join("pg_dump")).args(["--data-only", &self.url()]).output().unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        // Newer ones mark each dump with a key of its own.
        let text = String::from_utf8(dumped.stdout).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        lines.collect::<Vec<_>>().join("\n").into_bytes()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A server that a test has stopped takes the database with its folder.
        drop(self.cluster.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name)));
    }
}

/// Runs statements with `psql`, which stops at the first error.
pub(crate) fn psql(url: &str, statements: &str) -> Result<String, String> {
    let mut command = Command::new(binaries().join("psql"));
    let output = command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statements]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The folder of the newest installed server, or of the one in the path.
fn binaries() -> &'static Path {
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

/// The user and group that own the server: `postgres` for root, who may not.
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

/// Where clusters lie: below `target`, or where the owner can reach it.
fn home() -> PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        let candidates = [root().join("target/postgres"), std::env::temp_dir().join("outbox-postgres")];
        let home = candidates.into_iter().find(|home| is_reachable(home)).expect("a folder that the owner reaches");
        sweep(&home);
        home
    });
    home.clone()
}

fn is_reachable(home: &Path) -> bool {
    fs::create_dir_all(home).unwrap();
    give(home);
    let looked = as_owner("test", Path::new("/")).arg("-w").arg(home).status();
    looked.is_ok_and(|status| status.success())
}

/// The file that says whether the owner of a cluster lives.
fn locked(home: &Path, name: &str) -> File {
    let lock = File::create(home.join(format!("{name}.lock"))).unwrap();
    lock.try_lock().unwrap();
    lock
}

/// Removes what runs left behind that could not tidy up, and the locks of those that could.
fn sweep(home: &Path) {
    for entry in fs::read_dir(home).unwrap().map(Result::unwrap) {
        let lock = entry.path();
        if lock.extension().is_none_or(|ext| ext != "lock") {
            continue;
        }
        let is_left_over = File::open(&lock).is_ok_and(|file| file.try_lock().is_ok());
        if is_left_over {
            let dir = lock.with_extension("");
            drop(Cluster::tool("pg_ctl", home).args(["stop", "-m", "immediate", "-D"]).arg(dir.join("data")).output());
            drop(fs::remove_dir_all(dir));
            drop(fs::remove_file(lock));
        }
    }
}
