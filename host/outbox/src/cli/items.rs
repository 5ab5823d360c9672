//! `list` and `show`: read items. Both change nothing.

use std::process::ExitCode;

use clap::Args;

use outbox_core::{FailedAttempt, RecordedExchange, RecordedResponse};
use outbox_item::{Item, ItemId, ItemSummary, Status};
use outbox_store::{Filter, Inspect, ItemDetails, Page};

use crate::cli::arguments::{FilterArgs, UsageError};
use crate::cli::context::Context;
use crate::cli::output::{
    Times, audit_rows, clean, clean_lines, count, fields, or_dash, payload_text, short, size, table,
};
use crate::cli::requests::{check_names, find_named_item};

/// Items per read from the store, so that each read is short for every `--limit`.
const PAGE_SIZE: u32 = 500;

/// Characters of a payload in the output for people. `--json` has the whole payload.
const PAYLOAD_MAX: usize = 4_000;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// PENDING, CLAIMED, DONE or DLQ (or DELIVERING, PUBLISHED, DELIVERED, DEAD); or the id or the key of an item
    #[arg(value_name = "STATUS")]
    which: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// The maximum number of items
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    limit: u32,
    /// Only items with a smaller id: the last of the page before
    #[arg(long, value_name = "ID")]
    before: Option<ItemId>,
    /// Also a type or a saga of which nothing is known
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The item's id or its idempotency key
    #[arg(value_name = "ID|KEY")]
    item: String,
}

pub(crate) async fn list(args: ListArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let now = store.now().await?;
    let ListArgs { which, filter, limit, before, force } = args;
    let items = match which.as_deref().map(|word| (word, word.parse::<Status>())) {
        Some((word, Err(no_status))) => {
            let missing = |_| UsageError(format!("{word} is the id or the key of no item, and {no_status}"));
            let named = find_named_item(&*store, word, context).await.map_err(missing)?.item.idem_key;
            read_pages(&*store, &Filter { idem_key: Some(named), ..Filter::default() }, 1, None).await?
        }
        status => {
            let status = status.and_then(|(_, status)| status.ok());
            let filter = filter.filter(status, now);
            check_names(&*store, &filter, force).await?;
            read_pages(&*store, &filter, limit, before).await?
        }
    };
    context.output.emit(&items, || rows(&items, context.output.times(now)))?;
    if let Some(last) = items.last().filter(|_| items.len() == limit as usize) {
        context.output.hint(&format!("There may be more: add --before {}", last.item.id));
    }
    Ok(ExitCode::SUCCESS)
}

async fn read_pages(
    store: &dyn Inspect,
    filter: &Filter,
    limit: u32,
    mut before: Option<ItemId>,
) -> anyhow::Result<Vec<ItemSummary>> {
    let mut items = Vec::new();
    loop {
        let missing = limit.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX)).min(PAGE_SIZE);
        let page = store.list(filter, &Page { limit: missing, before }).await?;
        items.extend(page.items);
        before = page.next;
        if before.is_none() || items.len() >= limit as usize {
            return Ok(items);
        }
    }
}

fn rows(items: &[ItemSummary], times: Times) -> String {
    if items.is_empty() {
        return "No items.".to_owned();
    }
    let row = |ItemSummary { item, payload_bytes, .. }: &ItemSummary| {
        [
            item.id.to_string(),
            item.status.to_string(),
            item.item_type.clone(),
            item.attempts.to_string(),
            times.show(item.created_at),
            size(*payload_bytes),
            short(&item.idem_key, 40),
            or_dash(item.claimed_by.as_deref()),
            short(item.last_error.as_deref().unwrap_or(""), 60),
        ]
    };
    let header = ["ID", "STATUS", "TYPE", "ATTEMPTS", "CREATED", "PAYLOAD", "KEY", "CLAIMED BY", "LAST ERROR"];
    table(header, items.iter().map(row))
}

pub(crate) async fn show(args: ShowArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let details = context.config.redaction.shown(find_named_item(&*store, &args.item, context).await?);
    let now = store.now().await?;
    context.output.emit(&details, || page(&details, context.output.times(now)))?;
    Ok(ExitCode::SUCCESS)
}

