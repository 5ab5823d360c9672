//! The list of items: filters in the address, pages by the id of the last item, and why each item is where it is.

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;

use outbox_item::{ItemSummary, Status};
use outbox_store::engine::READ_MAX;
use outbox_store::{Filter, ItemPage};

use crate::glance::Glance;
use crate::page::actions::{Choice, choices_for};
use crate::page::filters::{Asked, FilterForm};
use crate::page::frame::{Frame, Tab};
use crate::page::visit::{Visit, shown};
use crate::page::why::why;
use crate::page::words::{Moment, count, cut, status_class};
use crate::problem::ApiError;

/// A total above this is shown as more than it.
pub(super) const COUNTED_MAX: u64 = 10_000;

/// The longest reason in a row, in characters.
const REASON_MAX: usize = 140;

/// The list, as its template reads it.
#[derive(Template)]
#[template(path = "items.html")]
struct ItemsPage {
    frame: Frame,
    opening: String,
    /// How many items were looked at, where the page ended there.
    looked: Option<String>,
    /// Whether older items may match that were not looked at.
    looked_short: bool,
    is_live: bool,
    form: FilterForm,
    rows: Vec<ItemRow>,
    /// The address of the next page.
    next: Option<String>,
    /// The filter as a query, for actions on everything that matches and for programs.
    query: String,
    command: String,
    choices: Vec<Choice>,
}

/// An item, as the list shows it.
struct ItemRow {
    id: String,
    item_type: String,
    status: &'static str,
    class: &'static str,
    key: String,
    why: String,
    attempts: u32,
    enqueued: Moment,
}

/// The list.
pub(super) async fn items(
    visit: Visit,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let glance = visit.glance().await?;
    let asked = Asked::read(query?.0, glance.overview.now)?;
    visit.caller.require_to_search(&asked.filter, &visit.settings.redaction)?;
    let place = visit.state.content_place(&asked.filter).await;
    let page = visit.state.inspect.list(&narrowed(&asked.filter, &glance), &asked.page).await?;
    drop(place);
    let is_first = asked.page.before.is_none();
    let is_live = !asked.costs_much() && page.looked_at.is_none();
    let sight = visit.sight();
    let row = |summary: &ItemSummary| row(summary, &glance, &sight);
    shown(&ItemsPage {
        frame: Frame { is_live, ..visit.frame("Items", Tab::Items) },
        opening: opening(&asked.filter, &page, is_first, &glance),
        looked: page.looked_at.map(|number| looked(number, is_first)),
        looked_short: page.looked_at.is_some(),
        is_live,
        rows: page.items.iter().map(row).collect(),
        next: page.next.map(|next| asked.address_before(next)),
        query: asked.query(),
        command: asked.command("list"),
        choices: choices_for(&asked.filter.status, &visit.caller),
        form: FilterForm::of(&asked, &glance),
    })
}

/// What the page looked at before it ended.
fn looked(number: u32, is_first: bool) -> String {
    let which = if is_first { "newest" } else { "next" };
    let how = match number {
        READ_MAX => "that fit the other filters were read",
        _ => "of each status were looked at",
    };
    format!("The {which} {} items {how}; older ones may match too.", count(number.into()))
}

/// The same filter, which does not look for items of a type among the DONE ones where the store has counted none: that
/// would read all of them.
fn narrowed(filter: &Filter, glance: &Glance) -> Filter {
    let done = |item_type: &String| glance.overview.by_type.get(item_type)?.get(Status::Done.as_str()).copied();
    let has_done = filter.r#type.as_ref().is_none_or(|item_type| done(item_type).unwrap_or(0) > 0);
    if has_done || !filter.status.is_empty() {
        return filter.clone();
    }
    Filter { status: vec![Status::Pending, Status::Claimed, Status::Dlq], ..filter.clone() }
}

fn row(ItemSummary { item, .. }: &ItemSummary, glance: &Glance, sight: &crate::answers::Sight) -> ItemRow {
    ItemRow {
        id: item.id.to_string(),
        item_type: item.item_type.clone(),
        status: item.status.as_str(),
        class: status_class(item.status),
        key: cut(&item.idem_key, 48),
        why: cut(&why(item, glance, sight), REASON_MAX),
        attempts: item.attempts,
        enqueued: Moment::at(item.created_at),
    }
}

/// How many match. Where the store would have to count for it, `100+` says that there are more than the page shows.
fn opening(filter: &Filter, page: &ItemPage, is_first: bool, glance: &Glance) -> String {
    let on_page = page.items.len() as u64;
    let total = match known_total(filter, glance) {
        Some(total) => Some(total.max(on_page)),
        None if is_first && page.next.is_none() => Some(on_page),
        None => None,
    };
    if page.looked_at.is_some() {
        return match on_page {
            0 => "No match so far".to_owned(),
            1 => "One match so far".to_owned(),
            matches => format!("{} matches so far", count(matches)),
        };
    }
    match total {
        Some(0) => "No item matches".to_owned(),
        Some(1) => "One item matches".to_owned(),
        Some(total) if total > COUNTED_MAX => format!("{}+ items match", count(COUNTED_MAX)),
        Some(total) => format!("{} items match", count(total)),
        None if is_first => format!("{}+ items match", count(on_page)),
        None => "Older items".to_owned(),
    }
}

/// The total of a filter by status and type, which the store keeps.
pub(super) fn known_total(filter: &Filter, glance: &Glance) -> Option<u64> {
    let Filter { status, r#type, .. } = filter;
    if (Filter { status: status.clone(), r#type: r#type.clone(), ..Filter::default() }) != *filter {
        return None;
    }
    let statuses = if status.is_empty() { Status::ALL.to_vec() } else { status.clone() };
    let of = |counts: &std::collections::BTreeMap<&'static str, u64>| {
        statuses.iter().filter_map(|status| counts.get(status.as_str())).sum()
    };
    Some(match r#type {
        Some(item_type) => glance.overview.by_type.get(item_type).map_or(0, of),
        None => of(&glance.overview.by_status),
    })
}
