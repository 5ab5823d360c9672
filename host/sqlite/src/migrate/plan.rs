//! What a migration of a file would do: found by reading, without a change.
//!
//! The rates are those of a measurement; see each constant.

use std::fs::OpenOptions;
use std::path::Path;

use rusqlite::Connection;

use outbox_item::Status;
use outbox_store::engine::schema_version::refuse_newer;
use outbox_store::{MigrationPlan, MigrationStep, ReplacedSql, StoreError};

use crate::connection::{connect_read_only, database_bytes};
use crate::error::unavailable;
use crate::migrate::backup::{Backup, check_place, copy_path};
use crate::migrate::status_columns::rehearse;
use crate::migrate::versions::{NEWEST, open_error, version};

/// Items that the transaction moves in a second, with the check at its end: 1,000,000 items of 1 KiB took 12 s.
const ITEMS_PER_SECOND: u64 = 80_000;
/// MiB of the file that `VACUUM INTO` copies in a second: 392 MiB took 0.8 s of CPU time, and 7 s beside other work.
const MIB_PER_SECOND: u64 = 100;

/// SQL that fails after the status has left the items table.
const REPLACED: [ReplacedSql; 5] = [
    ReplacedSql {
        old: "SELECT … status, attempts, last_error … FROM outbox_items",
        new: "the same columns FROM outbox_status",
    },
    ReplacedSql {
        old: "DELETE FROM outbox_items WHERE status = 'DONE' AND …",
        new: "DELETE FROM outbox_items WHERE id IN (SELECT id FROM outbox_status WHERE status = 'DONE' AND …)",
    },
    ReplacedSql { old: "UPDATE outbox_items SET available_at = …", new: "outbox reschedule ID" },
    ReplacedSql { old: "UPDATE outbox_items SET status = …", new: "outbox replay ID, or outbox dead ID" },
    ReplacedSql {
        old: "INSERT INTO outbox_items (…, status, attempts, …)", new: "the INSERT without these columns"
    },
];

/// What [`migrate()`](crate::migrate()) would do with the file. Errors as it does when the file cannot be read or has a
/// newer schema.
pub fn plan_migration(path: &Path, backup: Backup) -> Result<MigrationPlan, StoreError> {
    let mut plan =
        MigrationPlan { to: NEWEST, refusals: not_writable(path).into_iter().collect(), ..MigrationPlan::default() };
    if path.exists() {
        let file = connect_read_only(path).map_err(|err| open_error(path, err))?;
        plan.from = version(&file).map_err(|err| open_error(path, err))?.unwrap_or(0);
        refuse_newer(&path.display(), plan.from, NEWEST)?;
        if plan.from == 1 {
            plan_from_1(&file, path, backup, &mut plan)?;
        }
    }
    if plan.from == 0 {
        plan.steps.push(MigrationStep::new("create the tables of the outbox", 0, 1, "nothing"));
    }
    Ok(plan)
}

fn plan_from_1(file: &Connection, path: &Path, backup: Backup, plan: &mut MigrationPlan) -> Result<(), StoreError> {
    for status in Status::ALL {
        plan.items.insert(status.as_str(), count(file, status).map_err(unavailable("counting items"))?);
    }
    plan.refusals.extend(rehearse(file).err().map(|err| err.to_string()));
    if backup == Backup::BesideFile {
        let mib = database_bytes(path).div_ceil(1024 * 1024);
        plan.refusals.extend(check_place(path, &copy_path(path, plan.from)).err().map(|err| err.to_string()));
        plan.steps.push(MigrationStep::new("copy the file beside it (MiB)", mib, MIB_PER_SECOND, "nothing"));
    }
    let items = plan.items.values().sum();
    let what = "move the items to the tables of their statuses, without their payloads";
    plan.steps.push(MigrationStep::new(what, items, ITEMS_PER_SECOND, "every writer, in its busy timeout"));
    plan.replaced = REPLACED.to_vec();
    Ok(())
}

/// The items of a status, read from an index of schema 1.
fn count(file: &Connection, status: Status) -> rusqlite::Result<u64> {
    let condition = match status {
        Status::Pending => "status = 'PENDING' AND held = 0",
        Status::Claimed => "status = 'CLAIMED'",
        Status::Done => "status = 'DONE'",
        Status::Dlq => "status = 'DLQ'",
    };
    let of = |condition| {
        file.query_row(&format!("SELECT count(*) FROM outbox_items WHERE {condition}"), [], |row| row.get(0))
    };
    let held = if status == Status::Pending { of("held = 1 AND status = 'PENDING'")? } else { 0 };
    Ok(of(condition)? + held)
}

/// Why this user cannot write the file, or create it.
fn not_writable(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = path.display();
    if path.exists() {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        return opened.err().map(|err| format!("{shown} cannot be written: {err}"));
    }
    let access = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    access.err().map(|err| format!("{shown} cannot be created in {}: {err}", folder.display()))
}
