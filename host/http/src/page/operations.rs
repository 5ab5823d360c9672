//! What operators do and have done: jobs, what is held back, fairness keys, the audit trail.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;

use outbox_core::{BreakerState, BreakerStatus};
use outbox_item::Millis;
use outbox_store::{AuditEntry, JobState, Pod, StuckKind};

use crate::answers::Sight;
use crate::glance::Glance;
use crate::page::frame::{Frame, Tab};
use crate::page::item::query;
use crate::page::jobs::{JobRow, job_row};
use crate::page::visit::{Visit, shown};
use crate::page::why::message;
use crate::page::words::{Ago, NO_REASON, begun, count, counted, cut};
use crate::problem::ApiError;
use crate::query::audit_query;

/// Jobs that are listed.
const JOBS: u32 = 20;

/// The words of actions that a person looks for.
const ACTIONS: [&str; 16] = [
    "replay",
    "dead",
    "restore",
    "reschedule",
    "release",
    "purge",
    "anew",
    "pause",
    "resume",
    "unblock",
    "cancel",
    "rollback",
    "quarantine",
    "release-plugin",
    "switch",
    "clear_state",
];

/// The longest text of a selection in the trail, in characters.
const SELECTION_MAX: usize = 120;

/// The view, as its template reads it.
#[derive(Template)]
#[template(path = "operations.html")]
struct OperationsPage {
    frame: Frame,
    opening: String,
    jobs: Vec<JobRow>,
    held: Vec<HeldRow>,
    unpaused: Vec<String>,
    entries: Vec<TrailRow>,
    next: Option<String>,
    action: String,
    actor: String,
    /// The names in the entries, which the filter of the trail offers.
    actors: BTreeSet<String>,
    /// The words of actions, which the filter of the trail offers.
    actions: &'static [&'static str],
}

