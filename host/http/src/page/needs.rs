//! What needs a person: everything that is stuck, dead letters, and plugins that do not run, each with its cause and the
//! next step.
//!
//! What is stuck is found by the store. This file chooses the words, the address of the next click and the command.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use outbox_core::PluginState;
use outbox_item::{Millis, Status};
use outbox_store::{Overview, StuckEntry, StuckKind};

use crate::answers::{Sight, Visible, quotes_content};
use crate::description::UnixMillis;
use crate::glance::Glance;
use crate::page::item::query;
use crate::page::troubles::{Trouble, troubles};
use crate::page::words::{Ago, count, counted};

/// The most needs that the overview lists.
const LISTED: usize = 12;

/// Something that needs a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Need {
    /// How urgent it is: `urgent` or `notice`.
    pub level: String,
    /// What it is.
    pub what: String,
    /// Why.
    pub cause: String,
    /// Since when, where that is known.
    #[schema(required = true)]
    pub since: Option<Since>,
    /// The address of the next click, from the root of the host.
    pub path: String,
    /// What the click does.
    pub click: String,
    /// The command that helps, or shows more.
    pub command: String,
}

/// Since when, or when last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Since {
    /// The time.
    #[schema(value_type = UnixMillis)]
    pub at: Millis,
    /// How long ago that was, in words.
    pub ago: String,
}

impl Since {
    /// The moment, as its distance from `now`.
    pub(super) fn of(at: Millis, now: Millis) -> Self {
        Self { at, ago: Ago::of(at, now).text().to_owned() }
    }
}

/// Everything that needs a person, the most urgent first, and how many there are beyond those that are listed.
pub(super) fn needs(glance: &Glance, sight: &Sight) -> (Vec<Need>, usize) {
    let stuck = glance.stuck.iter().map(|entry| of_stuck(entry, glance, sight));
    let mut needs: Vec<_> = stuck.chain(dead_letters(&glance.overview)).chain(plugins(&glance.overview)).collect();
    needs.sort_by_key(|need| need.level != "urgent");
    let more = needs.len().saturating_sub(LISTED);
    needs.truncate(LISTED);
    (needs, more)
}

fn of_stuck(entry: &StuckEntry, glance: &Glance, sight: &Sight) -> Need {
    let item_type = entry.r#type.as_deref().unwrap_or_default();
    let (level, what) = what(entry, item_type);
    let (path, click) = next_click(entry, item_type);
    let cause =
        if quotes_content(entry.kind) { sight.content(entry.why.clone()) } else { Visible::Shown(entry.why.clone()) };
    let cause = match cause {
        Visible::Shown(cause) => cause,
        Visible::Hidden => "The cause is hidden: to see it needs the right read-payload.".to_owned(),
    };
    Need {
        level: level.to_owned(),
        what,
        cause,
        since: Some(Since::of(entry.since, glance.overview.now)),
        path,
        click,
        command: entry.command.clone(),
    }
}

fn what(entry: &StuckEntry, item_type: &str) -> (&'static str, String) {
    let waiting = counted(entry.waiting, "item");
    let item = entry.item.map(|id| format!("Item {id}")).unwrap_or_default();
    let key = entry.ordering_key.as_deref().unwrap_or_default();
    let (wait, fail) = if entry.waiting == 1 { ("waits", "fails") } else { ("wait", "fail") };
    match entry.kind {
        StuckKind::Breaker => ("urgent", format!("The receiver of {item_type} fails; {waiting} {wait}")),
        StuckKind::Failing => ("urgent", format!("{waiting} of {item_type} {fail} again and again")),
        StuckKind::Unhandled => ("urgent", format!("Nothing handles {item_type}; {waiting} {wait}")),
        StuckKind::BlockedKey => {
            ("urgent", format!("The key {key} is blocked; {waiting} {wait} behind {}", item.to_lowercase()))
        }
        StuckKind::Refused => ("urgent", format!("The database refuses the claims of {item_type}")),
        StuckKind::Lost => ("urgent", format!("{item} has lost its status")),
        StuckKind::ExpiredClaim => ("urgent", format!("{item} is claimed by a process that is gone")),
        StuckKind::Descendants => ("notice", format!("{item} has too many descendants; {waiting} dead-lettered")),
        StuckKind::LongClaim => ("notice", format!("{item} of {item_type} has been claimed for long")),
        StuckKind::HeldKey => {
            ("notice", format!("The key {key} is held up; {waiting} {wait} behind {}", item.to_lowercase()))
        }
        StuckKind::Old => ("notice", format!("{waiting} of {item_type} could run and {wait}")),
        StuckKind::Paused => {
            ("notice", format!("{} is paused; {waiting} {wait}", entry.fairness_key.as_deref().unwrap_or(item_type)))
        }
    }
}

