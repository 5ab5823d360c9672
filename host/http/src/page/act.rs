//! An action on items in two steps: a page that says what it would change and what may follow, and the form on it that
//! carries it out.
//!
//! The orders are those of the JSON interface (`operate.rs`), so they are checked, confirmed and audited alike.

use std::fmt::Write as _;
use std::time::Duration;

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;
use serde_json::{Map, Value, json};

use outbox_item::{ItemId, ItemSummary, Millis, Status};
use outbox_store::{Filter, ItemGroup, OperateReport, Page, RefusedItem};

use crate::operate::{OperateBody, Performed, Preview, perform};
use crate::page::actions::{Consequence, Deed, consequence};
use crate::page::dress::is_from_elsewhere;
use crate::page::filters::Asked;
use crate::page::form::{Form, FormFields};
use crate::page::frame::{Frame, Tab};
use crate::page::login::go_to;
use crate::page::visit::{Visit, shown};
use crate::page::words::{Ago, count as number_text, counted};
use crate::problem::ApiError;
use crate::query::number;

/// Fields of the form that are no filter.
const OPTIONS: [&str; 17] = [
    "shown",
    "asked",
    "selected",
    "seen",
    "seen_at",
    "new_effects",
    "skip_key",
    "force",
    "delay",
    "available_at",
    "per_second",
    "stop_after",
    "reason",
    "actor",
    "confirm",
    "filter",
    "form_token",
];