/// Something that is held back.
struct HeldRow {
    word: &'static str,
    class: &'static str,
    what: String,
    about: String,
    since: Ago,
    /// The address of the page that lets it go on, and its verb.
    cure: Option<(String, &'static str)>,
}

/// An entry of the audit trail.
struct TrailRow {
    at: Ago,
    actor: String,
    action: String,
    selection: String,
    job: Option<String>,
    reason: String,
    count: String,
}

/// The view.
pub(super) async fn operations(
    visit: Visit,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let given: Vec<_> = query?.0.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
    let (glance, sight) = (visit.glance().await?, visit.sight());
    let now = glance.overview.now;
    let jobs = visit.state.inspect.jobs(None, JOBS).await?;
    let asked = audit_query(given.clone())?;
    let entries = visit.state.inspect.audit(&asked).await?;
    let next =
        entries.last().filter(|_| entries.len() == asked.page_size() as usize).map(|last| older(&given, last.seq));
    let running = jobs.iter().filter(|job| job.state == JobState::Running).count();
    let held = held(&glance, &sight);
    let paused = |name: &String| glance.pauses.iter().any(|pause| pause.r#type == *name);
    shown(&OperationsPage {
        frame: visit.live_frame("Operations", Tab::Operations),
        opening: opening(running, &held),
        jobs: jobs.iter().map(|job| job_row(job, now)).collect(),
        unpaused: glance.served.iter().filter(|name| !paused(name)).cloned().collect(),
        held,
        actors: entries.iter().map(|entry| entry.actor.clone()).collect(),
        entries: folded(entries).into_iter().map(|entry| trail_row(entry, now, &sight)).collect(),
        next,
        actions: &ACTIONS,
        action: asked.action.unwrap_or_default(),
        actor: asked.actor.unwrap_or_default(),
    })
}

fn older(given: &[(String, String)], seq: i64) -> String {
    let kept = given.iter().filter(|(name, _)| name != "before").cloned();
    let all: Vec<_> = kept.chain([("before".to_owned(), seq.to_string())]).collect();
    serde_urlencoded::to_string(all).unwrap_or_default()
}

fn opening(running: usize, held: &[HeldRow]) -> String {
    let jobs = match running {
        0 => "No job is running".to_owned(),
        1 => "One job is running".to_owned(),
        _ => format!("{} are running", begun(running, "job")),
    };
    match held.len() {
        0 => format!("{jobs}, nothing is held back"),
        1 => format!("{jobs}, one thing is held back"),
        number => format!("{jobs}, {} are held back", begun(number, "thing").to_lowercase()),
    }
}

fn held(glance: &Glance, sight: &Sight) -> Vec<HeldRow> {
    let now = glance.overview.now;
    let reason = |by: &str, reason: &Option<String>| format!("by {by}: {}", reason.as_deref().unwrap_or(NO_REASON));
    let types = glance.pauses.iter().map(|pause| HeldRow {
        word: "paused",
        class: "off",
        what: pause.r#type.clone(),
        about: reason(&pause.actor, &pause.reason),
        since: Ago::of(pause.paused_at, now),
        cure: Some((format!("cockpit/control/resume?{}", query("type", &pause.r#type)), "Resume…")),
    });
    let keys = glance.key_pauses.iter().map(|pause| {
        let of_type = pause.r#type.as_ref().map(|name| format!("&{}", query("type", name))).unwrap_or_default();
        HeldRow {
            word: "paused key",
            class: "off",
            what: pause.fairness_key.clone(),
            about: reason(&pause.actor, &pause.reason),
            since: Ago::of(pause.paused_at, now),
            cure: Some((
                format!("cockpit/control/resume?{}{of_type}", query("fairness_key", &pause.fairness_key)),
                "Resume…",
            )),
        }
    });
    types.chain(keys).chain(blocked(glance)).chain(breakers(glance, sight)).collect()
}

/// The ordering keys that a dead item blocks.
fn blocked(glance: &Glance) -> impl Iterator<Item = HeldRow> {
    let blocked = glance.stuck.iter().filter(|entry| entry.kind == StuckKind::BlockedKey);
    blocked.filter_map(|entry| {
        let key = entry.ordering_key.as_ref()?;
        let by = entry.item.map(|id| format!("item {id} is dead, ")).unwrap_or_default();
        Some(HeldRow {
            word: "blocked key",
            class: "bad",
            what: key.clone(),
            about: format!("{by}{} behind it", counted(entry.waiting, "item")),
            since: Ago::of(entry.since, glance.overview.now),
            cure: Some((format!("cockpit/control/unblock?{}", query("ordering_key", key)), "Unblock…")),
        })
    })
}

fn breakers(glance: &Glance, sight: &Sight) -> Vec<HeldRow> {
    let of_pod = |pod: &Pod| {
        let not_closed = pod.breakers.iter().filter(|breaker| breaker.state != BreakerState::Unknown);
        not_closed.map(|breaker| breaker_row(breaker, pod, glance.overview.now, sight)).collect::<Vec<_>>()
    };
    glance.overview.live_pods().flat_map(of_pod).collect()
}

fn breaker_row(breaker: &BreakerStatus, pod: &Pod, now: Millis, sight: &Sight) -> HeldRow {
    let since = Millis::new(pod.heartbeat_at.get().saturating_sub_unsigned(breaker.open_for_ms));
    let cause = message(&breaker.cause, 160, sight);
    HeldRow {
        word: "breaker",
        class: "bad",
        what: breaker.subject(),
        about: format!("{} in {}: {cause}", breaker.state.as_str(), pod.instance),
        since: Ago::of(since, now),
        cure: None,
    }
}

/// The entries with one for each run of batches of a job, which counts all items of the run.
fn folded(entries: Vec<AuditEntry>) -> Vec<AuditEntry> {
    let mut folded: Vec<AuditEntry> = Vec::with_capacity(entries.len());
    for entry in entries {
        match folded.last_mut() {
            Some(last) if last.job.is_some() && last.job == entry.job && last.action == entry.action => {
                last.count += entry.count;
            }
            _ => folded.push(entry),
        }
    }
    folded
}

/// What an entry was about, as a person reads it.
fn selection_text(selection: serde_json::Value) -> String {
    use serde_json::Value;
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match selection {
        Value::String(text) => text,
        Value::Object(members) => {
            let inner = members.get("filter").and_then(Value::as_object).unwrap_or(&members);
            let told = inner.iter().filter(|(name, value)| *name != "as_of" && !value.is_null());
            let told: Vec<_> = told
                .map(|(name, value)| match value {
                    Value::Array(values) => {
                        format!("{name} {}", values.iter().map(word).collect::<Vec<_>>().join(", "))
                    }
                    other => format!("{name} {}", word(other)),
                })
                .collect();
            told.join("; ")
        }
        other => other.to_string(),
    }
}

fn trail_row(entry: AuditEntry, now: Millis, sight: &Sight) -> TrailRow {
    let (selection, _) = sight.json(entry.selection);
    let selection = selection_text(selection);
    TrailRow {
        at: Ago::of(entry.at, now),
        actor: entry.actor,
        action: entry.action,
        selection: cut(&selection, SELECTION_MAX),
        job: entry.job.map(|job| job.to_string()),
        reason: entry.reason.unwrap_or_default(),
        count: count(entry.count),
    }
}
