//! What a migration of a database would do: found by reading, without a lock that others wait for and without a change.
//!
//! The rates follow from the CPU time of a server that migrated 300,000 items of 1 KiB; a slow disk adds to it.

use deadpool_postgres::Transaction;

use outbox_item::Status;
use outbox_store::engine::schema_version::refuse_newer;
use outbox_store::{MigrationPlan, MigrationStep, ReplacedSql, StoreError};

use crate::error::PgError;
use crate::migrate::status_columns::{dropped_columns, refuse_running_hosts};
use crate::migrate::versions::{VERSION, check_server, version};
use crate::options::PostgresOptions;
use crate::pool::{Pool, Purpose};
use crate::rows::unsigned;
use crate::tx::{Query as _, begin_read_committed};

/// DONE items that are copied in a second: 180,000 took 3.1 s.
const COPIED_PER_SECOND: u64 = 50_000;
/// Other items that are moved in a second under the lock: 120,000 took 1.6 s.
const MOVED_PER_SECOND: u64 = 50_000;
/// Items whose new column is checked in a second: 300,000 took 0.6 s.
const CHECKED_PER_SECOND: u64 = 300_000;

/// SQL that fails after the status has left the items table.
const REPLACED: [ReplacedSql; 5] = [
    ReplacedSql {
        old: "SELECT … status, attempts, last_error … FROM outbox.items",
        new: "the same columns FROM outbox.status",
    },
    ReplacedSql {
        old: "DELETE FROM outbox.items WHERE status = 'DONE' AND …",
        new: "DELETE FROM outbox.items WHERE id IN (SELECT id FROM outbox.status WHERE status = 'DONE' AND …)",
    },
    ReplacedSql { old: "UPDATE outbox.items SET available_at = …", new: "outbox reschedule ID" },
    ReplacedSql { old: "UPDATE outbox.items SET status = …", new: "outbox replay ID, or outbox dead ID" },
    ReplacedSql {
        old: "INSERT INTO outbox.items (id, status, attempts, …)", new: "the INSERT without these columns"
    },
];

/// What [`migrate()`](crate::migrate()) would do with the database. Errors as it does when the database cannot be
/// reached, its server cannot be used, or it has a newer schema.
pub async fn plan_migration(url: &str, options: &PostgresOptions) -> Result<MigrationPlan, StoreError> {
    let pool = Pool::new(url, options)?;
    let mut client =
        pool.connection(Purpose::Call).await.map_err(|err| err.into_store_error("connecting to the database"))?;
    let planned = async {
        let tx = begin_read_committed(&mut client).await?;
        plan(&tx, &pool).await
    };
    planned.await.map_err(|err: PgError| err.into_store_error("planning the migration"))
}

async fn plan(tx: &Transaction<'_>, pool: &Pool) -> Result<MigrationPlan, PgError> {
    check_server(tx, pool).await?;
    let from = version(&**tx).await?.unwrap_or(0);
    refuse_newer(&pool.display_target(), from, VERSION)?;
    let mut plan = MigrationPlan { from, to: VERSION, ..MigrationPlan::default() };
    match from {
        0 => {
            plan.refusals.extend(missing_right(tx, MAY_CREATE).await?);
            plan.steps.push(MigrationStep::new("create the schema outbox", 0, 1, "nothing"));
        }
        1 => plan_from_1(tx, &mut plan).await?,
        _ => {}
    }
    Ok(plan)
}

async fn plan_from_1(tx: &Transaction<'_>, plan: &mut MigrationPlan) -> Result<(), PgError> {
    for row in tx.rows("SELECT status, count(*) FROM outbox.items GROUP BY status", &[]).await? {
        let status = Status::ALL.into_iter().find(|status| row.get::<_, &str>(0) == status.as_str());
        plan.items.extend(status.map(|status| unsigned(&row, 1).map(|items| (status.as_str(), items))).transpose()?);
    }
    let done = plan.items.get(Status::Done.as_str()).copied().unwrap_or(0);
    let all: u64 = plan.items.values().sum();
    plan.steps = vec![
        MigrationStep::new("copy DONE items to their table, in batches", done, COPIED_PER_SECOND, "nothing"),
        MigrationStep::new(
            "move the other items, without their payloads, under a lock of outbox.items",
            all - done,
            MOVED_PER_SECOND,
            "every statement on outbox.items, such as an INSERT",
        ),
        MigrationStep::new("check a new column and read statistics", all, CHECKED_PER_SECOND, "nothing"),
    ];
    refuse(tx, plan).await?;
    plan.users = functions(tx).await?;
    plan.replaced = REPLACED.to_vec();
    Ok(())
}

/// Adds what prevents the migration.
async fn refuse(tx: &Transaction<'_>, plan: &mut MigrationPlan) -> Result<(), PgError> {
    match refuse_running_hosts(tx).await {
        Err(PgError::Rejected(refusal)) => plan.refusals.push(refusal.to_string()),
        looked => looked?,
    }
    plan.refusals.extend(missing_right(tx, OWNS).await?);
    for view in views(tx).await? {
        plan.refusals.push(format!(
            "the view {view} reads columns of the status: drop it before, and create it anew over outbox.status"
        ));
    }
    Ok(())
}

/// SQL for what the role lacks to create the schema; a row when it lacks it.
const MAY_CREATE: &str = "SELECT 'the role ' || current_user || ' may not create the schema outbox in this database: \
     GRANT CREATE ON DATABASE ' || current_database() || ' TO ' || current_user
     WHERE NOT has_database_privilege(current_database(), 'CREATE') AND to_regnamespace('outbox') IS NULL";
/// SQL for what the role lacks to change the items table; a row when it lacks it.
const OWNS: &str =
    "SELECT 'the role ' || current_user || ' does not own outbox.items: migrate as ' || relowner::regrole
     FROM pg_class WHERE oid = 'outbox.items'::regclass AND NOT pg_has_role(relowner, 'USAGE')";

async fn missing_right(tx: &Transaction<'_>, sql: &str) -> Result<Vec<String>, PgError> {
    tx.rows(sql, &[]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Views of the application that keep a column from being dropped.
async fn views(tx: &Transaction<'_>) -> Result<Vec<String>, PgError> {
    let sql = "SELECT DISTINCT rule.ev_class::regclass::text FROM pg_depend AS uses
                    JOIN pg_rewrite AS rule ON uses.classid = 'pg_rewrite'::regclass AND rule.oid = uses.objid
                    JOIN pg_attribute AS used ON used.attrelid = uses.refobjid AND used.attnum = uses.refobjsubid
               WHERE uses.refclassid = 'pg_class'::regclass AND uses.refobjid = 'outbox.items'::regclass
                 AND used.attname::text = ANY ($1) ORDER BY 1";
    tx.rows(sql, &[&dropped_columns()]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Functions of the application that name the items table. The server does not know what they do with it.
async fn functions(tx: &Transaction<'_>) -> Result<Vec<String>, PgError> {
    let sql = "SELECT 'the function ' || oid::regprocedure FROM pg_proc
               WHERE pronamespace <> 'outbox'::regnamespace AND prosrc ~* '\\moutbox\\.\"?items\\M' ORDER BY 1";
    tx.rows(sql, &[]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
