//! An action on items in two steps: a page that says what it would change and what may follow, and the form on it that
//! carries it out.
//!
//! The orders are those of the JSON interface (`operate.rs`), so they are checked, confirmed and audited alike.

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use outbox_item::{ItemId, Millis};
use outbox_store::{ItemGroup, OperateReport, RefusedItem};

use crate::operate::{OperateBody, Performed, Preview, perform};
use crate::page::actions::{Consequence, Deed, consequence};
use crate::page::form::{Form, FormFields, is_from_elsewhere};
use crate::page::frame::{Frame, Tab};
use crate::page::options::ChosenOptions;
use crate::page::reason::{ReasonFields, actor, reason};
use crate::page::targets::{ActTarget, list_query};
use crate::page::visit::{Visit, go_to, shown};
use crate::page::words::{Ago, count as number_text, counted};
use crate::problem::ApiError;
use crate::query::number;

/// Items that a page looks at where very many match.
const LOOKED_AT_MAX: u32 = 1_000;

/// Fields that the page has again with what was chosen and typed.
const KEPT: [&str; 8] = ["new_effects", "skip_key", "force", "delay", "reason", "actor", "per_second", "stop_after"];

/// The page before an action.
#[derive(Template)]
#[template(path = "act.html")]
struct ActPage {
    frame: Frame,
    deed: &'static Deed,
    /// `Replay 12 items?`
    question: String,
    /// Why the form that was sent changed nothing.
    problem: Option<String>,
    count: u64,
    /// `12 items`
    amount: String,
    /// How many of them the page looked at, where they are very many.
    looked_at: Option<String>,
    consequence: Consequence,
    groups: Vec<GroupRow>,
    unblocked: u64,
    refused: Vec<RefusedItem>,
    sample: Vec<ItemId>,
    /// What the form sends besides its options.
    hidden: Vec<(&'static str, String)>,
    options: ChosenOptions,
    because: ReasonFields,
    per_second: String,
    stop_after: String,
    is_bulk: bool,
    /// Whether nothing but a status restricts the items.
    is_unfiltered: bool,
}

/// Items that would be changed, of one status and type.
struct GroupRow {
    status: &'static str,
    item_type: String,
    count: u64,
    oldest: Ago,
    newest: Ago,
}

/// The page after an action that needed no job.
#[derive(Template)]
#[template(path = "acted.html")]
struct ActedPage {
    frame: Frame,
    deed: &'static Deed,
    outcome: String,
    sample: Vec<ItemId>,
    refused: Vec<RefusedItem>,
}

/// An action, its items and its options, as an address or a form names them.
struct WantedAct {
    deed: &'static Deed,
    target: ActTarget,
    options: ChosenOptions,
    now: Millis,
}

impl WantedAct {
    async fn read(visit: &Visit, fields: &FormFields) -> Result<Self, ApiError> {
        let (deed, now) = (deed(visit)?, visit.state.inspect.now().await?);
        let options = ChosenOptions::read(fields, deed, now)?;
        Ok(Self { deed, target: ActTarget::read(fields, deed, now)?, options, now })
    }

