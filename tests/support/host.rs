//! The real binary as a child process.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::http;

/// A running `outbox serve` or `outbox worker`. Killed when dropped.
pub(crate) struct HostProcess {
    /// The base URL of its HTTP server.
    pub(crate) url: String,
    child: Child,
}

/// How to start a host: a folder with its database and plugins, and its settings.
#[derive(Clone)]
pub(crate) struct HostConfig {
    binary: PathBuf,
    dir: PathBuf,
    settings: Vec<(String, String)>,
}

impl HostConfig {
    /// The settings to run `binary` with all its data below `dir` and no other settings.
    pub(crate) fn new(binary: &Path, dir: &Path) -> Self {
        let plan = Self { binary: binary.to_owned(), dir: dir.to_owned(), settings: Vec::new() };
        let below = |name: &str| dir.join(name).display().to_string();
        plan.set("OUTBOX_DB", &below("outbox.sqlite"))
            .set("OUTBOX_PLUGINS", &below("plugins.d"))
            .set("OUTBOX_CACHE_DIR", &below("cache"))
            .set("OUTBOX_ENABLED", "true")
    }

    /// Sets an environment variable.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Sets several environment variables.
    pub(crate) fn set_all(self, settings: &[(&str, String)]) -> Self {
        settings.iter().fold(self, |plan, (name, value)| plan.set(name, value))
    }

    /// From now on a shell script starts the binary. `"$@"` in it are the binary and its arguments.
    pub(crate) fn through(mut self, script: &str) -> Self {
        let path = self.dir.join("start.sh");
        let whole = format!("#!/bin/sh\nset -- '{}' \"$@\"\n{script}\n", self.binary.display());
        std::fs::write(&path, whole).expect("writing the script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("making it executable");
        self.binary = path;
        self
    }

    /// The command with only these settings; of the test's environment it sees only `PATH`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare(&self.binary);
        command.args(args);
        command
    }

    /// A shell that runs a script as an operator would, with the binary in its `PATH`.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.bare(Path::new("bash"));
        let folder = self.binary.parent().expect("the binary lies in a folder").display();
        let others = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{folder}:{others}")).args(["-c", script]);
        command
    }

    fn bare(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.dir);
        command
    }

    /// Runs a command and waits for its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("running the binary")
    }

    /// Runs a command that must succeed and print JSON.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "outbox {}: {stderr}", args.join(" "));
        serde_json::from_slice(&output.stdout).expect("the command prints JSON")
    }

    /// Starts `outbox serve` (or another long-running verb) and waits until it is ready.
    pub(crate) async fn start(&self, verb: &str) -> HostProcess {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("host.log"));
        self.start_logging_to(log.expect("a log file"), verb).await
    }

    /// The same, with the standard error that the test gives it.
    pub(crate) async fn start_logging_to(&self, log: impl Into<Stdio>, verb: &str) -> HostProcess {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = self.clone().set("OUTBOX_LISTEN", &listen).command(&[verb]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("starting the host");
        let mut host = HostProcess { url: format!("http://{listen}"), child };
        host.ready(&self.dir).await;
        host
    }
}

impl HostProcess {
    async fn ready(&mut self, dir: &Path) {
        let start = Instant::now();
        loop {
            if let Ok(answer) = http::send("GET", &format!("{}/readyz", self.url), &[], "").await
                && answer.status == 200
            {
                return;
            }
            let ended = self.child.try_wait().expect("asking for the child's state");
            let log = || std::fs::read_to_string(dir.join("host.log")).unwrap_or_default();
            assert!(ended.is_none(), "the host ended with {ended:?}:\n{}", log());
            assert!(start.elapsed() < Duration::from_mins(5), "the host is not ready:\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a request to the host's HTTP server.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> http::HttpResponse {
        let url = format!("{}{path}", self.url);
        http::send(method, &url, headers, body).await.unwrap_or_else(|err| panic!("{method} {url}: {err}"))
    }

    /// Where a path that the process sees is for others.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.child.id())).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The memory that the process uses, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that the process has used so far, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running host");
        let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// From now on the process can open no descriptor with this number or a larger one.
    pub(crate) fn limit_descriptors(&self, limit: u32) {
        let (pid, limit) = (self.child.id().to_string(), format!("--nofile={limit}:"));
        let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status().expect("running prlimit");
        assert!(limited.success(), "the limit could not be set");
    }

    /// Asks the host to read its settings again.
    pub(crate) fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().expect("sending SIGHUP");
        assert!(sent.success(), "SIGHUP could not be sent");
    }

    /// Ends the host with `kill -9`, so that it cannot clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killing the host");
        self.child.wait().expect("waiting for the killed host");
    }

    /// Asks the host to stop, as an init system does, and returns its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().expect("sending SIGTERM");
        assert!(asked.success(), "SIGTERM could not be sent");
        self.child.wait().expect("waiting for the host").code()
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        // Killing fails when the host has already ended, which is fine here.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A socket for a log without any room, and its other end, from which nothing is read.
pub(crate) fn unread_log() -> (OwnedFd, UnixStream) {
    let (mut log, unread) = UnixStream::pair().expect("a pair of sockets");
    log.set_nonblocking(true).expect("a socket that does not wait");
    while log.write(&[b'.'; 4096]).is_ok() {}
    log.set_nonblocking(false).expect("a socket that waits");
    (OwnedFd::from(log), unread)
}

/// A free port that no other test of this process gets. It is below the range that the system uses for outgoing
/// connections, so that none of them takes it before the host does.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 10_000).expect("a remainder fits");
    let candidates =
        std::iter::repeat_with(|| 20_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000) % 10_000);
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.take(10_000).find(is_free).expect("one of ten thousand ports is free")
}
