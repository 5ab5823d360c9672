//! What an operator does to types, keys, jobs and components, in two steps: a page that says what follows, and the form
//! on it that does it.

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::{IntoResponse, Response};

use outbox_item::Status;
use outbox_store::{Control, ControlRequest, Execution};

use crate::operations::{carry_out, find_job};
use crate::page::form::{Form, FormFields, TOKEN};
use crate::page::frame::{Frame, Tab};
use crate::page::line::waiting;
use crate::page::reason::{ReasonFields, actor, reason};
use crate::page::visit::{Visit, go_to, shown};
use crate::page::words::{count, counted, short_digest};
use crate::problem::ApiError;
use crate::query::number;

/// Fields that do not say what is to be done.
const ABOUT: [&str; 3] = [TOKEN, "reason", "actor"];

/// The page before a control.
#[derive(Template)]
#[template(path = "control.html")]
struct ControlPage {
    frame: Frame,
    question: String,
    /// Why the form that was sent changed nothing.
    problem: Option<String>,
    verb: &'static str,
    consequence: &'static str,
    /// What it would change now.
    now: String,
    /// Whether it would change anything.
    changes: bool,
    is_dangerous: bool,
    hidden: Vec<(String, String)>,
    because: ReasonFields,
}

/// What is to be done, and to what.
enum Wanted {
    Control(Control),
    /// A quarantined component may run again.
    Release {
        digest: String,
    },
}

/// Says what follows.
pub(super) async fn ask(
    visit: Visit,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    shown(&page(&visit, &FormFields::new(query?.0), None).await?)
}

async fn page(visit: &Visit, fields: &FormFields, problem: Option<String>) -> Result<ControlPage, ApiError> {
    let wanted = wanted(visit, fields).await?;
    let question = question(&wanted);
    let (verb, is_dangerous, consequence) = meaning(&wanted);
    let (changes, now) = preview(visit, &wanted, fields.get("force").is_some()).await?;
    let subject = fields.iter().filter(|(name, _)| !ABOUT.contains(name));
    let hidden = subject.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let (frame, because) = (visit.frame(&question, Tab::Operations), ReasonFields::of(visit, fields));
    Ok(ControlPage { frame, question, problem, verb, consequence, now, changes, is_dangerous, hidden, because })
}

/// Does it.
pub(super) async fn carry(Form { visit, fields }: Form) -> Result<Response, ApiError> {
    match act(&visit, &fields).await {
        Err(err) if err.status().is_client_error() => refused(&visit, &fields, err).await,
        done => done,
    }
}

/// The page of the form again with what was typed, which says why nothing was changed.
pub(super) async fn refused(visit: &Visit, fields: &FormFields, wrong: ApiError) -> Result<Response, ApiError> {
    match page(visit, fields, Some(wrong.to_string())).await {
        Ok(page) => Ok((wrong.status(), shown(&page)?).into_response()),
        Err(_) => Err(wrong),
    }
}

/// The query of the page of a form, with what was typed there.
pub(super) fn again(fields: &FormFields) -> String {
    let kept: Vec<_> = fields.iter().filter(|(name, _)| *name != TOKEN).collect();
    serde_urlencoded::to_string(kept).unwrap_or_default()
}

async fn act(visit: &Visit, fields: &FormFields) -> Result<Response, ApiError> {
    let wanted = wanted(visit, fields).await?;
    let (actor, reason) = (actor(visit, fields), reason(fields)?.to_owned());
    let goal = match &wanted {
        Wanted::Control(Control::Cancel { job }) => format!("../jobs/{job}"),
        Wanted::Control(Control::RollBack { .. }) | Wanted::Release { .. } => "../plugins".to_owned(),
        Wanted::Control(_) => "../operations".to_owned(),
    };
    match wanted {
        Wanted::Control(control) => {
            let request = ControlRequest { control, actor, reason: Some(reason), execution: Execution::Apply };
            carry_out(&visit.state, &request, fields.get("force").is_some()).await?;
        }
        Wanted::Release { digest } => {
            if !visit.state.operate.lift_quarantine(&digest, &actor, Some(&reason)).await? {
                return Err(not_quarantined(&digest));
            }
        }
    }
    visit.state.glances.forget().await;
    go_to(&goal)
}

/// Whether it would change anything, and what, in words. An unknown name is refused.
async fn preview(visit: &Visit, wanted: &Wanted, is_forced: bool) -> Result<(bool, String), ApiError> {
    let control = match wanted {
        Wanted::Control(control) => control,
        Wanted::Release { digest } => return Ok((true, of_quarantined(visit, digest).await?)),
    };
    let request =
        ControlRequest { control: control.clone(), actor: String::new(), reason: None, execution: Execution::DryRun };
    let report = carry_out(&visit.state, &request, is_forced).await?;
    if !report.changed {
        return Ok((false, "Nothing would change: it is so already.".to_owned()));
    }
    let words = match control {
        Control::Pause { item_type } | Control::Resume { item_type } => of_type(visit, item_type).await?,
        Control::Unblock { ordering_key } => {
            let ids: Vec<_> = report.items.iter().take(5).map(ToString::to_string).collect();
            let more = if report.items.len() > ids.len() { " and others" } else { "" };
            let waiting = waiting(&*visit.state.inspect, ordering_key).await?;
            format!("The key is blocked by item {}{more}; {waiting} behind it.", ids.join(", "))
        }
        Control::Cancel { job } => {
            let job = find_job(&visit.state, *job).await?;
            let left = job.matched.saturating_sub(job.changed + job.refused);
            format!("It has changed {}; {} would stay as they are.", counted(job.changed, "item"), count(left))
        }
        _ => String::new(),
    };
    Ok((true, words))
}

