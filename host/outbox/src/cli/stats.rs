//! `stats`: prints the totals of the outbox.

use std::process::ExitCode;

use serde::Serialize;

use outbox_core::BreakerStatus;
use outbox_item::Status;
use outbox_store::{Overview, Pod};

use crate::cli::context::Context;
use crate::cli::output::{Times, count, fields, or_dash, short, size, span, table};

pub(crate) async fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let overview = context.existing_store().await?.overview().await?;
    let unhandled = overview.unhandled(&[]).into_keys().collect();
    let times = context.output.times(overview.now);
    context.output.emit(&Stats { overview: &overview, unhandled }, || page(&overview, times))?;
    Ok(ExitCode::SUCCESS)
}

/// The totals in the JSON shape of `outbox stats --json`.
#[derive(Serialize)]
struct Stats<'a> {
    #[serde(flatten)]
    overview: &'a Overview,
    /// The types with waiting items that no running host handles.
    unhandled: Vec<&'a str>,
}

fn page(overview: &Overview, times: Times) -> String {
    let parts = [Some(totals(overview)), types(overview), breakers(overview), sagas(overview), pods(overview, times)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
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
    let unhandled = overview.unhandled(&[]);
    let row = |(item_type, by_status): (&String, &std::collections::BTreeMap<&'static str, u64>)| {
        let of = |status: Status| by_status.get(status.as_str()).copied().unwrap_or(0).to_string();
        let [pending, claimed, done, dlq] = Status::ALL.map(of);
        let retrying = overview.retrying.get(item_type).copied().unwrap_or(0).to_string();
        let [enqueued, available] = [&overview.oldest_enqueued_ms, &overview.oldest_pending_ms]
            .map(|ages| or_dash(ages.get(item_type).map(|ms| span(*ms)).as_deref()));
        let served = if unhandled.contains_key(item_type.as_str()) { "nobody" } else { "" };
        [item_type.clone(), pending, retrying, claimed, done, dlq, enqueued, available, served.to_owned()]
    };
    let header =
        ["TYPE", "PENDING", "RETRYING", "CLAIMED", "DONE", "DLQ", "OLDEST ENQUEUED", "OLDEST DUE", "HANDLED BY"];
    (!overview.by_type.is_empty()).then(|| table(header, overview.by_type.iter().map(row)))
}

fn breakers(overview: &Overview) -> Option<String> {
    let listed = overview.pods.iter().flat_map(|pod| pod.breakers.iter().map(move |breaker| (pod, breaker)));
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
        let ready = if pod.ready { "yes" } else { "no" };
        let seen = times.show(pod.heartbeat_at);
        [pod.instance.clone(), or_dash(pod.role.as_deref()), ready.to_owned(), seen]
    };
    (!overview.pods.is_empty()).then(|| table(["POD", "ROLE", "READY", "SEEN"], overview.pods.iter().map(row)))
}
