//! `backup`: copies the database while hosts and applications use it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::arguments::UsageError;
use crate::cli::context::Context;
use crate::cli::output::{count, size};
use crate::config::Database;

/// Copy the SQLite file of the outbox while it is in use
///
/// The copy has one moment of the file: what was committed when the copy began, the application's tables included.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where to; the file must not exist
    file: PathBuf,
}

pub(crate) fn run(args: &BackupArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let database = match &context.config.database {
        Database::Sqlite(path) => path,
        Database::Postgres { .. } => return Err(only_sqlite(&args.file).into()),
    };
    let file = args.file.display();
    let backup = outbox_sqlite::backup(database, &args.file).with_context(|| format!("backing up to {file}"))?;
    let report = json!({ "file": file.to_string(), "bytes": backup.bytes, "items": backup.items });
    context.output.emit(&report, || {
        let (items, bytes) = (count(backup.items, "item"), size(backup.bytes));
        format!("Copied {} to {file}: {items}, {bytes}, checked.", context.config.database)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn only_sqlite(file: &std::path::Path) -> UsageError {
    UsageError(format!(
        "the outbox is in PostgreSQL, and `outbox backup` copies SQLite files: use pg_dump --format=custom --file={} \
         with the URL of the whole database, so that items and the application's data are of one moment",
        file.display()
    ))
}
