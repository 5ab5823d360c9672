//! `migrate`: creates the database or brings it to the newest schema.

use std::process::ExitCode;

use serde_json::json;

use super::{Context, shown};
use crate::store::sqlite;

pub(super) fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let database = shown(&context.config.database);
    let migration = sqlite::migrate(&context.config.database)?;
    let (from, to) = (migration.from, migration.to);
    context.output.emit(&json!({ "database": database, "from": from, "to": to }), || match from {
        0 => format!("Created the outbox in {database}, schema {to}."),
        from if from == to => format!("{database} has the newest schema already, {to}."),
        from => format!("Migrated {database} from schema {from} to {to}."),
    })?;
    Ok(ExitCode::SUCCESS)
}