/// The page before an action.
#[derive(Template)]
#[template(path = "act.html")]
struct ActPage {
    frame: Frame,
    deed: &'static Deed,
    /// `Replay 12 items?`
    question: String,
    count: u64,
    consequence: Consequence,
    groups: Vec<GroupRow>,
    unblocked: u64,
    refused: Vec<RefusedItem>,
    sample: Vec<ItemId>,
    /// What the form sends besides its options.
    hidden: Vec<(&'static str, String)>,
    options: ChosenOptions,
    is_bulk: bool,
    /// Whether nothing but a status restricts the items.
    is_unfiltered: bool,
    asks_name: bool,
}

/// Items that would be changed, of one status and type.
struct GroupRow {
    status: &'static str,
    item_type: String,
    count: u64,
    oldest: Ago,
    newest: Ago,
}

/// The options of an action, as they were chosen.
#[derive(Default)]
struct ChosenOptions {
    new_effects: bool,
    skip_key: bool,
    force: bool,
    delay: String,
    available_at: Option<Millis>,
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
    let (deed, fields) = (deed(&visit)?, FormFields::new(query?.0));
    let _alone = visit.state.previews.acquire().await;
    let now = visit.state.inspect.now().await?;
    let options = ChosenOptions::read(&fields, deed, now)?;
    let target = ActTarget::read(&fields, deed, now)?;
    let order = order(&target, &options, &[("dry_run", json!(true))])?;
    let performed = perform(&visit.state, &visit.caller, actor(&visit, &fields), deed.word, order).await?;
    let (report, confirm) = match performed {
        Performed::Preview(Preview { report, confirm, .. }) => (report, Some(confirm)),
        Performed::Report(report) => (report, None),
        Performed::Job(_) => return Err(ApiError::Internal),
    };
    let statuses = target.statuses(&visit).await?;
    let consequence = consequence(deed.word, &statuses, options.new_effects);
    let seen = target.seen(&statuses, now);
    shown(&page(&visit, deed, &fields, &target, options, report, confirm, consequence, seen, now))
}

#[expect(clippy::too_many_arguments, reason = "each is a part of one page")]
fn page(
    visit: &Visit,
    deed: &'static Deed,
    fields: &FormFields,
    target: &ActTarget,
    options: ChosenOptions,
    report: OperateReport,
    confirm: Option<String>,
    consequence: Consequence,
    seen: Vec<(&'static str, String)>,
    now: Millis,
) -> ActPage {
    let mut hidden = target.hidden();
    hidden.extend(seen);
    let shown = if report.changed == 0 { "nothing".to_owned() } else { options.shown() };
    hidden.push(("shown", shown));
    hidden.extend(options.available_at.map(|at| ("available_at", at.to_string())));
    hidden.extend(confirm.map(|confirm| ("confirm", confirm)));
    let asked: Vec<_> = fields.iter().filter(|(name, _)| !OPTIONS.contains(name)).collect();
    hidden.push(("asked", serde_urlencoded::to_string(asked).unwrap_or_default()));
    ActPage {
        frame: visit.frame(&format!("{} items", deed.verb), Tab::Items),
        deed,
        question: format!("{} {}?", deed.verb, counted(report.changed, "item")),
        count: report.changed,
        consequence,
        groups: report.groups.iter().map(|group| group_row(group, now)).collect(),
        unblocked: report.unblocked_keys,
        refused: report.refused,
        sample: report.sample,
        hidden,
        options,
        is_bulk: matches!(target, ActTarget::Filter(_)),
        is_unfiltered: matches!(target, ActTarget::Filter(filter) if filter.is_status_alone()),
        asks_name: visit.caller.name().is_none(),
    }
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
    let deed = deed(&visit)?;
    let now = visit.state.inspect.now().await?;
    let options = ChosenOptions::read(&fields, deed, now)?;
    if fields.get("shown").is_some_and(|shown| shown != options.shown()) {
        return go_to(&options.preview(deed, &fields));
    }
    let target = ActTarget::read(&fields, deed, now)?;
    let reason = fields.get("reason").ok_or_else(|| ApiError::Invalid("say why: the audit trail keeps it".into()))?;
    target.check_unchanged(&visit, &fields).await?;
    let mut more = vec![("reason", json!(reason))];
    if let ActTarget::Filter(_) = target {
        more.push(("background", json!(true)));
        more.extend(fields.get("confirm").map(|confirm| ("confirm", json!(confirm))));
        for name in ["per_second", "stop_after"] {
            if let Some(text) = fields.get(name) {
                more.push((name, json!(number::<u32>(name, text)?)));
            }
        }
    }
    let order = order(&target, &options, &more)?;
    let performed = perform(&visit.state, &visit.caller, actor(&visit, &fields), deed.word, order).await?;
    visit.state.glances.forget().await;
    match (performed, &target) {
        (Performed::Job(job), _) => go_to(&format!("../jobs/{}", job.id)),
        (Performed::Report(report), ActTarget::Ids(ids))
            if report.refused.is_empty() && deed.word != "purge" && ids.len() == 1 =>
        {
            go_to(&format!("../items/{}", ids[0]))
        }
        (Performed::Report(report), _) => shown(&acted(&visit, deed, report)),
        (Performed::Preview(_), _) => Err(ApiError::Internal),
    }
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

/// The name in the audit trail: the proven one, or the one of the form.
fn actor(visit: &Visit, fields: &FormFields) -> String {
    visit.caller.actor(fields.get("actor").map(str::to_owned))
}

/// The order of the JSON interface.
fn order(target: &ActTarget, options: &ChosenOptions, more: &[(&str, Value)]) -> Result<OperateBody, ApiError> {
    let mut members: Map<String, Value> =
        more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let (name, value) = match target {
        ActTarget::Ids(ids) => ("ids", json!(ids)),
        ActTarget::Filter(filter) => ("filter", json!(filter)),
    };
    members.insert(name.to_owned(), value);
    for (name, is_chosen) in
        [("new_effects", options.new_effects), ("skip_key", options.skip_key), ("force", options.force)]
    {
        if is_chosen {
            members.insert(name.to_owned(), json!(true));
        }
    }
    if let Some(at) = options.available_at {
        members.insert("available_at".to_owned(), json!(at));
    }
    serde_json::from_value(Value::Object(members)).map_err(ApiError::invalid_json("the order"))
}

/// The items that an action is for.
enum ActTarget {
    Ids(Vec<ItemId>),
    Filter(Box<Filter>),
}

impl ActTarget {
    fn read(fields: &FormFields, deed: &Deed, now: Millis) -> Result<Self, ApiError> {
        let ids = fields.all("ids").map(|text| number("ids", text)).collect::<Result<Vec<ItemId>, _>>()?;
        if !ids.is_empty() {
            return Ok(Self::Ids(ids));
        }
        if fields.get("selected").is_some() {
            return Err(ApiError::Invalid("no item is selected: go back, and select those that you mean".into()));
        }
        if let Some(filter) = fields.get("filter").filter(|_| fields.get("form_token").is_some()) {
            return serde_json::from_str(filter)
                .map(|filter| Self::Filter(Box::new(filter)))
                .map_err(ApiError::invalid_json("the filter"));
        }
        let of_list = |name: &str| !OPTIONS.contains(&name) && !matches!(name, "before" | "limit" | "all");
        if !fields.iter().any(|(name, _)| of_list(name) || name == "all") {
            return Err(ApiError::Invalid("the address names no items: select some in the list, or filter it".into()));
        }
        let asked = fields.iter().filter(|(name, _)| of_list(name));
        let asked = asked.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let Asked { mut filter, .. } = Asked::read(asked, now)?;
        let statuses = deed.statuses(&filter.status);
        if statuses.is_empty() {
            let words: Vec<_> = filter.status.iter().map(|status| status.as_str()).collect();
            let words = words.join(" and ");
            return Err(ApiError::Invalid(format!(
                "items that are {words} cannot be {}: choose another status",
                deed.past
            )));
        }
        filter.status = statuses;
        Ok(Self::Filter(Box::new(filter)))
    }

    fn hidden(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Ids(ids) => ids.iter().map(|id| ("ids", id.to_string())).collect(),
            Self::Filter(filter) => vec![("filter", in_ascii(&json!(filter).to_string()))],
        }
    }

    /// What the page before showed of items that are named: their statuses, and when.
    fn seen(&self, statuses: &[Status], now: Millis) -> Vec<(&'static str, String)> {
        let Self::Ids(_) = self else { return Vec::new() };
        let words: Vec<_> = statuses.iter().map(|status| status.as_str()).collect();
        vec![("seen", words.join(",")), ("seen_at", now.to_string())]
    }

    /// Refuses items that are not as the page before showed them.
    async fn check_unchanged(&self, visit: &Visit, fields: &FormFields) -> Result<(), ApiError> {
        let Self::Ids(ids) = self else { return Ok(()) };
        let seen: Vec<_> = fields.get("seen").unwrap_or_default().split(',').collect();
        let seen_at: Millis = number("seen_at", fields.get("seen_at").unwrap_or("0"))?;
        for ItemSummary { item, .. } in named(visit, ids).await? {
            let since = item.done_at.or(item.dead_at).or(item.claimed_at).unwrap_or(item.created_at);
            if !seen.contains(&item.status.as_str()) || since > seen_at {
                let reason = format!("it is {} now and was not when the page showed it: look at it again", item.status);
                return Err(ApiError::Refused { id: item.id, reason });
            }
        }
        Ok(())
    }

    /// The statuses that the items have, or may have.
    async fn statuses(&self, visit: &Visit) -> Result<Vec<Status>, ApiError> {
        let ids = match self {
            Self::Filter(filter) => return Ok(filter.status.clone()),
            Self::Ids(ids) => ids,
        };
        Ok(named(visit, ids).await?.into_iter().map(|summary| summary.item.status).collect())
    }
}

/// The same JSON in ASCII: a page shows other characters as they are, or, where they would hide something, as escapes.
fn in_ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into a text cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

/// The items that are named, as they are now.
async fn named(visit: &Visit, ids: &[ItemId]) -> Result<Vec<ItemSummary>, ApiError> {
    let filter = Filter { ids: ids.to_vec(), ..Filter::default() };
    let limit = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    Ok(visit.state.inspect.list(&filter, &Page { limit, before: None }).await?.items)
}

impl ChosenOptions {
    /// The options of a form. A delay becomes a time, so that the form repeats what the page before said.
    fn read(fields: &FormFields, deed: &Deed, now: Millis) -> Result<Self, ApiError> {
        let is_chosen = |name: &str| fields.get(name).is_some();
        let delay = fields.get("delay").unwrap_or("0s").to_owned();
        let mut options = Self {
            new_effects: is_chosen("new_effects"),
            skip_key: is_chosen("skip_key"),
            force: is_chosen("force"),
            delay,
            available_at: None,
        };
        if deed.word == "reschedule" {
            options.available_at = Some(match fields.get("available_at") {
                Some(text) => number("available_at", text)?,
                None => now.saturating_add(length(&options.delay)?),
            });
        }
        Ok(options)
    }

    /// The options in one word each. A form whose options differ from those that its page was about leads to a new page.
    fn shown(&self) -> String {
        format!("{} {} {} {}", self.new_effects, self.skip_key, self.force, self.delay)
    }

    /// The address of the page about these options.
    fn preview(&self, deed: &Deed, fields: &FormFields) -> String {
        let flags = [("new_effects", self.new_effects), ("skip_key", self.skip_key), ("force", self.force)];
        let flags = flags.into_iter().filter(|(_, is_chosen)| *is_chosen).map(|(name, _)| (name, "yes"));
        let delay = (deed.word == "reschedule").then_some(("delay", self.delay.as_str()));
        let options: Vec<_> = flags.chain(delay).collect();
        let options = serde_urlencoded::to_string(options).unwrap_or_default();
        format!("{}?{}&{options}", deed.word, fields.get("asked").unwrap_or_default())
    }
}

/// A length of time that a person wrote, such as `15m`.
fn length(text: &str) -> Result<Duration, ApiError> {
    let invalid = || ApiError::Invalid(format!("the delay is {text:?}: write it such as 30s, 15m or 2h"));
    humantime::parse_duration(text).map_err(|_| invalid())
}
