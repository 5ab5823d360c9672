//! `unblock`, `pause` and `resume`: an operator's control of keys and types.

use std::process::ExitCode;

use clap::Args;

use outbox_store::{Control, KeyPause, Store, unknown_fairness_key, unknown_ordering_key};

use crate::cli::arguments::{AuditArgs, execution, not_forced};
use crate::cli::context::Context;
use crate::cli::output::count;
use crate::cli::requests::send_control;

/// Let what waits behind dead-lettered items of an ordering key go on without them
///
/// The dead items stay in the DLQ; a replay of one puts it in front of its key again.
#[derive(Debug, Args)]
pub(crate) struct UnblockArgs {
    /// The ordering key
    key: String,
    /// Only say what would be unblocked
    #[arg(long)]
    dry_run: bool,
    /// Also a key that no unfinished and no dead item has
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

/// A type or a fairness key, and who says why.
#[derive(Debug, Args)]
pub(crate) struct TypeArgs {
    /// The type
    #[arg(value_name = "TYPE", required_unless_present_any = ["all", "key"])]
    item_type: Option<String>,
    /// Only items with this fairness key: of the type, or without a type of every type
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    key: Option<String>,
    /// Every type of which there are items, that a running host serves, or that is paused; no fairness keys
    #[arg(long, conflicts_with_all = ["item_type", "key"])]
    all: bool,
    /// Only say whether anything would change
    #[arg(long)]
    dry_run: bool,
    /// Also a type of which there is no item and that no plugin serves, or a key that no unfinished and no dead item has
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn unblock(args: UnblockArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    if !args.force
        && let Some(unknown) = unknown_ordering_key(&*store, &args.key).await?
    {
        return Err(not_forced(&unknown));
    }
    let control = Control::Unblock { ordering_key: args.key };
    send_control(&*store, control, execution(args.dry_run), args.audit, context).await
}

pub(crate) async fn pause(args: TypeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let of_key = |fairness_key, item_type| Control::PauseKey { fairness_key, item_type };
    control_types(|item_type| Control::Pause { item_type }, of_key, args, context).await
}

pub(crate) async fn resume(args: TypeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let of_key = |fairness_key, item_type| Control::ResumeKey { fairness_key, item_type };
    control_types(|item_type| Control::Resume { item_type }, of_key, args, context).await
}

async fn control_types(
    control: impl Fn(String) -> Control,
    control_of_key: impl Fn(String, Option<String>) -> Control,
    args: TypeArgs,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    if let Some(key) = args.key.clone() {
        let control = control_of_key(key, args.item_type.clone());
        return control_key(&*store, control, args, context).await;
    }
    let (overview, paused) = (store.overview().await?, store.pauses().await?);
    let paused: Vec<_> = paused.into_iter().map(|pause| pause.r#type).collect();
    let types = match args.item_type {
        Some(item_type) => {
            control(item_type.clone()).validate()?;
            if !args.force {
                overview.check_type(&item_type, &paused).map_err(|unknown| not_forced(&unknown))?;
            }
            vec![item_type]
        }
        None => overview.known_types(&paused),
    };
    let mut is_resume = false;
    for item_type in types {
        let control = control(item_type);
        is_resume = matches!(control, Control::Resume { .. });
        send_control(&*store, control, execution(args.dry_run), args.audit.clone(), context).await?;
    }
    if is_resume {
        hint_at_paused_keys(&*store, context).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that fairness keys stay paused when types are resumed.
async fn hint_at_paused_keys(store: &dyn Store, context: &Context) -> anyhow::Result<()> {
    let keys: Vec<_> = store.key_pauses().await?.into_iter().map(|pause| pause.fairness_key).collect();
    if let Some(first) = keys.first() {
        let all = count(keys.len() as u64, "fairness key");
        context.output.hint(&format!("Still paused: {all}, such as {first:?}; outbox resume --key ends a pause."));
    }
    Ok(())
}

async fn control_key(
    store: &dyn Store,
    control: Control,
    args: TypeArgs,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    control.validate()?;
    if let (Some(key), false) = (&args.key, args.force) {
        if let Some(item_type) = &args.item_type {
            let paused: Vec<_> = store.key_pauses().await?.into_iter().filter_map(|pause| pause.r#type).collect();
            store.overview().await?.check_type(item_type, &paused).map_err(|unknown| not_forced(&unknown))?;
        }
        if let Some(unknown) = unknown_fairness_key(store, key).await? {
            return Err(not_forced(&unknown));
        }
    }
    let is_resume = matches!(control, Control::ResumeKey { item_type: Some(_), .. });
    let code = send_control(store, control, execution(args.dry_run), args.audit, context).await?;
    let is_of_all = |pause: &KeyPause| Some(&pause.fairness_key) == args.key.as_ref() && pause.r#type.is_none();
    if is_resume && store.key_pauses().await?.iter().any(is_of_all) {
        context.output.hint("The key is paused for every type: `outbox resume --key` without a type ends that.");
    }
    Ok(code)
}
