//! What happens around a host: nobody reads its log, a terminal hangs up, it is told to stop in the middle of requests.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::eventually;
use crate::support::host::{HostConfig, free_port, unread_log};
use crate::support::http;

const SOON: Duration = Duration::from_mins(1);

/// A host whose standard error the test gives it.
struct Host {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl Host {
    async fn start(stderr: impl Into<Stdio>, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut config =
            HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), folder.path()).set("OUTBOX_LISTEN", &address);
        for (name, value) in settings {
            config = config.set(name, value);
        }
        let mut command = config.command(&["serve"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let host = Self { child, url: format!("http://{address}"), folder };
        eventually("the host is ready", SOON, async || host.status("GET", "/readyz", "").await == Some(200)).await;
        host
    }

    /// `None` when the host does not answer, or not soon.
    async fn status(&self, method: &str, path: &str, body: &str) -> Option<u16> {
        let (url, headers) = (format!("{}{path}", self.url), [("content-type", "application/json")]);
        let answer = timeout(SOON, http::send(method, &url, &headers, body)).await;
        Some(answer.ok()?.ok()?.status.as_u16())
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Sends SIGTERM and waits for the end. Returns how long it took.
    fn terminate(mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.signal("-TERM");
        while asked.elapsed() < SOON {
            if let Some(ended) = self.child.try_wait().unwrap() {
                return (ended, asked.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the host runs {SOON:?} after SIGTERM");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Logs more than a host keeps of lines that nobody reads: again and again it reads a setting that is wrong in a new way.
async fn log_much(host: &Host) {
    for number in 0..40_u8 {
        let word: String = [number / 26, number % 26].map(|letter| char::from(b'a' + letter)).iter().collect();
        let wrong = word + &"x".repeat(60_000);
        std::fs::write(host.folder.path().join("outbox.toml"), format!("concurrency = '{wrong}'")).unwrap();
        host.signal("-HUP");
        assert_eq!(host.status("GET", "/healthz", "").await, Some(200));
    }
}

#[tokio::test]
async fn a_host_works_and_stops_whatever_becomes_of_its_log() {
    let full_disk = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let (gone, reader) = UnixStream::pair().unwrap();
    drop(reader);
    let (unread, _reader) = unread_log();
    for stderr in [full_disk(), Stdio::from(std::os::fd::OwnedFd::from(gone)), Stdio::from(unread)] {
        let host = Host::start(stderr, &[("OUTBOX_DRAIN_SEC", "1")]).await;
        log_much(&host).await;
        let item = r#"{"type":"nobody","payload":1}"#;
        assert_eq!(host.status("POST", "/items", item).await, Some(202));
        let (ended, _) = host.terminate();
        assert_eq!(ended.code(), Some(0));
    }
}

#[tokio::test]
async fn a_hangup_reads_the_settings_again_and_names_those_that_need_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let logged = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    let host = Host::start(log, &[]).await;
    assert_eq!(host.status("GET", "/items", "").await, Some(200));
    let file = host.folder.path().join("outbox.toml");
    std::fs::write(&file, "token = 'secret-token'\nconcurrency = 3\n").unwrap();
    host.signal("-HUP");
    eventually("the token is asked for", SOON, async || host.status("GET", "/items", "").await == Some(401)).await;
    let reported = || logged().contains("OUTBOX_CONCURRENCY") && logged().contains("OUTBOX_TOKEN");
    eventually("the log names both", SOON, async || reported()).await;
    std::fs::write(&file, "token = 'secret-token'\nnonsense = 1\n").unwrap();
    host.signal("-HUP");
    eventually("the log names the mistake", SOON, async || logged().contains("nonsense")).await;
    assert_eq!(host.status("GET", "/items", "").await, Some(401), "the settings stay as they are");
    assert!(!logged().contains("secret-token"));
    assert_eq!(host.terminate().0.code(), Some(0));
}

#[tokio::test]
async fn tokens_change_at_a_hangup_and_a_file_that_cannot_be_used_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), folder.path());
    let new = |name: &str| config.json(&["token", "new", name, "--role", "read", "--json"]);
    let [ada, bob] = ["ada", "bob"].map(new);
    let file = folder.path().join("tokens.toml");
    let write = |text: &str, mode: u32| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let toml = |made: &serde_json::Value| made["toml"].as_str().unwrap().to_owned();
    write(&toml(&ada), 0o600);
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let logged = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    let host = Host::start(log, &[("OUTBOX_TOKENS_FILE", file.to_str().unwrap())]).await;
    let status = async |made: &serde_json::Value| {
        let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
        let answer = http::send("GET", &format!("{}/items", host.url), &[("authorization", &bearer)], "").await;
        answer.unwrap().status.as_u16()
    };
    assert_eq!((status(&ada).await, status(&bob).await), (200, 401));
    write(&toml(&bob), 0o644);
    host.signal("-HUP");
    eventually("the log names the file", SOON, async || logged().contains("its mode is 644")).await;
    assert_eq!((status(&ada).await, status(&bob).await), (200, 401), "the tokens stay as they are");
    let ended = toml(&ada).replace("\"ada\"", "\"cy\"") + "expires = 2020-01-31T00:00:00Z\n";
    write(&(toml(&bob) + &ended), 0o600);
    host.signal("-HUP");
    eventually("the new token is taken", SOON, async || status(&bob).await == 200).await;
    assert_eq!(status(&ada).await, 401);
    eventually("the log names what has expired", SOON, async || logged().contains("has expired")).await;
    assert!(logged().contains("cy") && !logged().contains(ada["token"].as_str().unwrap()));
    assert_eq!(host.terminate().0.code(), Some(0));

    write(&toml(&ada), 0o604);
    let refused = config.clone().set("OUTBOX_TOKENS_FILE", file.to_str().unwrap()).run(&["serve"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("chmod 600"), "{told}");
}

#[tokio::test]
async fn a_host_starts_without_a_cache_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let host = Host::start(log, &[("OUTBOX_CACHE_DIR", "/proc/nowhere/outbox")]).await;
    let logged = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(logged.contains("/proc/nowhere/outbox") && logged.contains("OUTBOX_CACHE_DIR"), "{logged}");
    assert_eq!(host.terminate().0.code(), Some(0));
}

#[tokio::test]
async fn only_this_user_reads_a_new_database_and_an_export() {
    let host = Host::start(Stdio::null(), &[]).await;
    assert_eq!(host.status("POST", "/items", r#"{"type":"nobody","payload":1}"#).await, Some(202));
    let config = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), host.folder.path());
    assert!(config.run(&["export", "--pause", "export.ndjson"]).status.success());
    for name in ["outbox.sqlite", "outbox.sqlite-wal", "outbox.sqlite-shm", "export.ndjson"] {
        let mode = host.folder.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn half_a_request_does_not_keep_a_host_that_was_told_to_stop() {
    let host = Host::start(Stdio::null(), &[("OUTBOX_DRAIN_SEC", "1")]).await;
    let address = host.url.trim_start_matches("http://").to_owned();
    let mut open = Vec::new();
    for sent in [
        "",
        "GET /healthz HTT",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /signals HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /items HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    ] {
        let mut client = TcpStream::connect(&address).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        open.push(client);
    }
    assert_eq!(host.status("GET", "/healthz", "").await, Some(200));
    let (ended, took) = host.terminate();
    assert_eq!(ended.code(), Some(0));
    assert!(took < Duration::from_secs(10), "half a body would have kept it for as long as a body may take: {took:?}");
}

/// What a host tells at `NOTIFY_SOCKET` from now on until it tells `last`.
fn told_until(last: &str, socket: &UnixDatagram) -> Vec<String> {
    let mut told = Vec::new();
    while told.last().is_none_or(|told| told != last) {
        let mut message = [0; 256];
        let length =
            socket.recv(&mut message).unwrap_or_else(|err| panic!("{last} was not told after {told:?}: {err}"));
        told.push(String::from_utf8_lossy(&message[..length]).trim().to_owned());
    }
    told
}

#[tokio::test]
async fn a_service_manager_is_told_when_the_host_serves_that_it_runs_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let told_at = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let host = Host::start(Stdio::null(), &told_at).await;
    assert!(told_until("READY=1", &socket).iter().all(|told| ["READY=1", "WATCHDOG=1"].contains(&told.as_str())));
    for _ in 0..3 {
        assert_eq!(told_until("WATCHDOG=1", &socket), ["WATCHDOG=1"]);
    }
    assert_eq!(host.terminate().0.code(), Some(0));
    assert_eq!(told_until("STOPPING=1", &socket).last().map(String::as_str), Some("STOPPING=1"));
}

#[tokio::test]
async fn a_service_manager_that_does_not_listen_stops_no_host() {
    let told_at = [("NOTIFY_SOCKET", "/nowhere/notify"), ("WATCHDOG_USEC", "200000")];
    let host = Host::start(Stdio::null(), &told_at).await;
    assert_eq!(host.terminate().0.code(), Some(0));
}