fn next_click(entry: &StuckEntry, item_type: &str) -> (String, String) {
    let of_item = || entry.item.map_or_else(|| "cockpit/items".to_owned(), |id| format!("cockpit/items/{id}"));
    let of_type = |view: &str| format!("cockpit/{view}?status=PENDING&{}", query("type", item_type));
    let (path, click) = match entry.kind {
        StuckKind::BlockedKey => {
            let about = entry.item.map(|id| format!(" about item {id}")).unwrap_or_default();
            return (of_item(), format!("Decide{about}"));
        }
        StuckKind::Breaker => (of_type("failures"), "See the failures"),
        StuckKind::Failing if entry.waiting > 1 => (of_type("failures"), "See the failures"),
        StuckKind::Unhandled => ("cockpit/plugins".to_owned(), "See the plugins"),
        StuckKind::Paused => ("cockpit/operations".to_owned(), "See the pauses"),
        StuckKind::Refused | StuckKind::Old => (of_type("items"), "See the items"),
        _ => (of_item(), "Open the item"),
    };
    (path, click.to_owned())
}

fn dead_letters(overview: &Overview) -> Option<Need> {
    let dead = overview.by_status.get(Status::Dlq.as_str()).copied().filter(|dead| *dead > 0)?;
    let of_type = |(item_type, counts): (&String, &std::collections::BTreeMap<&str, u64>)| {
        let dead = counts.get(Status::Dlq.as_str()).copied().filter(|dead| *dead > 0)?;
        Some((dead, item_type.clone()))
    };
    let mut types: Vec<_> = overview.by_type.iter().filter_map(of_type).collect();
    types.sort_by_key(|(dead, _)| std::cmp::Reverse(*dead));
    let named: Vec<_> = types.iter().take(3).map(|(dead, item_type)| format!("{} {item_type}", count(*dead))).collect();
    let more = if types.len() > 3 { " and others" } else { "" };
    let (noun, verb) = if dead == 1 { ("dead letter", "waits") } else { ("dead letters", "wait") };
    Some(Need {
        level: "urgent".to_owned(),
        what: format!("{} {noun} {verb} for a decision", count(dead)),
        cause: format!("{}{more}.", named.join(", ")),
        since: None,
        path: "cockpit/failures".to_owned(),
        click: "See the groups".to_owned(),
        command: "outbox failures".to_owned(),
    })
}

/// The plugins of processes that report whose newest file does not run.
fn plugins(overview: &Overview) -> Vec<Need> {
    troubles(overview).iter().map(of_trouble).collect()
}

fn of_trouble(trouble: &Trouble<'_>) -> Need {
    let Trouble { plugin, text, .. } = trouble;
    let what = match plugin.digest {
        _ if plugin.state == PluginState::Quarantined => {
            format!("A version of the plugin {} is quarantined", plugin.name)
        }
        Some(_) if plugin.error.is_none() => format!("The plugin {} does not get all of its types", plugin.name),
        Some(_) => format!("The newest file of the plugin {} does not run", plugin.name),
        None => format!("The plugin {} does not load", plugin.name),
    };
    Need {
        level: if plugin.digest.is_some() { "notice" } else { "urgent" }.to_owned(),
        what: what + &trouble.extent(),
        cause: text.lines().next().unwrap_or_default().to_owned(),
        since: None,
        path: "cockpit/plugins".to_owned(),
        click: "See the cure".to_owned(),
        command: "outbox plugin list".to_owned(),
    }
}
