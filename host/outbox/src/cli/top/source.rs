//! Where the overview comes from: the store of the settings, or a host that is asked over HTTP.
//!
//! A store that is not there yet, and a host that does not answer, are tried again at each reading.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http::header::AUTHORIZATION;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use outbox_http::OverviewReport;
use outbox_runtime::TlsConfig;
use outbox_store::Store;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::cli::output::whole_error;
use crate::config::{Config, Secret, token_in};
use crate::open_store;

/// The longest time that a reading may take.
const READING_MAX: Duration = Duration::from_secs(10);

/// The largest answer of a host, in bytes.
const ANSWER_MAX: usize = 16 << 20;

/// The path of the overview in words, below the URL of a host.
const PATH: &str = "status/cockpit?overview=true";

/// What the overview is read from.
pub(super) enum OverviewSource {
    /// The store of the settings, once it could be opened.
    Local { config: Box<Config>, store: Mutex<Option<Arc<dyn Store>>> },
    /// A host.
    Remote(RemoteHost),
}

/// A host that is asked over HTTP.
pub(super) struct RemoteHost {
    base: String,
    url: Uri,
    token: Option<HostToken>,
    ca_files: Vec<PathBuf>,
}

/// A token, and where it is from.
struct HostToken {
    token: Secret,
    origin: &'static str,
}

impl OverviewSource {
    /// The host at the URL, or without one the store of the settings. Errors when the URL or the file of the token cannot be
    /// used.
    pub(super) fn new(url: Option<&str>, token_file: Option<&Path>, config: Config) -> Result<Self, String> {
        let Some(base) = url else { return Ok(Self::Local { config: Box::new(config), store: Mutex::default() }) };
        let url = overview_url(base)?;
        let token = token_for(&url, token_file, config.token, config.listen)?;
        Ok(Self::Remote(RemoteHost { base: base.to_owned(), url, token, ca_files: config.ca_files }))
    }

    /// What people call it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Local { config, .. } => config.database.to_string(),
            Self::Remote(host) => host.base.clone(),
        }
    }

    /// Reads the overview once.
    pub(super) async fn read(&self) -> anyhow::Result<OverviewReport> {
        let reading = async {
            match self {
                Self::Local { config, store } => read_store(config, &mut *store.lock().await).await,
                Self::Remote(host) => host.read().await,
            }
        };
        match timeout(READING_MAX, reading).await {
            Ok(reading) => reading,
            Err(_) => bail!("{} did not answer within {} s", self.name(), READING_MAX.as_secs()),
        }
    }
}

/// Opens the store if it is not open, and reads it. One that cannot be read is opened anew the next time.
async fn read_store(config: &Config, open: &mut Option<Arc<dyn Store>>) -> anyhow::Result<OverviewReport> {
    let store = match open.take() {
        Some(store) => store,
        None => open_store::open_existing(config, &config.new_instance_name()).await?,
    };
    let report = OverviewReport::read(&*store).await?;
    *open = Some(store);
    Ok(report)
}

/// The token for a URL: that of the file, else that of the settings where they describe the host there. Any other host would
/// learn a token that is not its own.
fn token_for(
    url: &Uri,
    file: Option<&Path>,
    configured: Option<Secret>,
    listen: SocketAddr,
) -> Result<Option<HostToken>, String> {
    if let Some(file) = file {
        let name = file.display();
        let refused =
            || format!("--token-file is {name}: use a file that can be read and has one token, without spaces");
        let token = token_in(file).ok_or_else(refused)?;
        return Ok(Some(HostToken { token, origin: "--token-file" }));
    }
    let configured = configured.filter(|_| is_at(url, listen));
    Ok(configured.map(|token| HostToken { token, origin: "OUTBOX_TOKEN" }))
}

/// Whether a URL leads to the host that listens at an address of this machine, and to no other process.
fn is_at(url: &Uri, listen: SocketAddr) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = match host.parse::<IpAddr>() {
        Ok(ip) => ip == listen.ip() || ip.is_loopback() && is_every_address(listen.ip(), ip.is_ipv4()),
        Err(_) => host == "localhost" && is_localhost(listen.ip()),
    };
    let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
    is_here && url.port_u16().unwrap_or(usual) == listen.port()
}

/// Whether a host at `ip` is reached at each address of a family. One at `[::]` is reached over IPv4 too.
fn is_every_address(ip: IpAddr, is_of_v4: bool) -> bool {
    ip.is_unspecified() && (ip.is_ipv6() || is_of_v4)
}

/// Whether a host at `ip` is at the addresses that `localhost` stands for. Other addresses of loopback are not among them.
fn is_localhost(ip: IpAddr) -> bool {
    ip == IpAddr::from(Ipv4Addr::LOCALHOST) || ip == IpAddr::from(Ipv6Addr::LOCALHOST) || ip.is_unspecified()
}

/// The URL of the overview of a host. Errors with what can be used instead.
fn overview_url(base: &str) -> Result<Uri, String> {
    let unfit = || format!("--url is {base:?}: use a URL such as http://127.0.0.1:7070 or https://outbox.example");
    let url: Uri = format!("{}/{PATH}", base.trim_end_matches('/')).parse().map_err(|_| unfit())?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if is_http && !has_user && !base.contains('?') { Ok(url) } else { Err(unfit()) }
}