    /// Gives the order, with these members besides its items and options.
    async fn perform(
        &self,
        visit: &Visit,
        fields: &FormFields,
        more: Vec<(&'static str, Value)>,
    ) -> Result<Performed, ApiError> {
        let order = self.order(more)?;
        perform(&visit.state, &visit.caller, actor(visit, fields), self.deed.word, order).await
    }

    fn order(&self, more: Vec<(&'static str, Value)>) -> Result<OperateBody, ApiError> {
        let all = more.into_iter().chain([self.target.member()]).chain(self.options.members());
        let members: Map<String, Value> = all.map(|(name, value)| (name.to_owned(), value)).collect();
        serde_json::from_value(Value::Object(members)).map_err(ApiError::invalid_json("the order"))
    }

    /// What it would change; of very many items, what it would change of the oldest.
    async fn preview(&self, visit: &Visit, is_many: bool) -> Result<(OperateReport, Option<String>), ApiError> {
        let mut order = self.order(vec![("dry_run", json!(true))])?;
        order.look_at = is_many.then_some(LOOKED_AT_MAX);
        match perform(&visit.state, &visit.caller, String::new(), self.deed.word, order).await? {
            Performed::Preview(Preview { report, confirm, .. }) => Ok((report, Some(confirm))),
            Performed::Report(report) => Ok((report, None)),
            Performed::Job(_) => Err(ApiError::Internal),
        }
    }

    /// The members of an order that is carried out.
    fn members(&self, fields: &FormFields) -> Result<Vec<(&'static str, Value)>, ApiError> {
        let mut members = vec![("reason", json!(reason(fields)?))];
        if self.target.is_bulk() {
            members.push(("background", json!(true)));
            members.extend(fields.get("confirm").map(|confirm| ("confirm", json!(confirm))));
            for name in ["per_second", "stop_after"] {
                let given = fields.get(name).map(|text| number::<u32>(name, text)).transpose()?;
                members.extend(given.map(|given| (name, json!(given))));
            }
        }
        Ok(members)
    }
}

/// The action that the last part of the path names.
fn deed(visit: &Visit) -> Result<&'static Deed, ApiError> {
    let path = visit.uri.path();
    let word = path.rsplit('/').next().unwrap_or_default();
    Deed::of_word(word).ok_or_else(|| ApiError::NoRoute(path.to_owned()))
}

/// Says what the action would change.
pub(super) async fn ask(
    visit: Visit,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    if is_from_elsewhere(&visit.headers) {
        return Err(ApiError::CrossSite);
    }
    shown(&page(&visit, &FormFields::new(query?.0), None).await?)
}

async fn page(visit: &Visit, fields: &FormFields, problem: Option<String>) -> Result<ActPage, ApiError> {
    let _alone = visit.state.previews.acquire().await;
    let wanted = WantedAct::read(visit, fields).await?;
    let many = wanted.target.many(&*visit.glance().await?);
    let (report, confirm) = wanted.preview(visit, many.is_some()).await?;
    let count = many.unwrap_or(report.changed);
    let amount = format!("{}{}", if many.is_some() { "up to " } else { "" }, counted(count, "item"));
    let statuses = wanted.target.statuses(visit).await?;
    let WantedAct { deed, target, options, now } = wanted;
    let mut hidden = target.hidden(&statuses, now);
    hidden.extend(hidden_options(&options, count, confirm));
    hidden.push(("asked", list_query(fields)));
    let typed = |name| fields.get(name).unwrap_or_default().to_owned();
    Ok(ActPage {
        frame: visit.frame(&format!("{} items", deed.verb), Tab::Items),
        deed,
        question: format!("{} {amount}?", deed.verb),
        problem,
        count,
        amount,
        looked_at: many.map(|_| number_text(LOOKED_AT_MAX.into())),
        consequence: consequence(deed.word, &statuses, options.new_effects),
        groups: report.groups.iter().map(|group| group_row(group, now)).collect(),
        unblocked: report.unblocked_keys,
        refused: report.refused,
        sample: report.sample,
        hidden,
        options,
        because: ReasonFields::of(visit, fields),
        per_second: typed("per_second"),
        stop_after: typed("stop_after"),
        is_bulk: target.is_bulk(),
        is_unfiltered: target.is_unfiltered(),
    })
}

/// What the form says of the options that its page is about. A form that changes nothing leads to the page again.
fn hidden_options(
    options: &ChosenOptions,
    count: u64,
    confirm: Option<String>,
) -> impl Iterator<Item = (&'static str, String)> {
    let shown = if count == 0 { "nothing".to_owned() } else { options.shown() };
    let at = options.available_at.map(|at| ("available_at", at.to_string()));
    [("shown", shown)].into_iter().chain(at).chain(confirm.map(|confirm| ("confirm", confirm)))
}

fn group_row(group: &ItemGroup, now: Millis) -> GroupRow {
    GroupRow {
        status: group.status.as_str(),
        item_type: group.r#type.clone(),
        count: group.count,
        oldest: Ago::of(group.oldest, now),
        newest: Ago::of(group.newest, now),
    }
}

/// Carries the action out.
pub(super) async fn act(Form { visit, fields }: Form) -> Result<Response, ApiError> {
    match carry_out(&visit, &fields).await {
        Err(err) if err.status().is_client_error() => refused(&visit, &fields, err).await,
        done => done,
    }
}

/// The page of the form again with what was typed, which says why nothing was changed. It shows the items as they are
/// now.
pub(super) async fn refused(visit: &Visit, fields: &FormFields, wrong: ApiError) -> Result<Response, ApiError> {
    let asked = serde_urlencoded::from_str(&again(fields)).map(FormFields::new).map_err(|_| ApiError::Internal)?;
    match page(visit, &asked, Some(wrong.to_string())).await {
        Ok(page) => Ok((wrong.status(), shown(&page)?).into_response()),
        Err(_) => Err(wrong),
    }
}

async fn carry_out(visit: &Visit, fields: &FormFields) -> Result<Response, ApiError> {
    let wanted = WantedAct::read(visit, fields).await?;
    if fields.get("shown").is_some_and(|shown| shown != wanted.options.shown()) {
        return go_to(&format!("{}?{}", wanted.deed.word, again(fields)));
    }
    let members = wanted.members(fields)?;
    wanted.target.check_unchanged(visit, fields).await?;
    let performed = wanted.perform(visit, fields, members).await?;
    visit.state.glances.forget().await;
    match (performed, &wanted.target) {
        (Performed::Job(job), _) => go_to(&format!("../jobs/{}", job.id)),
        (Performed::Report(report), ActTarget::Ids(ids))
            if report.refused.is_empty() && wanted.deed.word != "purge" && ids.len() == 1 =>
        {
            go_to(&format!("../items/{}", ids[0]))
        }
        (Performed::Report(report), _) => shown(&acted(visit, wanted.deed, report)),
        (Performed::Preview(_), _) => Err(ApiError::Internal),
    }
}

/// The query of the page of a form, with what was chosen and typed there.
pub(super) fn again(fields: &FormFields) -> String {
    let kept: Vec<_> = KEPT.into_iter().filter_map(|name| Some((name, fields.get(name)?))).collect();
    let kept = serde_urlencoded::to_string(kept).unwrap_or_default();
    format!("{}&{kept}", fields.get("asked").unwrap_or_default())
}

fn acted(visit: &Visit, deed: &'static Deed, report: OperateReport) -> ActedPage {
    let outcome = match report.changed {
        0 => format!("No item was {}", deed.past),
        1 => format!("One item was {}", deed.past),
        changed => format!("{} were {}", counted(changed, "item"), deed.past),
    };
    let frame = visit.frame(&outcome, Tab::Items);
    ActedPage { frame, deed, outcome, sample: report.sample, refused: report.refused }
}