fn page(details: &ItemDetails, times: Times) -> String {
    let item = &details.item;
    let mut parts = vec![fields(&[identity(item), moments(item, times), outcome(item)].concat())];
    parts.push(format!("Payload\n{}", payload(&item.payload)));
    if !details.failed_attempts.is_empty() {
        let (shown, all) = (details.failed_attempts.len() as u64, details.failed_attempts_total);
        let which = if shown < all { format!(" (the newest {shown} of {all})") } else { String::new() };
        parts.push(format!("Failed attempts{which}\n{}", history(&details.failed_attempts, times)));
    }
    if details.failed_attempts.iter().any(|attempt| !attempt.recording.exchanges.is_empty()) {
        let note = "--json has their headers and bodies";
        parts.push(format!("Requests of the failed attempts ({note})\n{}", requests(&details.failed_attempts)));
    }
    if !details.audit.is_empty() {
        parts.push(format!("Audit\n{}", audit_rows(&details.audit, times)));
    }
    parts.join("\n\n")
}

fn identity(item: &Item) -> Vec<(&'static str, String)> {
    vec![
        ("id", item.id.to_string()),
        ("status", item.status.to_string()),
        ("type", item.item_type.clone()),
        ("idem_key", item.idem_key.clone()),
        ("cid", item.cid.clone()),
        ("saga", or_dash(item.saga.as_deref())),
        ("ordering_key", or_dash(item.ordering_key.as_deref())),
        ("fairness_key", or_dash(item.fairness_key.as_deref())),
        ("content_type", item.content_type.clone()),
        ("headers", serde_json::json!(item.headers).to_string()),
        ("metadata", serde_json::json!(item.metadata).to_string()),
    ]
}

fn moments(item: &Item, times: Times) -> Vec<(&'static str, String)> {
    let claim = match (&item.claimed_by, item.lease_until) {
        (Some(by), Some(until)) => format!("by {by}, lease ends {}", times.both(until)),
        _ => "-".to_owned(),
    };
    vec![
        ("created", times.both(item.created_at)),
        ("available", times.both(item.available_at)),
        ("claimed", claim),
        ("done", times.both_or_dash(item.done_at)),
        ("dead", times.both_or_dash(item.dead_at)),
    ]
}

fn outcome(item: &Item) -> Vec<(&'static str, String)> {
    let Item { attempts, deliveries, replays, losses, .. } = item;
    vec![
        ("attempts", format!("{attempts} (deliveries {deliveries}, replays {replays}, losses {losses})")),
        ("maybe_executed", item.maybe_executed.to_string()),
        ("last_error", or_dash(item.last_error.as_deref())),
        ("result", item.result.as_deref().map_or_else(|| "-".to_owned(), payload)),
        ("handler_digest", or_dash(item.handler_digest.as_deref())),
    ]
}

fn payload(bytes: &[u8]) -> String {
    clean_lines(&short(&payload_text(bytes), PAYLOAD_MAX))
}

fn history(attempts: &[FailedAttempt], times: Times) -> String {
    let row = |attempt: &FailedAttempt| {
        [
            attempt.delivery.to_string(),
            attempt.attempt.to_string(),
            times.show(attempt.ended_at),
            attempt.class.to_string(),
            attempt.code.clone(),
            short(&clean(&attempt.message), 100),
        ]
    };
    table(["DELIVERY", "ATTEMPT", "ENDED", "CLASS", "CODE", "MESSAGE"], attempts.iter().map(row))
}

fn requests(attempts: &[FailedAttempt]) -> String {
    let of_attempt = |attempt: &FailedAttempt| {
        let (delivery, omitted) = (attempt.delivery.to_string(), attempt.recording.omitted);
        let mut rows: Vec<_> =
            attempt.recording.exchanges.iter().map(|exchange| request(&delivery, exchange)).collect();
        if omitted > 0 {
            let more = format!("and {} for which there was no room", count(omitted.into(), "request"));
            rows.push([delivery.clone(), String::new(), more, String::new(), String::new()]);
        }
        rows
    };
    table(["DELIVERY", "METHOD", "URL", "SENT", "ANSWER"], attempts.iter().flat_map(of_attempt))
}

fn request(delivery: &str, exchange: &RecordedExchange) -> [String; 5] {
    let answer = match &exchange.answer {
        Some(RecordedResponse::Response { status, body, .. }) => format!("{status}, {}", size(body.length)),
        Some(RecordedResponse::Error { error }) => error.clone(),
        None => "none came".to_owned(),
    };
    let effect = exchange.effect.as_ref().map(|effect| format!(" ({effect})")).unwrap_or_default();
    let url = format!("{}{effect}", short(&clean(&exchange.url), 100));
    [delivery.to_owned(), exchange.method.clone(), url, size(exchange.body.length), answer]
}
