//! Try one first: a failed attempt of an item again, by the handler of today, in a simulation with the recorded answers.
//!
//! Nothing is sent and nothing is stored, so there is no second step and no entry in the audit trail. The host runs the
//! trial; this file bounds it, and says what came of it.

use std::time::Duration;

use askama::Template;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;
use serde_json::Value;

use outbox_core::{FailedAttempt, FailureClass};
use outbox_item::{Item, ItemId};
use outbox_store::{ItemDetails, Veil};

use crate::access::Right;
use crate::page::actions::tried_attempt;
use crate::page::content::{ShownContent, of_bytes, plain};
use crate::page::form::{Form, FormFields};
use crate::page::frame::{Frame, Tab};
use crate::page::item::found;
use crate::page::visit::{Visit, shown};
use crate::page::words::{counted, short_digest};
use crate::problem::ApiError;
use crate::query::number;
use crate::trial::{TrialEnd, TrialOrder, TrialReport, TrialRequest};

/// The longest time from the request to the answer: a component may have to be compiled, and one trial runs at a time.
const TRIAL_MAX: Duration = Duration::from_secs(30);

/// What came of a trial, as its template reads it.
#[derive(Template)]
#[template(path = "tried.html")]
struct TriedPage {
    frame: Frame,
    id: ItemId,
    item_type: String,
    outcome: String,
    /// The class of the outcome, and its word.
    class: &'static str,
    word: &'static str,
    /// What the recorded attempt came to.
    then: String,
    now: String,
    handler: String,
    requests: Vec<TrialRequest>,
    differences: Vec<String>,
    result: Option<ShownContent>,
    state: Vec<String>,
    followups: Vec<String>,
    stderr: Option<String>,
    otherwise: String,
    /// How many requests of the attempt were not kept.
    omitted: u32,
}

/// Tries the item.
pub(super) async fn try_one(id: Result<Path<String>, PathRejection>, form: Form) -> Result<Response, ApiError> {
    let Form { visit, fields } = form;
    visit.caller.require(Right::Read)?;
    visit.caller.require(Right::ReadPayload)?;
    let details = found(&visit, &id?.0).await?;
    let otherwise = otherwise(&fields)?;
    let refused = |reason: String| ApiError::Refused { id: details.item.id, reason };
    let unrecorded = || refused("no attempt of it has failed in a handler, so no answers were recorded".into());
    let attempt = tried_attempt(&details).cloned().ok_or_else(unrecorded)?;
    let order = TrialOrder { details: details.clone(), attempt: attempt.clone(), otherwise };
    let report = tried(&visit, order).await.map_err(refused)?;
    shown(&page(&visit, details, &attempt, otherwise, &report))
}

/// Makes the trial, alone in this process and within its time.
async fn tried(visit: &Visit, order: TrialOrder) -> Result<TrialReport, String> {
    let Some(trials) = &visit.state.trials else {
        return Err("this process runs no handlers: use the cockpit of one that does".to_owned());
    };
    let trial = async {
        let _alone = visit.state.trial_place.acquire().await;
        trials(order).await
    };
    let late = |_| {
        let waited = TRIAL_MAX.as_secs();
        Err(format!(
            "its trial did not end within {waited} seconds. If its component is still being compiled, a later try uses \
             the result: try again, or use `outbox plugin replay-item`"
        ))
    };
    tokio::time::timeout(TRIAL_MAX, trial).await.unwrap_or_else(late)
}

/// The status that answers requests which were not recorded.
fn otherwise(fields: &FormFields) -> Result<Option<u16>, ApiError> {
    let Some(text) = fields.get("otherwise") else { return Ok(None) };
    match number("the status", text)? {
        status @ 100..=599 => Ok(Some(status)),
        status => Err(ApiError::Invalid(format!("the status is {status}: it must be from 100 to 599"))),
    }
}

fn page(
    visit: &Visit,
    details: ItemDetails,
    attempt: &FailedAttempt,
    otherwise: Option<u16>,
    report: &TrialReport,
) -> TriedPage {
    let veil = visit.sight().veil(&details.item.payload);
    let text = |text: &str| plain(&veil.text(text));
    let Item { id, item_type, .. } = details.item;
    let (class, word) = mark(&report.ending);
    let (outcome, now) = ending(id, &report.ending, &text);
    TriedPage {
        frame: visit.frame(&format!("Item {id} tried"), Tab::Items),
        id,
        item_type,
        outcome,
        class,
        word,
        then: failed(attempt.class, &attempt.code, &text(&attempt.message)),
        now,
        handler: handler(attempt, report),
        result: result(&report.ending, &veil),
        requests: report.requests.iter().map(|sent| TrialRequest { url: text(&sent.url), ..sent.clone() }).collect(),
        differences: report.differences.iter().map(|found| text(found)).collect(),
        state: report.state.iter().map(|change| veiled(change, "put", &veil)).collect(),
        followups: report.followups.iter().map(|item| veiled(item, "payload", &veil)).collect(),
        stderr: report.stderr.as_deref().map(text),
        otherwise: otherwise.map(|status| status.to_string()).unwrap_or_default(),
        omitted: attempt.recording.omitted,
    }
}

/// The class of the outcome, and its word.
fn mark(ending: &TrialEnd) -> (&'static str, &'static str) {
    match ending {
        TrialEnd::Done { .. } => ("done", "done"),
        TrialEnd::Failed { .. } => ("bad", "failed"),
        TrialEnd::Stopped => ("wait", "stopped"),
    }
}

/// What the outcome means for the item, and how the attempt ended.
fn ending(id: ItemId, ending: &TrialEnd, text: &impl Fn(&str) -> String) -> (String, String) {
    match ending {
        TrialEnd::Done { .. } => (format!("Item {id} would be done"), "done".to_owned()),
        TrialEnd::Failed { class, code, message } => {
            (format!("Item {id} would fail again"), failed(*class, code, &text(message)))
        }
        TrialEnd::Stopped => (
            format!("The trial of item {id} stopped at a request that was not recorded"),
            "stopped: nobody knows what the receiver would answer".to_owned(),
        ),
    }
}

fn failed(class: FailureClass, code: &str, message: &str) -> String {
    format!("failed, {code} ({class}): {message}")
}

fn handler(attempt: &FailedAttempt, report: &TrialReport) -> String {
    let digest = short_digest(&report.digest);
    let than = match attempt.handler_digest.as_deref() {
        Some(failed) if failed == report.digest => "the one that failed".to_owned(),
        Some(failed) => format!("another one than {}, which failed", short_digest(failed)),
        None => "it is unknown which one failed".to_owned(),
    };
    format!("{digest} of the plugin {}, which this process runs now; {than}", report.plugin)
}

/// A write of the trial, as JSON. What the member `content` holds is hidden as a payload is.
fn veiled(write: &Value, content: &str, veil: &Veil) -> String {
    let mut write = write.clone();
    if let Some(content) = write.get_mut(content) {
        *content = veil.json(content.take());
    }
    plain(&veil.text(&write.to_string()))
}

fn result(ending: &TrialEnd, veil: &Veil) -> Option<ShownContent> {
    match ending {
        TrialEnd::Done { result: Some(result) } => Some(of_bytes(&veil.result(result.clone()))),
        _ => None,
    }
}
