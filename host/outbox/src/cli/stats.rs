//! `stats`: prints the totals of the outbox, those of each fairness key, or with `--last` what happened lately.

mod history;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use outbox_core::BreakerStatus;
use outbox_item::Status;
use outbox_store::{Inspect, KeyPause, KeyTotals, Overview, Pause, Pod};

use crate::cli::context::Context;
use crate::cli::output::{Times, count, fields, or_dash, short, size, span, table};

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Count unfinished and dead items by this instead, the most waiting ones first
    #[arg(long, value_enum, value_name = "COLUMN")]
    by: Option<GroupColumn>,
    /// With --by: only items of this type
    #[arg(long = "type", value_name = "TYPE", requires = "by")]
    item_type: Option<String>,
    /// With --by: the maximum number of rows
    #[arg(long, default_value_t = 20, value_name = "COUNT", requires = "by")]
    limit: u32,
    /// Show what happened in this time, up to a day, such as 1h: rates, failures, waiting items, latencies
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "by")]
    last: Option<Duration>,
}

/// What items are counted by.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum GroupColumn {
    /// The fairness key
    #[value(name = "fairness_key", alias = "fairness-key")]
    FairnessKey,
}

pub(crate) async fn run(args: StatsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if let Some(last) = args.last {
        return history::run(last, context).await;
    }
    let store = context.existing_store().await?;
    if let Some(GroupColumn::FairnessKey) = args.by {
        return by_fairness_key(&*store, &args, context).await;
    }
    let overview = store.overview().await?;
    let (pauses, paused_keys) = (store.pauses().await?, store.key_pauses().await?);
    let unhandled = overview.unhandled(&[]).into_keys().collect();
    let times = context.output.times(overview.now);
    let stats = Stats { overview: &overview, unhandled, pauses: &pauses, paused_keys: &paused_keys };
    context.output.emit(&stats, || page(&stats, times))?;
    Ok(ExitCode::SUCCESS)
}

async fn by_fairness_key(store: &dyn Inspect, args: &StatsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let (keys, pauses) = (store.key_totals(args.item_type.as_deref(), args.limit).await?, store.key_pauses().await?);
    let times = context.output.times(store.now().await?);
    context.output.emit(&keys, || key_rows(&keys, &pauses, times))?;
    if keys.len() == args.limit as usize {
        context.output.hint("There may be more: add --limit");
    }
    Ok(ExitCode::SUCCESS)
}

fn key_rows(keys: &[KeyTotals], pauses: &[KeyPause], times: Times) -> String {
    if keys.is_empty() {
        return "No item that waits, is claimed or is dead has a fairness key.".to_owned();
    }
    let row = |totals: &KeyTotals| {
        let is_paused = pauses.iter().any(|pause| {
            let is_of_type = pause.r#type.as_ref().is_none_or(|item_type| *item_type == totals.r#type);
            pause.fairness_key == totals.fairness_key && is_of_type
        });
        let due = or_dash(totals.first_due.map(|due| times.show(due)).as_deref());
        let pause = if is_paused { "yes" } else { "" }.to_owned();
        let KeyTotals { pending, retrying, claimed, dlq, .. } = totals;
        let [pending, retrying, claimed, dlq] = [pending, retrying, claimed, dlq].map(u64::to_string);
        [totals.fairness_key.clone(), totals.r#type.clone(), pending, retrying, claimed, dlq, due, pause]
    };
    let header = ["FAIRNESS KEY", "TYPE", "PENDING", "RETRYING", "CLAIMED", "DLQ", "FIRST DUE", "PAUSED"];
    table(header, keys.iter().map(row))
}

/// The totals in the JSON shape of `outbox stats --json`.
#[derive(Serialize)]
struct Stats<'a> {
    #[serde(flatten)]
    overview: &'a Overview,
    /// The types with waiting items that no running host handles.
    unhandled: Vec<&'a str>,
    /// The types that are paused.
    pauses: &'a [Pause],
    /// The fairness keys that are paused.
    paused_keys: &'a [KeyPause],
}

fn page(stats: &Stats<'_>, times: Times) -> String {
    let overview = stats.overview;
    let of_store = [Some(totals(overview)), types(overview), paused(stats, times), breakers(overview)];
    let parts = of_store.into_iter().chain([sagas(overview), pods(overview, times)]);
    parts.flatten().collect::<Vec<_>>().join("\n\n")
}

