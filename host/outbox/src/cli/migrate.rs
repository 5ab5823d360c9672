//! `migrate`: creates the database or brings it to the newest schema, or says what that would do.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use outbox_postgres::Notify;
use outbox_sqlite::Backup;
use outbox_store::{Migration, MigrationPlan};

use crate::cli::context::Context;
use crate::cli::output::{count, fields, span, table};
use crate::open_store;

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one flag")]
pub(crate) struct MigrateArgs {
    /// Only say what would be done, how long it takes, who waits for it, and which SQL fails afterwards
    #[arg(long)]
    dry_run: bool,
    /// Do not copy a SQLite file before it is migrated
    #[arg(long)]
    no_backup: bool,
    /// Print the SQL that creates the newest schema, and do nothing
    #[arg(long, conflicts_with = "dry_run")]
    print: bool,
    /// Let inserts wake no worker (PostgreSQL): workers look for them instead, and commits of the whole
    /// database wait for each other no more
    #[arg(long)]
    no_notify: bool,
    /// Let inserts wake workers again
    #[arg(long, conflicts_with = "no_notify")]
    notify: bool,
}

impl MigrateArgs {
    fn notify(&self) -> Notify {
        match (self.notify, self.no_notify) {
            (true, _) => Notify::On,
            (_, true) => Notify::Off,
            _ => Notify::Keep,
        }
    }

    fn backup(&self) -> Backup {
        if self.no_backup { Backup::None } else { Backup::BesideFile }
    }
}

pub(crate) async fn run(args: &MigrateArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if args.print {
        let sql = open_store::schema_sql(&context.config);
        context.output.emit(&json!({ "sql": sql }), || sql.clone())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        return dry_run(args, context).await;
    }
    let database = context.config.database.to_string();
    let migration = open_store::migrate(&context.config, args.notify(), args.backup()).await?;
    let Migration { from, to, backup } = migration;
    let report = json!({ "database": database, "from": from, "to": to, "backup": backup });
    context.output.emit(&report, || match from {
        0 => format!("Created the outbox in {database}, schema {to}."),
        from if from == to => format!("{database} has the newest schema already, {to}."),
        from => {
            let copy = backup.map(|path| format!(" The file from before is in {}.", path.display()));
            format!("Migrated {database} from schema {from} to {to}.{}", copy.unwrap_or_default())
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A plan in the JSON shape of `outbox migrate --dry-run --json`.
#[derive(Serialize)]
struct Plan<'a> {
    database: &'a str,
    #[serde(flatten)]
    plan: &'a MigrationPlan,
}

/// Fails when the migration would be refused.
async fn dry_run(args: &MigrateArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let database = context.config.database.to_string();
    let plan = open_store::plan_migration(&context.config, args.backup()).await?;
    context.output.emit(&Plan { database: &database, plan: &plan }, || page(&database, &plan))?;
    Ok(if plan.refusals.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn page(database: &str, plan: &MigrationPlan) -> String {
    let MigrationPlan { from, to, .. } = plan;
    let head = match from {
        0 => format!("{database} has no outbox; this program creates schema {to}."),
        from if from == to => format!("{database} has the newest schema, {to}: there is nothing to do."),
        from => format!("{database} has schema {from}; this program needs {to}."),
    };
    let parts = [Some(head), items(plan), steps(plan), sql(plan), Some(verdict(plan))];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

fn items(plan: &MigrationPlan) -> Option<String> {
    let rows: Vec<_> = plan.items.iter().map(|(status, items)| (*status, items.to_string())).collect();
    (!rows.is_empty()).then(|| fields(&rows))
}

fn steps(plan: &MigrationPlan) -> Option<String> {
    let rows = plan.steps.iter().map(|step| {
        let takes = if step.rows == 0 { "-".to_owned() } else { format!("about {}", span(step_millis(step.seconds))) };
        [step.what.to_owned(), step.rows.to_string(), takes, step.waits.to_owned()]
    });
    (!plan.steps.is_empty()).then(|| table(["STEP", "ROWS", "TAKES", "WAITS"], rows))
}

fn step_millis(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

fn sql(plan: &MigrationPlan) -> Option<String> {
    let rows = plan.replaced.iter().map(|statement| [statement.old.to_owned(), statement.new.to_owned()]);
    (!plan.replaced.is_empty()).then(|| table(["SQL THAT FAILS AFTERWARDS", "USE INSTEAD"], rows))
}

/// What prevents the migration, and what may have to change.
fn verdict(plan: &MigrationPlan) -> String {
    let users = plan.users.iter().map(|user| format!("Look at {user}, which uses the items table."));
    let refusals = plan.refusals.iter().map(|refusal| format!("REFUSED: {refusal}."));
    let mut lines: Vec<_> = users.chain(refusals).collect();
    if !plan.refusals.is_empty() {
        lines.push(format!("The migration would be refused for {}; nothing would change.", reasons(plan)));
    }
    lines.join("\n")
}

fn reasons(plan: &MigrationPlan) -> String {
    count(plan.refusals.len() as u64, "reason")
}
