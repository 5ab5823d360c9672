//! Whether an operator agrees to an action on all items that match, and what is said before.
//!
//! Which actions are asked about is decided by the store's [`Action::needs_confirmation`]; `confirm.rs` asks.

use clap::Args;

use outbox_item::{Millis, Status};
use outbox_store::{Action, EffectKeys, Execution, ItemGroup, Operate, OperateReport, OperateRequest, Selection};

use crate::cli::arguments::TimeArg;
use crate::cli::confirm::{is_confirmed, refused};
use crate::cli::context::Context;
use crate::cli::output::{Times, count, table, utc};

/// What an action on all items that match asks for before it is carried out.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ConsentArgs {
    /// Do not ask before items are deleted, taken from workers or given another due time, or effects may be repeated
    #[arg(long)]
    yes: bool,
    /// All items of the status, without a filter
    #[arg(long, conflicts_with = "FilterArgs")]
    all: bool,
    /// Only items that have been in their status since then; of PENDING items those enqueued by then
    ///
    /// A command that asks prints it with the time of the question, so that --yes is said to no later items.
    #[arg(long, value_name = "WHEN")]
    pub(crate) as_of: Option<TimeArg>,
}

impl ConsentArgs {
    /// Whether the operator agrees to the action on all items that match. Once asked, the action takes no items that
    /// came to their status later.
    pub(crate) async fn is_given(
        self,
        store: &dyn Operate,
        request: &mut OperateRequest,
        context: &Context,
    ) -> anyhow::Result<bool> {
        let Selection::Filter(filter) = &mut request.selection else { return Ok(true) };
        if !request.action.needs_confirmation(filter) {
            return Ok(true);
        }
        let needs_all = filter.is_status_alone() && filter.status != [Status::Dlq] && !self.all;
        if self.yes && !needs_all {
            return Ok(true);
        }
        let now = store.now().await?;
        let as_of = *filter.as_of.get_or_insert(now);
        let found = store.operate(&OperateRequest { execution: Execution::DryRun, ..request.clone() }).await?;
        if found.changed == 0 {
            return Ok(true);
        }
        let (what, no_later) = (what_is_asked(request.action, &found, now, context), format!("--as-of={}", utc(as_of)));
        if needs_all {
            let why = "add a filter such as --type or --since, or --all for all of them";
            return Err(refused(&what, why, &["--all", "--yes", &no_later], context));
        }
        is_confirmed(&what, &["--yes", &no_later], context)
    }
}

fn what_is_asked(action: Action, found: &OperateReport, now: Millis, context: &Context) -> String {
    let effect = match action {
        Action::Purge => "delete",
        Action::Replay { keys: EffectKeys::New } => "repeat, with new idempotency keys, the effects of",
        Action::Replay { .. } => "repeat, where receivers honour no idempotency key, the effects of",
        Action::Dead { .. } => "move to the DLQ",
        Action::Release { .. } => "take from workers that may still act",
        Action::Reschedule { .. } => "move the due time, also where they were enqueued for later, of",
        Action::Restore => "change",
    };
    let (verb, items, database) = (action.as_str(), count(found.changed, "item"), &context.config.database);
    let groups = groups(found, context.output.times(now));
    let unblocked = unblocked(found).map(|what| format!("\nIt lets {what} go on.")).unwrap_or_default();
    format!("{verb} would {effect} {items} of {database}:\n{groups}{unblocked}")
}

/// The items that would be changed, by status and type.
pub(crate) fn groups(report: &OperateReport, times: Times) -> String {
    let row = |group: &ItemGroup| {
        let ItemGroup { status, r#type, count, oldest, newest } = group;
        let [oldest, newest] = [oldest, newest].map(|time| times.show(*time));
        [count.to_string(), status.to_string(), r#type.clone(), oldest, newest]
    };
    table(["ITEMS", "STATUS", "TYPE", "OLDEST", "NEWEST"], report.groups.iter().map(row))
}

/// The ordering keys that dead items would no longer block.
pub(crate) fn unblocked(report: &OperateReport) -> Option<String> {
    (report.unblocked_keys > 0).then(|| count(report.unblocked_keys, "blocked ordering key"))
}
