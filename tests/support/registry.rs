//! Debian's registry for images, on loopback, with what a test changes in it.
//!
//! It is a child of a small shell that waits for the end of its standard input, like the servers.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::guests::root;
use super::host::free_port;
use super::http;

/// Runs the registry until standard input ends.
const WATCHDOG: &str = r#"
"$@" > registry.log 2>&1 &
registry=$!
read -r word
kill -KILL $registry 2> /dev/null
"#;

/// The line of `htpasswd` for the user `ada` with the password `hunter2`.
const USERS: &str = "ada:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a registry asks of its clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Nothing.
    Open,
    /// A user and a password.
    Guarded,
    /// TLS, with a certificate of the authority in `authority.crt`.
    Encrypted,
    /// TLS, and a token of a server on this port of loopback, which is named without TLS.
    Tokens(u16),
}

/// A registry. Stopped when dropped.
pub(crate) struct RegistryServer {
    pub(crate) dir: tempfile::TempDir,
    port: u16,
    running: Option<(Child, ChildStdin)>,
}

impl RegistryServer {
    pub(crate) fn start() -> Self {
        Self::with(Door::Open)
    }

    pub(crate) fn with(door: Door) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut settings = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: \
             127.0.0.1:{port}\n",
            dir.path().join("data").display()
        );
        match door {
            Door::Open => {}
            Door::Guarded => {
                fs::write(dir.path().join("users"), USERS).unwrap();
                settings.push_str("auth: {htpasswd: {realm: test, path: users}}\n");
            }
            Door::Encrypted | Door::Tokens(_) => {
                certify(dir.path());
                settings.push_str("  tls: {certificate: server.crt, key: server.key}\n");
            }
        }
        if let Door::Tokens(port) = door {
            let realm = format!("http://127.0.0.1:{port}/token");
            let of_server = "service: test, issuer: test, rootcertbundle: authority.crt";
            writeln!(settings, "auth: {{token: {{realm: \"{realm}\", {of_server}}}}}").unwrap();
        }
        fs::write(dir.path().join("registry.yml"), settings).unwrap();
        let mut server = Self { dir, port, running: None };
        server.resume();
        server
    }

    /// Ends the process. Its images stay.
    pub(crate) fn stop(&mut self) {
        if let Some((mut shell, input)) = self.running.take() {
            drop(input);
            shell.wait().unwrap();
        }
    }

    /// Starts it again at the same address.
    pub(crate) fn resume(&mut self) {
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG, "sh"]).arg(program()).args(["serve", "registry.yml"]);
        command.current_dir(self.dir.path()).env("OTEL_TRACES_EXPORTER", "none");
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let input = shell.stdin.take().unwrap();
        self.running = Some((shell, input));
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || fs::read_to_string(self.dir.path().join("registry.log")).unwrap_or_default();
            assert!(
                start.elapsed() < Duration::from_mins(1),
                "the registry does not answer (`make docker-registry` installs it): {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// From now on it asks for a password, and sends who wants a layer to this address.
    pub(crate) fn guard_and_redirect(&mut self, to: &str) {
        self.stop();
        let path = self.dir.path().join("registry.yml");
        let mut settings = fs::read_to_string(&path).unwrap();
        writeln!(settings, "auth: {{htpasswd: {{realm: test, path: users}}}}").unwrap();
        writeln!(settings, "middleware: {{storage: [{{name: redirect, options: {{baseurl: \"{to}\"}}}}]}}").unwrap();
        fs::write(self.dir.path().join("users"), USERS).unwrap();
        fs::write(path, settings).unwrap();
        self.resume();
    }

    /// The name of an image in this registry.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    fn url(&self, repository: &str, reference: &str) -> String {
        format!("http://127.0.0.1:{}/v2/{repository}/manifests/{reference}", self.port)
    }

    /// The manifest of an image.
    pub(crate) async fn manifest(&self, repository: &str, reference: &str) -> Value {
        let answer = http::send("GET", &self.url(repository, reference), &[("accept", MANIFEST)], "").await.unwrap();
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json()
    }

    /// Lets a tag name a manifest with what `change` changes in that of another tag.
    pub(crate) async fn retag(&self, repository: &str, from: &str, to: &str, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest(repository, from).await;
        change(&mut manifest);
        self.put(repository, to, MANIFEST, &manifest).await;
    }

    /// Lets a tag name an index of the image that another tag names.
    pub(crate) async fn index(&self, repository: &str, from: &str, to: &str) {
        let manifest = self.manifest(repository, from).await.to_string();
        let digest = format!("sha256:{}", outbox::core::sha256(manifest.as_bytes()));
        let entry = json!({ "mediaType": MANIFEST, "digest": digest, "size": manifest.len() });
        self.put(repository, "entry", MANIFEST, &serde_json::from_str(&manifest).unwrap()).await;
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        self.put(repository, to, INDEX, &index).await;
    }

    async fn put(&self, repository: &str, tag: &str, content_type: &str, body: &Value) {
        let url = self.url(repository, tag);
        let answer = http::send("PUT", &url, &[("content-type", content_type)], &body.to_string()).await.unwrap();
        assert_eq!(answer.status, 201, "{:?}", answer.body);
    }

    /// Changes the stored bytes of a layer, as a damaged disk does.
    pub(crate) fn damage(&self, digest: &str) {
        let hex = digest.trim_start_matches("sha256:");
        let file = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let path = self.dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The registry of this machine, or the one that `make docker-registry` keeps.
fn program() -> PathBuf {
    let kept = root().join("target/docker-registry/usr/bin/docker-registry");
    if kept.exists() { kept } else { PathBuf::from("docker-registry") }
}

/// Makes an authority and a certificate of it for loopback.
fn certify(dir: &Path) {
    for (name, is_authority) in [("authority", true), ("server", false)] {
        let mut profile = "[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\n".to_owned();
        let flag = if is_authority { "TRUE" } else { "FALSE" };
        writeln!(profile, "basicConstraints=critical,CA:{flag}\nsubjectAltName=IP:127.0.0.1").unwrap();
        fs::write(dir.join(format!("{name}.cnf")), profile).unwrap();
        let mut command = Command::new("openssl");
        command.current_dir(dir).args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        command.args(["-nodes", "-days", "2", "-config", &format!("{name}.cnf"), "-subj", &format!("/CN={name}")]);
        command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
        if !is_authority {
            command.args(["-CA", "authority.crt", "-CAkey", "authority.key"]);
        }
        let made = command.output().expect("openssl is installed: `make tools`");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}
