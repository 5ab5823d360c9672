//! `migrate`: creates the database or brings it to the newest schema.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use outbox_postgres::Notify;

use crate::cli::context::Context;
use crate::open_store;

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Let inserts wake no worker (PostgreSQL): workers look for them instead, and commits of the whole
    /// database wait for each other no more
    #[arg(long)]
    no_notify: bool,
    /// Let inserts wake workers again
    #[arg(long, conflicts_with = "no_notify")]
    notify: bool,
}

pub(crate) async fn run(args: &MigrateArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let notify = match (args.notify, args.no_notify) {
        (true, _) => Notify::On,
        (_, true) => Notify::Off,
        _ => Notify::Keep,
    };
    let place = context.config.database.to_string();
    let migration = open_store::migrate(&context.config, notify).await?;
    let (from, to) = (migration.from, migration.to);
    context.output.emit(&json!({ "database": place, "from": from, "to": to }), || match from {
        0 => format!("Created the outbox in {place}, schema {to}."),
        from if from == to => format!("{place} has the newest schema already, {to}."),
        from => format!("Migrated {place} from schema {from} to {to}."),
    })?;
    Ok(ExitCode::SUCCESS)
}
