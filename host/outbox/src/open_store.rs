//! Opens the store that the configuration names.
//!
//! Only this file and the bench choose an engine. Everything else works with [`Store`].

use std::path::Path;
use std::sync::Arc;

use outbox_postgres::{Notify, PostgresOptions, PostgresStore, ServerDiagnostics};
use outbox_sqlite::{Backup, SqliteOptions, SqliteStore};
use outbox_store::{AlertSettings, Migration, MigrationPlan, Store, StoreError};

use crate::config::{Config, Database};

/// Opens the store, and creates or migrates it if needed, unless `OUTBOX_MIGRATE` is never. `instance` is the name of
/// this process in the store.
pub(crate) async fn open(config: &Config, instance: &str) -> Result<Arc<dyn Store>, StoreError> {
    if !config.migrates {
        return open_existing(config, instance).await;
    }
    Ok(match &config.database {
        Database::Sqlite(path) => SqliteStore::open(path, sqlite_options(config, instance))?,
        Database::Postgres { url, root_certificates } => {
            let options = postgres_options(config, instance, root_certificates.as_deref())?;
            PostgresStore::open(url.expose(), options).await?
        }
    })
}

/// Opens a store that exists and has the schema of this program. Creates and migrates nothing.
pub(crate) async fn open_existing(config: &Config, instance: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match &config.database {
        Database::Sqlite(path) => SqliteStore::open_existing(path, sqlite_options(config, instance))?,
        Database::Postgres { url, root_certificates } => {
            let options = postgres_options(config, instance, root_certificates.as_deref())?;
            PostgresStore::open_existing(url.expose(), options).await?
        }
    })
}

/// What [`migrate`] would do.
pub(crate) async fn plan_migration(config: &Config, backup: Backup) -> Result<MigrationPlan, StoreError> {
    match &config.database {
        Database::Sqlite(path) => outbox_sqlite::plan_migration(path, backup),
        Database::Postgres { url, root_certificates } => {
            let options = postgres_options(config, "", root_certificates.as_deref())?;
            outbox_postgres::plan_migration(url.expose(), &options).await
        }
    }
}

/// The SQL that creates the newest schema.
pub(crate) fn schema_sql(config: &Config) -> String {
    match &config.database {
        Database::Sqlite(_) => outbox_sqlite::schema_sql(),
        Database::Postgres { .. } => outbox_postgres::schema_sql(),
    }
}

/// Creates the database, or brings it to the newest schema. Only a SQLite file is copied before.
pub(crate) async fn migrate(config: &Config, notify: Notify, backup: Backup) -> Result<Migration, StoreError> {
    match &config.database {
        Database::Sqlite(path) => outbox_sqlite::migrate_with(path, backup),
        Database::Postgres { url, root_certificates } => {
            let options = postgres_options(config, "", root_certificates.as_deref())?;
            outbox_postgres::migrate(url.expose(), &options, notify).await
        }
    }
}

/// Asks a PostgreSQL server for what can keep an outbox from working well; `None` for SQLite.
pub(crate) async fn diagnose_server(config: &Config) -> Result<Option<ServerDiagnostics>, StoreError> {
    let Database::Postgres { url, root_certificates } = &config.database else { return Ok(None) };
    let options = postgres_options(config, "", root_certificates.as_deref())?;
    let store = PostgresStore::open_existing(url.expose(), options).await?;
    store.diagnose().await.map(Some)
}

fn sqlite_options(config: &Config, instance: &str) -> SqliteOptions {
    SqliteOptions { instance: instance.to_owned(), alerts: alert_settings(config), ..SqliteOptions::default() }
}

/// The options of a PostgreSQL store. Reads the file of root certificates.
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
    let listen_url = config.listen_database.as_ref().map(|url| url.expose().to_owned());
    Ok(PostgresOptions { instance, alerts, listen_url, root_certificates, ..PostgresOptions::default() })
}

/// The items that a store enqueues to alert operators; `None` when there are none.
fn alert_settings(config: &Config) -> Option<AlertSettings> {
    config.alerts.clone().map(|item_type| AlertSettings { item_type, min_interval: config.alert_period })
}
