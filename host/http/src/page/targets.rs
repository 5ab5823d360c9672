//! The items that an action is for: those that are named, or all that match a filter.
//!
//! An action on named items is bound to what its page showed of them; one on a filter by the token of the confirmation.

use std::fmt::Write as _;

use serde_json::{Value, json};

use outbox_item::{ItemId, ItemSummary, Millis, Status};
use outbox_store::{Filter, Page};

use crate::glance::Glance;
use crate::page::actions::Deed;
use crate::page::filters::Asked;
use crate::page::form::FormFields;
use crate::page::items::{COUNTED_MAX, known_total};
use crate::page::visit::Visit;
use crate::problem::ApiError;
use crate::query::number;

/// Fields of the forms and addresses of actions that are no filter.
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

/// The items that an action is for.
pub(super) enum ActTarget {
    Ids(Vec<ItemId>),
    Filter(Box<Filter>),
}

impl ActTarget {
    /// The items of a form, or of the address of its page.
    pub(super) fn read(fields: &FormFields, deed: &Deed, now: Millis) -> Result<Self, ApiError> {
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
        of_list(fields, deed, now).map(|filter| Self::Filter(Box::new(filter)))
    }

    /// Whether it takes whatever matches.
    pub(super) fn is_bulk(&self) -> bool {
        matches!(self, Self::Filter(_))
    }

    /// Whether nothing but a status restricts the items.
    pub(super) fn is_unfiltered(&self) -> bool {
        matches!(self, Self::Filter(filter) if filter.is_status_alone())
    }

    /// How many items match, where the store has counted them and they are too many to look at each.
    pub(super) fn many(&self, glance: &Glance) -> Option<u64> {
        let Self::Filter(filter) = self else { return None };
        known_total(filter, glance).filter(|total| *total > COUNTED_MAX)
    }

    /// The member of the order.
    pub(super) fn member(&self) -> (&'static str, Value) {
        match self {
            Self::Ids(ids) => ("ids", json!(ids)),
            Self::Filter(filter) => ("filter", json!(filter)),
        }
    }

    /// The fields with which a form names the items. Of named ones it also says what its page showed: their statuses, and
    /// when.
    pub(super) fn hidden(&self, statuses: &[Status], now: Millis) -> Vec<(&'static str, String)> {
        let ids = match self {
            Self::Filter(filter) => return vec![("filter", in_ascii(&json!(filter).to_string()))],
            Self::Ids(ids) => ids.iter().map(|id| ("ids", id.to_string())),
        };
        let words: Vec<_> = statuses.iter().map(|status| status.as_str()).collect();
        ids.chain([("seen", words.join(",")), ("seen_at", now.to_string())]).collect()
    }

    /// Refuses named items that are not as the page before showed them.
    pub(super) async fn check_unchanged(&self, visit: &Visit, fields: &FormFields) -> Result<(), ApiError> {
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
    pub(super) async fn statuses(&self, visit: &Visit) -> Result<Vec<Status>, ApiError> {
        let ids = match self {
            Self::Filter(filter) => return Ok(filter.status.clone()),
            Self::Ids(ids) => ids,
        };
        Ok(named(visit, ids).await?.into_iter().map(|summary| summary.item.status).collect())
    }
}

/// The parameters of the list that an address repeats, as a query.
pub(super) fn list_query(fields: &FormFields) -> String {
    let asked: Vec<_> = fields.iter().filter(|(name, _)| !OPTIONS.contains(name)).collect();
    serde_urlencoded::to_string(asked).unwrap_or_default()
}

/// The filter of the list that the address repeats, with the statuses that the action is for.
fn of_list(fields: &FormFields, deed: &Deed, now: Millis) -> Result<Filter, ApiError> {
    let is_filter = |name: &str| !OPTIONS.contains(&name) && !matches!(name, "before" | "limit" | "all");
    if !fields.iter().any(|(name, _)| is_filter(name) || name == "all") {
        return Err(ApiError::Invalid("the address names no items: select some in the list, or filter it".into()));
    }
    let asked = fields.iter().filter(|(name, _)| is_filter(name));
    let asked = asked.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let Asked { filter, .. } = Asked::read(asked, now)?;
    let status = deed.statuses(&filter.status);
    if status.is_empty() {
        let words: Vec<_> = filter.status.iter().map(|status| status.as_str()).collect();
        let (words, past) = (words.join(" and "), deed.past);
        return Err(ApiError::Invalid(format!("items that are {words} cannot be {past}: choose another status")));
    }
    Ok(Filter { status, ..filter })
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