impl RemoteHost {
    async fn read(&self) -> anyhow::Result<OverviewReport> {
        let mut request = Request::get(&self.url);
        if let Some(HostToken { token, .. }) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let answer = self.client()?.request(request.body(Empty::new())?).await;
        let answer = answer.with_context(|| format!("asking {}", self.base))?;
        let (status, body) = (answer.status(), Limited::new(answer.into_body(), ANSWER_MAX).collect().await);
        let body = body.map_err(|err| anyhow!("reading the answer of {}: {err}", self.base))?.to_bytes();
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() { self.report(json) } else { bail!(self.refusal(status, &json)) }
    }

    fn client(&self) -> anyhow::Result<Client<HttpsConnector<HttpConnector>, Empty<&'static [u8]>>> {
        let tls = TlsConfig::new(&self.ca_files)?.client();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Client::builder(TokioExecutor::new()).build(connector))
    }

    fn report(&self, mut answer: Value) -> anyhow::Result<OverviewReport> {
        let overview = answer.get_mut("overview").map(Value::take).unwrap_or_default();
        let unfit = || format!("{} answers no overview that this version of `outbox top` knows", self.base);
        serde_json::from_value(overview).with_context(unfit)
    }

    /// Why the host answers no overview, and what to do.
    fn refusal(&self, status: StatusCode, problem: &Value) -> String {
        let detail = problem["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
        let advice = match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => {
                "; name a file that has a token with the right read with --token-file: OUTBOX_TOKEN is sent to the host at \
                 OUTBOX_LISTEN only"
                    .to_owned()
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(HostToken { origin, .. })) => {
                format!("; {origin} has the token that was sent")
            }
            (StatusCode::NOT_FOUND, _) => "; is this the URL of `outbox serve`?".to_owned(),
            _ => String::new(),
        };
        format!("{} answers {}{detail}{advice}", self.base, status.as_u16())
    }
}

/// Reads again and again, and not while it is paused.
pub(super) fn follow(
    source: OverviewSource,
    interval: Duration,
    mut paused: watch::Receiver<bool>,
) -> mpsc::Receiver<Result<OverviewReport, String>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let reading = source.read().await.map_err(|err| whole_error(&err));
            if sender.send(reading).await.is_err() {
                return;
            }
            sleep(interval).await;
            if paused.wait_for(|is_paused| !is_paused).await.is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_host_may_have_a_path_and_no_password() {
        let told = |base: &str| overview_url(base).map(|url| url.to_string());
        let below = "https://ops.example/outbox/status/cockpit?overview=true";
        assert_eq!(told("https://ops.example/outbox/").as_deref(), Ok(below));
        for base in ["127.0.0.1:7070", "ftp://a", "http://ada:secret@a", "http://a?x=1", "http://", "not a url"] {
            assert!(told(base).unwrap_err().contains("http://127.0.0.1:7070"), "{base}");
        }
    }

    #[test]
    fn the_token_of_the_settings_goes_to_their_host_only_and_that_of_a_file_to_any() {
        let dir = tempfile::tempdir().unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|name| {
            let file = dir.path().join(name);
            std::fs::write(&file, format!("token-of-{name}\n")).unwrap();
            file
        });
        let token = |url: &str, file: Option<&Path>, listen: &str| {
            let url = overview_url(url).unwrap();
            let token = token_for(&url, file, token_in(&ours), listen.parse().unwrap()).unwrap();
            token.map(|token| token.token.expose().to_owned())
        };
        let configured = Some("token-of-ours".to_owned());
        for (url, listen) in [
            ("http://127.0.0.1:7070", "127.0.0.1:7070"),
            ("http://localhost:7070/", "127.0.0.1:7070"),
            ("http://127.0.0.1:7070", "0.0.0.0:7070"),
            ("http://[::1]:7070", "[::]:7070"),
            ("http://127.0.0.1:7070", "[::]:7070"),
            ("http://localhost:7070", "0.0.0.0:7070"),
            ("http://localhost:7070", "[::1]:7070"),
            ("http://10.0.0.7", "10.0.0.7:80"),
        ] {
            assert_eq!(token(url, None, listen), configured, "{url}");
            assert_eq!(token(url, Some(&theirs), listen).as_deref(), Some("token-of-theirs"), "{url}");
        }
        for url in ["http://127.0.0.1:7071", "http://10.0.0.7:7070", "https://outbox.example:7070", "http://127.0.0.1"]
        {
            assert_eq!(token(url, None, "127.0.0.1:7070"), None, "{url}");
            assert_eq!(token(url, Some(&theirs), "127.0.0.1:7070").as_deref(), Some("token-of-theirs"), "{url}");
        }
        for (url, listen) in [
            ("http://localhost:7070", "10.0.0.7:7070"),
            ("http://localhost:7070", "127.0.0.2:7070"),
            ("http://[::1]:7070", "0.0.0.0:7070"),
        ] {
            assert_eq!(token(url, None, listen), None, "{url} and {listen}");
        }
        let url = overview_url("http://127.0.0.1:7070").unwrap();
        let missing = token_for(&url, Some(Path::new("none")), None, "127.0.0.1:7070".parse().unwrap());
        assert!(missing.is_err_and(|err| err.contains("--token-file is none:")));
    }
}