/// How many items of a type there are for workers.
async fn of_type(visit: &Visit, item_type: &str) -> Result<String, ApiError> {
    let glance = visit.glance().await?;
    let items = |status: Status| {
        glance.overview.by_type.get(item_type).and_then(|counts| counts.get(status.as_str())).copied().unwrap_or(0)
    };
    let (waiting, claimed) = (items(Status::Pending), items(Status::Claimed));
    Ok(format!("{} of the type wait now, and {} are being handled.", counted(waiting, "item"), count(claimed)))
}

/// What the quarantine says of the component.
async fn of_quarantined(visit: &Visit, digest: &str) -> Result<String, ApiError> {
    let all = visit.state.inspect.list_quarantine().await?;
    let found = all.into_iter().find(|record| record.digest == digest).ok_or_else(|| not_quarantined(digest))?;
    Ok(format!("It is a version of {}: {}.", found.plugin, found.reason))
}

fn not_quarantined(digest: &str) -> ApiError {
    ApiError::Invalid(format!("no component {digest} is quarantined: nothing was released"))
}

/// What the last part of the path and the fields ask for.
async fn wanted(visit: &Visit, fields: &FormFields) -> Result<Wanted, ApiError> {
    let path = visit.uri.path();
    let needed = |name: &str| {
        fields.get(name).map(str::to_owned).ok_or_else(|| ApiError::Invalid(format!("the address names no {name}")))
    };
    let item_type = fields.get("type").map(str::to_owned);
    Ok(Wanted::Control(match (path.rsplit('/').next().unwrap_or_default(), fields.get("fairness_key")) {
        ("pause", None) => Control::Pause { item_type: needed("type")? },
        ("resume", None) => Control::Resume { item_type: needed("type")? },
        ("pause", Some(key)) => Control::PauseKey { fairness_key: key.to_owned(), item_type },
        ("resume", Some(key)) => Control::ResumeKey { fairness_key: key.to_owned(), item_type },
        ("unblock", _) => Control::Unblock { ordering_key: needed("ordering_key")? },
        ("rollback", _) => {
            let (plugin, digest) = (needed("plugin")?, needed("digest")?);
            check_rollback(visit, &plugin, &digest).await?;
            Control::RollBack { plugin, digest }
        }
        ("release", _) => return Ok(Wanted::Release { digest: needed("digest")? }),
        ("cancel", _) => {
            let job = number("job", &needed("job")?)?;
            find_job(&visit.state, job).await?;
            Control::Cancel { job }
        }
        _ => return Err(ApiError::NoRoute(path.to_owned())),
    }))
}

/// Refuses a component that does not run, or without which a process would have nothing to run.
async fn check_rollback(visit: &Visit, plugin: &str, digest: &str) -> Result<(), ApiError> {
    let overview = visit.state.inspect.overview().await?;
    let running = overview.withdrawn(plugin, None).map_err(|reason| ApiError::Invalid(reason.to_string()))?;
    if running.contains(digest) {
        return Ok(());
    }
    Err(ApiError::Invalid(format!("no process runs the component {digest} of {plugin} any more: nothing was changed")))
}

/// The question.
fn question(wanted: &Wanted) -> String {
    let of_type = |item_type: &Option<String>| item_type.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    match wanted {
        Wanted::Control(Control::Pause { item_type }) => format!("Pause {item_type}?"),
        Wanted::Control(Control::Resume { item_type }) => format!("Resume {item_type}?"),
        Wanted::Control(Control::PauseKey { fairness_key, item_type }) => {
            format!("Pause the fairness key {fairness_key}{}?", of_type(item_type))
        }
        Wanted::Control(Control::ResumeKey { fairness_key, item_type }) => {
            format!("Resume the fairness key {fairness_key}{}?", of_type(item_type))
        }
        Wanted::Control(Control::Unblock { ordering_key }) => format!("Unblock the key {ordering_key}?"),
        Wanted::Control(Control::RollBack { plugin, digest }) => {
            format!("Roll back {plugin} from {}?", short_digest(digest))
        }
        Wanted::Release { digest } => format!("Release {} from quarantine?", short_digest(digest)),
        Wanted::Control(Control::Cancel { job }) => format!("Cancel job {job}?"),
        Wanted::Control(_) => "Change this?".to_owned(),
    }
}

/// The verb, whether it is dangerous, and what follows.
fn meaning(wanted: &Wanted) -> (&'static str, bool, &'static str) {
    match wanted {
        Wanted::Control(Control::Pause { .. } | Control::PauseKey { .. }) => (
            "Pause",
            false,
            "No process claims these items any more. Attempts that are under way go on; items wait and lose nothing.",
        ),
        Wanted::Control(Control::Resume { .. } | Control::ResumeKey { .. }) => {
            ("Resume", false, "Processes claim the items that wait, oldest first.")
        }
        Wanted::Control(Control::Unblock { .. }) => (
            "Unblock",
            true,
            "The items behind go on without the dead ones. Those stay in the DLQ; a replay puts one in front again.",
        ),
        Wanted::Control(Control::RollBack { .. }) => (
            "Roll back",
            true,
            "No process runs this component any more: each returns to the version before it. Attempts that are under way \
             finish first. The component stays in quarantine until somebody releases it.",
        ),
        Wanted::Release { .. } => ("Release", true, "Processes whose plugin file is this component run it again."),
        Wanted::Control(Control::Cancel { .. }) => {
            ("Cancel the job", true, "The job changes no further items. What it has changed stays changed.")
        }
        Wanted::Control(_) => ("Change", true, ""),
    }
}
