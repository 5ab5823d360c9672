//! The store that the configuration names: the only place that knows which engines there are.

use std::path::Path;
use std::sync::Arc;

use crate::cli::alert_settings;
use crate::config::{Config, Database};
use outbox_postgres::{Notify, PostgresOptions, PostgresStore, ServerDiagnostics};
use outbox_sqlite::{SqliteOptions, SqliteStore};
use outbox_store::engine::schema_version::Migration;
use outbox_store::{Store, StoreError};

/// The store, created and migrated where that is needed, for a process that goes by the name `instance`.
pub(crate) async fn open(config: &Config, instance: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match &config.database {
        Database::Sqlite(path) => SqliteStore::open(path, sqlite_options(config, instance))?,
        Database::Postgres { url, root_certificates } => {
            let options = postgres_options(config, instance, root_certificates.as_deref())?;
            PostgresStore::open(url.expose(), options).await?
        }
    })
}

/// The store as it is; created and migrated by others.
pub(crate) async fn open_existing(config: &Config, instance: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match &config.database {
        Database::Sqlite(path) => SqliteStore::open_existing(path, sqlite_options(config, instance))?,
        Database::Postgres { url, root_certificates } => {
            let options = postgres_options(config, instance, root_certificates.as_deref())?;
            PostgresStore::open_existing(url.expose(), options).await?
        }
    })
}

/// Brings the database to the newest schema.
pub(crate) async fn migrate(config: &Config, notify: Notify) -> Result<Migration, StoreError> {
    match &config.database {
        Database::Sqlite(path) => outbox_sqlite::migrate(path),
        Database::Postgres { url, root_certificates } => {
            let options = postgres_options(config, "", root_certificates.as_deref())?;
            outbox_postgres::migrate(url.expose(), &options, notify).await
        }
    }
}

/// What there is to know of the server; `None` where there is no server.
pub(crate) async fn diagnose_server(config: &Config) -> Result<Option<ServerDiagnostics>, StoreError> {
    let Database::Postgres { url, root_certificates } = &config.database else { return Ok(None) };
    let options = postgres_options(config, "", root_certificates.as_deref())?;
    let store = PostgresStore::open_existing(url.expose(), options).await?;
    store.diagnose().await.map(Some)
}

fn sqlite_options(config: &Config, instance: &str) -> SqliteOptions {
    SqliteOptions { instance: instance.to_owned(), alerts: alert_settings(config), ..SqliteOptions::default() }
}

pub(crate) fn postgres_options(
    config: &Config,
    instance: &str,
    roots: Option<&Path>,
) -> Result<PostgresOptions, StoreError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|err| {
            let path = path.display();
            StoreError::Unusable(format!("reading {path}, the sslrootcert of OUTBOX_DB: {err}"))
        })
    };
    let root_certificates = roots.map(read).transpose()?;
    let (instance, alerts) = (instance.to_owned(), alert_settings(config));
    Ok(PostgresOptions { instance, alerts, root_certificates, ..PostgresOptions::default() })
}
