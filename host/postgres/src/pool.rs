//! Connections to one database: for which calls, how they are opened, the time limits of that, and TLS.
//!
//! It does not know what runs on them. A connection has no settings of its own: each transaction sets its limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Client, Hook, HookError, Manager, ManagerConfig, RecyclingMethod, Runtime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::{Config, Connection, Socket, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use outbox_store::StoreError;

use crate::error::PgError;
use crate::options::PostgresOptions;

type Tls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// What a connection is for. Each purpose has connections of its own, so that calls which wait for locks of applications
/// keep no connection from a worker or from a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Claims, settlements, and what keeps or ends leases.
    Work,
    /// Everything else: enqueues, reads, operators, maintenance.
    Call,
    /// The probe of readiness.
    Probe,
}

/// Connections for [`Purpose::Work`]: two groups at a time, and what keeps and ends leases beside them.
const WORK_CONNECTIONS: usize = 4;

/// A bounded number of connections to one database.
pub(crate) struct Pool {
    work: deadpool_postgres::Pool,
    calls: deadpool_postgres::Pool,
    probe: deadpool_postgres::Pool,
    /// When the store left a server. Older connections are not used again.
    left_at: Arc<watch::Sender<Option<Instant>>>,
    config: Config,
    /// Of the connection that listens.
    listening: Config,
    tls: MakeRustlsConnect,
}

impl Pool {
    /// A pool without connections; it opens them on demand. Errors with [`StoreError::Unusable`] when the URL or the
    /// root certificates cannot be read.
    pub(crate) fn new(url: &str, options: &PostgresOptions) -> Result<Self, StoreError> {
        let wait = options.statement_timeout / 2;
        let config = parse(url, wait)?;
        let listening = options.listen_url.as_deref().map_or_else(|| Ok(config.clone()), |url| parse(url, wait))?;
        let tls = connector(options.root_certificates.as_deref())?;
        let left_at = Arc::new(watch::Sender::new(None));
        let pool = |size: usize| {
            let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            let manager = Manager::from_config(config.clone(), tls.clone(), recycling);
            let left_at = Arc::clone(&left_at);
            deadpool_postgres::Pool::builder(manager)
                .max_size(size)
                .runtime(Runtime::Tokio1)
                .wait_timeout(Some(wait))
                .create_timeout(Some(wait))
                .recycle_timeout(Some(wait))
                .pre_recycle(Hook::sync_fn(move |_, connection| {
                    let is_left = left_at.borrow().is_some_and(|at| connection.created < at);
                    if is_left { Err(HookError::message("the store left this server")) } else { Ok(()) }
                }))
                .build()
                .map_err(|err| StoreError::Unusable(format!("setting up connections: {err}")))
        };
        let (work, calls, probe) = (pool(WORK_CONNECTIONS)?, pool(options.connections.max(2))?, pool(1)?);
        Ok(Self { work, calls, probe, left_at, config, listening, tls })
    }

    /// A connection, which returns to its pool when it is dropped.
    pub(crate) async fn connection(&self, purpose: Purpose) -> Result<Client, PgError> {
        let pool = match purpose {
            Purpose::Work => &self.work,
            Purpose::Call => &self.calls,
            Purpose::Probe => &self.probe,
        };
        Ok(pool.get().await?)
    }

    /// Uses none of the present connections again, those that listen included: their server takes no writes any more.
    pub(crate) fn leave_server(&self) {
        self.left_at.send_replace(Some(Instant::now()));
        for pool in [&self.work, &self.calls, &self.probe] {
            pool.retain(|_, _| false);
        }
    }

    /// Changes when the store leaves a server.
    pub(crate) fn left(&self) -> watch::Receiver<Option<Instant>> {
        self.left_at.subscribe()
    }

    /// A connection outside the pool that can listen, which the caller polls.
    pub(crate) async fn listening_connection(
        &self,
    ) -> Result<(tokio_postgres::Client, Connection<Socket, Tls>), PgError> {
        Ok(self.listening.connect(self.tls.clone()).await?)
    }

    /// The database and its hosts, for messages; without the password.
    pub(crate) fn display_target(&self) -> String {
        shown(&self.config)
    }

    /// The database and the hosts of the connection that listens, likewise.
    pub(crate) fn listening_target(&self) -> String {
        shown(&self.listening)
    }
}

fn shown(config: &Config) -> String {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    format!("database {:?} at {hosts}", config.get_dbname().or(config.get_user()).unwrap_or("postgres"))
}

/// The configuration in the URL, with defaults for the limits that the URL does not set.
fn parse(url: &str, wait: Duration) -> Result<Config, StoreError> {
    let mut config: Config = url.parse().map_err(|err: tokio_postgres::Error| {
        let why = std::error::Error::source(&err).map(|source| format!(": {source}")).unwrap_or_default();
        StoreError::Unusable(format!(
            "the database's URL cannot be read{why}: it looks like postgres://USER:PASSWORD@HOST:PORT/DATABASE"
        ))
    })?;
    if config.get_application_name().is_none() {
        config.application_name("outbox");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(wait);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(wait * 2);
    }
    config.keepalives_idle(Duration::from_secs(10));
    // Of several hosts, connect to the one that accepts writes.
    if config.get_hosts().len() > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    Ok(config)
}

fn connector(roots: Option<&[u8]>) -> Result<MakeRustlsConnect, StoreError> {
    let unusable = |err: &dyn std::fmt::Display| StoreError::Unusable(format!("the root certificates: {err}"));
    let mut store = RootCertStore::empty();
    match roots {
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                store.add(certificate.map_err(|err| unusable(&err))?).map_err(|err| unusable(&err))?;
            }
        }
    }
    if store.is_empty() {
        return Err(unusable(&"there is none in the file"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|err| unusable(&err))?.with_root_certificates(store).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
