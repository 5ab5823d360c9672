//! One job: how far it is, what became of its items, and how to stop it.

use askama::Template;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;

use outbox_item::ItemId;
use outbox_store::{DeadCause, Filter, Job, JobOutcome, JobState, RefusedItem};

use crate::answers::Sight;
use crate::operations::find_job;
use crate::page::frame::{Frame, Tab};
use crate::page::visit::{Visit, shown};
use crate::page::why::message as message_text;
use crate::page::words::{Ago, Moment, count, counted, share, span};
use crate::problem::ApiError;
use crate::query::number;

/// A job, as its template reads it.
#[derive(Template)]
#[template(path = "job.html")]
struct OneJobPage {
    frame: Frame,
    id: String,
    title: String,
    state: &'static str,
    class: &'static str,
    is_running: bool,
    actor: String,
    reason: String,
    began: Moment,
    ended: Option<Moment>,
    pace: String,
    filter: String,
    is_cut: bool,
    matched: String,
    changed: String,
    refused: u64,
    bar: Bar,
    causes: Vec<CauseRow>,
    refusals: Vec<RefusedItem>,
    sample: Vec<ItemId>,
}

/// What became of the items of a job, as parts of one bar of a thousand units.
struct Bar {
    about: String,
    parts: Vec<BarPart>,
    legend: Vec<(&'static str, &'static str, String)>,
}

/// A part of a bar.
struct BarPart {
    class: &'static str,
    x: u64,
    width: u64,
}

/// Items that are dead again for like failures.
struct CauseRow {
    fingerprint: String,
    count: u64,
    sample: ItemId,
    message: String,
}

/// A job in a list.
pub(super) struct JobRow {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) state: &'static str,
    pub(super) class: &'static str,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) progress: String,
    pub(super) began: Ago,
}

/// One job.
pub(super) async fn job(visit: Visit, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let id = number("the job's id", &id?.0)?;
    let job = find_job(&visit.state, id).await?;
    let outcome = visit.state.inspect.job_outcome(id).await?;
    shown(&page(&visit, job, outcome))
}

fn page(visit: &Visit, job: Job, outcome: JobOutcome) -> OneJobPage {
    let sight = visit.sight();
    let (filter, is_cut) = sight.filter(job.filter.clone());
    let is_running = job.state == JobState::Running;
    let title = title(&job);
    OneJobPage {
        frame: visit.live_frame(&format!("Job {}", job.id), Tab::Operations),
        id: job.id.to_string(),
        title,
        state: job.state.as_str(),
        class: class(job.state),
        is_running,
        bar: bar(&job, &outcome),
        actor: job.actor,
        reason: job.reason.unwrap_or_default(),
        began: Moment::at(job.began_at),
        ended: job.ended_at.map(Moment::at),
        pace: pace(job.per_second, job.stop_after),
        filter: filter_text(&filter),
        is_cut,
        matched: count(job.matched),
        changed: count(job.changed),
        refused: job.refused,
        causes: outcome.causes.into_iter().map(|cause| cause_row(cause, &sight)).collect(),
        refusals: job.refusals,
        sample: job.sample,
    }
}

fn title(job: &Job) -> String {
    let items = if job.matched == 1 { "item" } else { "items" };
    format!("{} {} {items}", job.action.as_str(), count(job.matched))
}

fn class(state: JobState) -> &'static str {
    match state {
        JobState::Running => "run",
        JobState::Done => "done",
        JobState::Cancelled => "off",
        JobState::Stopped => "bad",
    }
}

fn pace(per_second: Option<u32>, stop_after: Option<u8>) -> String {
    let rate = per_second.map(|rate| format!("at most {} a second", counted(rate.into(), "item")));
    let stop = stop_after.map(|percent| format!("stops by itself when more than {percent} % are dead again"));
    rate.into_iter().chain(stop).collect::<Vec<_>>().join("; ")
}

fn filter_text(filter: &Filter) -> String {
    serde_json::to_string_pretty(filter).unwrap_or_default()
}

fn bar(job: &Job, outcome: &JobOutcome) -> Bar {
    let to_come = job.matched.saturating_sub(job.changed + job.refused);
    let to_come = if job.state == JobState::Running { to_come } else { 0 };
    let all = [
        ("done", "done", outcome.done),
        ("bad", "dead", outcome.dead),
        ("wait", "waiting", outcome.waiting),
        ("off", "deleted", outcome.gone),
        ("", "to come", to_come),
    ];
    let total: u64 = all.iter().map(|(.., number)| number).sum::<u64>().max(1);
    let (mut parts, mut x) = (Vec::new(), 0);
    for (class, _, number) in all.iter().filter(|(class, ..)| !class.is_empty()) {
        let width = number * 1_000 / total;
        parts.push(BarPart { class, x, width });
        x += width;
    }
    let legend: Vec<_> = all.iter().map(|(class, word, number)| (*class, *word, count(*number))).collect();
    let about = legend.iter().map(|(_, word, number)| format!("{number} {word}")).collect::<Vec<_>>().join(", ");
    Bar { about, parts, legend }
}

fn cause_row(DeadCause { fingerprint, count, sample, message }: DeadCause, sight: &Sight) -> CauseRow {
    CauseRow { fingerprint, count, sample, message: message_text(message.as_deref().unwrap_or_default(), 200, sight) }
}

/// The job, as a list shows it.
pub(super) fn job_row(job: &Job, now: outbox_item::Millis) -> JobRow {
    let looked_at = job.changed + job.refused;
    let progress = match (job.state, job.ended_at) {
        (JobState::Running, _) => format!("{} of {}", share(looked_at, job.matched.max(1)), count(job.matched)),
        (_, Some(ended)) => format!("{} changed in {}", count(job.changed), span(ended.since(job.began_at))),
        _ => format!("{} changed", count(job.changed)),
    };
    JobRow {
        id: job.id.to_string(),
        title: title(job),
        state: job.state.as_str(),
        class: class(job.state),
        actor: job.actor.clone(),
        reason: job.reason.clone().unwrap_or_default(),
        progress,
        began: Ago::of(job.began_at, now),
    }
}
