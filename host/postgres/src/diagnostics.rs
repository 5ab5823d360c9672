//! What `outbox doctor` reads from a server: its version, the role's rights, and what keeps dead rows alive.
//!
//! Nothing here writes.

use std::time::Duration;

use tokio_postgres::Row;

use outbox_item::millis;

use crate::error::PgError;
use crate::rows::unsigned;
use crate::sequences::{SequenceBehind, find_behind};
use crate::tx::Query;

/// Facts about a server and a database that matter to an outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one answer of the server")]
pub struct ServerDiagnostics {
    /// The server's version, as `server_version` reports it.
    pub version: String,
    /// Whether the server refuses writes: it is a standby, or read-only by its settings.
    pub is_read_only: bool,
    /// Whether autovacuum runs on the tables of the outbox.
    pub has_autovacuum: bool,
    /// Whether an acknowledged commit survives a crash of the server.
    pub is_durable: bool,
    /// Whether inserts notify workers.
    pub notifies: bool,
    /// Why a host looks for work instead of being notified of it; `None` when it is notified.
    pub polls_because: Option<String>,
    /// Rights that the outbox needs and the role lacks, such as `INSERT on outbox.items`.
    pub missing: Vec<String>,
    /// The number of dead rows and of live rows in the queue.
    pub rows: (u64, u64),
    /// The oldest transactions of all clients in this database, at most five.
    pub transactions: Vec<LongTransaction>,
    /// Sequences that would give numbers again.
    pub sequences_behind: Vec<SequenceBehind>,
}

/// A long transaction, which keeps vacuum from removing dead rows in every table of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongTransaction {
    /// The process id of the server process.
    pub pid: i32,
    /// The role, the application and the address of the client.
    pub who: String,
    /// Its state, such as `idle in transaction`, or the statement that it runs, at most 80 characters.
    pub what: String,
    /// The time since it began.
    pub age: Duration,
}

/// Transactions that are older are reported: no call of the outbox takes as long.
const LONG_TRANSACTION_AGE: Duration = Duration::from_mins(1);

/// SQL that tells whether the server refuses writes: it is a standby, or read-only by its settings.
const IS_READ_ONLY: &str = "pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on'";

/// Errors when the server refuses writes.
pub(crate) async fn refuse_read_only(tx: &impl Query) -> Result<(), PgError> {
    let rows = tx.rows(&format!("SELECT {IS_READ_ONLY}, EXISTS (SELECT 1 FROM outbox.signals)"), &[]).await?;
    let is_read_only: bool = rows.first().ok_or(PgError::LostRace)?.try_get(0)?;
    if is_read_only { Err(PgError::ReadOnlyServer) } else { Ok(()) }
}

/// Reads the facts from the server.
pub(crate) async fn diagnose(tx: &impl Query) -> Result<ServerDiagnostics, PgError> {
    let statement = format!(
        "SELECT current_setting('server_version'), {IS_READ_ONLY},
            current_setting('autovacuum') = 'on' AND NOT EXISTS (
                SELECT 1 FROM pg_class WHERE relnamespace = 'outbox'::regnamespace
                  AND 'autovacuum_enabled=false' = ANY(reloptions)),
            current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off',
            coalesce(pg_stat_get_dead_tuples('outbox.queue'::regclass), 0),
            coalesce(pg_stat_get_live_tuples('outbox.queue'::regclass), 0)"
    );
    let rows = tx.rows(&statement, &[]).await?;
    let row = rows.first().ok_or(PgError::LostRace)?;
    Ok(ServerDiagnostics {
        version: row.try_get(0)?,
        is_read_only: row.try_get(1)?,
        has_autovacuum: row.try_get(2)?,
        is_durable: row.try_get(3)?,
        notifies: false,
        polls_because: None,
        missing: missing(tx).await?,
        rows: (unsigned(row, 4)?, unsigned(row, 5)?),
        transactions: long_transactions(tx).await?,
        sequences_behind: find_behind(tx).await?,
    })
}

/// The rights that the host needs on each table, view, sequence and function, and the role lacks.
async fn missing(tx: &impl Query) -> Result<Vec<String>, PgError> {
    let statement = "SELECT privilege || ' on outbox.' || relname
        FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
        WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r' AND relname <> 'migrations'
          AND NOT (relname IN ('audit', 'audit_items') AND privilege IN ('UPDATE', 'DELETE'))
          AND NOT has_table_privilege(oid, privilege)
        UNION ALL
        SELECT privilege || ' on outbox.' || relname
        FROM pg_class, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS privilege
        WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'S' AND NOT has_sequence_privilege(oid, privilege)
        UNION ALL
        SELECT 'SELECT on outbox.' || relname FROM pg_class
        WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'v' AND NOT has_table_privilege(oid, 'SELECT')
        UNION ALL
        SELECT 'EXECUTE on ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'outbox'::regnamespace AND prorettype <> 'trigger'::regtype
          AND NOT has_function_privilege(oid, 'EXECUTE')
        ORDER BY 1";
    tx.rows(statement, &[]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The long transactions, the oldest first. A role without the right to see the statements of others gets only their
/// number, role and age.
pub(crate) async fn long_transactions(tx: &impl Query) -> Result<Vec<LongTransaction>, PgError> {
    let statement = "SELECT pid, concat_ws(' ', usename, nullif(application_name, ''), host(client_addr)),
               CASE WHEN state LIKE 'idle in transaction%' THEN state ELSE left(query, 80) END,
               (extract(epoch FROM clock_timestamp() - xact_start) * 1000)::bigint
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
          AND state IS DISTINCT FROM 'idle' AND xact_start < clock_timestamp() - $1::bigint * interval '1 millisecond'
        ORDER BY xact_start LIMIT 5";
    let transaction = |row: &Row| {
        Ok(LongTransaction {
            pid: row.try_get(0)?,
            who: row.try_get(1)?,
            what: row.try_get::<_, Option<String>>(2)?.unwrap_or_default(),
            age: Duration::from_millis(unsigned(row, 3)?),
        })
    };
    let long = millis(LONG_TRANSACTION_AGE);
    tx.rows(statement, &[&long]).await?.iter().map(transaction).collect()
}