fn totals(overview: &Overview) -> String {
    let of = |status: Status| overview.by_status.get(status.as_str()).copied().unwrap_or(0).to_string();
    let mut rows: Vec<_> = Status::ALL.map(|status| (status.as_str(), of(status))).into();
    rows.push(("expired claims", overview.expired_claims.to_string()));
    rows.push(("database", size(overview.database_bytes)));
    rows.push(("write-ahead log", size(overview.wal_bytes)));
    rows.extend(overview.contract_violations.iter().map(|(what, times)| (what.as_str(), count(*times, "request"))));
    fields(&rows)
}

fn types(overview: &Overview) -> Option<String> {
    let row = |(item_type, by_status): (&String, &std::collections::BTreeMap<&'static str, u64>)| {
        let of = |status: Status| by_status.get(status.as_str()).copied().unwrap_or(0).to_string();
        let [pending, claimed, done, dlq] = Status::ALL.map(of);
        let retrying = overview.retrying.get(item_type).copied().unwrap_or(0).to_string();
        let [enqueued, available] = [&overview.oldest_enqueued_ms, &overview.oldest_pending_ms]
            .map(|ages| or_dash(ages.get(item_type).map(|ms| span(*ms)).as_deref()));
        [item_type.clone(), pending, retrying, claimed, done, dlq, enqueued, available, handled_by(overview, item_type)]
    };
    let header =
        ["TYPE", "PENDING", "RETRYING", "CLAIMED", "DONE", "DLQ", "OLDEST ENQUEUED", "OLDEST DUE", "HANDLED BY"];
    (!overview.by_type.is_empty()).then(|| table(header, overview.by_type.iter().map(row)))
}

/// The plugins of live hosts that handle the type.
fn handled_by(overview: &Overview, item_type: &str) -> String {
    let plugins = overview.serving_plugins().filter(|plugin| plugin.types.iter().any(|served| served == item_type));
    let names: BTreeSet<_> = plugins.map(|plugin| plugin.name.as_str()).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
}

/// What is paused, also while nothing of it waits.
fn paused(stats: &Stats<'_>, times: Times) -> Option<String> {
    let row = |what: String, paused_at, actor: &String, reason: &Option<String>| {
        [what, times.show(paused_at), actor.clone(), short(&or_dash(reason.as_deref()), 60)]
    };
    let of_type = |pause: &Pause| row(format!("type {}", pause.r#type), pause.paused_at, &pause.actor, &pause.reason);
    let of_key = |pause: &KeyPause| {
        let of = pause.r#type.as_ref().map(|item_type| format!(" of {item_type}")).unwrap_or_default();
        row(format!("key {}{of}", pause.fairness_key), pause.paused_at, &pause.actor, &pause.reason)
    };
    let rows: Vec<_> = stats.pauses.iter().map(of_type).chain(stats.paused_keys.iter().map(of_key)).collect();
    (!rows.is_empty()).then(|| table(["PAUSED", "SINCE", "BY", "REASON"], rows))
}

fn breakers(overview: &Overview) -> Option<String> {
    let listed = overview.live_pods().flat_map(|pod| pod.breakers.iter().map(move |breaker| (pod, breaker)));
    let row = |(pod, breaker): (&Pod, &BreakerStatus)| {
        let since = span(i64::try_from(breaker.open_for_ms).unwrap_or(i64::MAX));
        let (types, state) = (breaker.types.join(", "), breaker.state.as_str().to_owned());
        [breaker.subject(), state, since, types, pod.instance.clone(), short(&breaker.cause, 60)]
    };
    let rows: Vec<_> = listed.map(row).collect();
    (!rows.is_empty()).then(|| table(["BREAKER", "STATE", "FOR", "TYPES", "POD", "CAUSE"], rows))
}

fn sagas(overview: &Overview) -> Option<String> {
    let row = |(saga, totals): (&String, &outbox_store::SagaTotals)| {
        [saga.clone(), totals.began.to_string(), totals.ended_ok.to_string(), totals.ended_err.to_string()]
    };
    let header = ["SAGA", "BEGAN", "ENDED OK", "ENDED WITH ERROR"];
    (!overview.sagas.is_empty()).then(|| table(header, overview.sagas.iter().map(row)))
}

fn pods(overview: &Overview, times: Times) -> Option<String> {
    let row = |pod: &Pod| {
        let ready = match (pod.is_silent(overview.now), pod.ready) {
            (true, _) => "silent",
            (false, true) => "yes",
            (false, false) => "no",
        };
        let seen = times.show(pod.heartbeat_at);
        [pod.instance.clone(), or_dash(pod.role.as_deref()), ready.to_owned(), seen]
    };
    (!overview.pods.is_empty()).then(|| table(["POD", "ROLE", "READY", "SEEN"], overview.pods.iter().map(row)))
}
