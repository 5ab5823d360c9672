//! Why an item is where it is, and what it waits for, in one line.
//!
//! What only a look at other items tells, such as which item is in front of a key, is in `line.rs`.

use outbox_core::{BreakerState, BreakerStatus};
use outbox_item::{Item, ItemId, Status};
use outbox_store::{Pod, StuckEntry, StuckKind};

use crate::answers::{Sight, Visible};
use crate::glance::Glance;
use crate::page::types::{claim_limits, reached_key_limit, reached_limit};
use crate::page::words::{NO_REASON, counted, cut, span};

/// Said in place of a message that the reader may not see.
pub(super) const HIDDEN: &str = "hidden: to see it needs the right read-payload";

/// A message of a failure in at most so many characters, or what is said in its place to a reader who may not see it.
pub(super) fn message(text: &str, most: usize, sight: &Sight) -> String {
    match sight.content(text) {
        Visible::Shown(text) => cut(text, most),
        Visible::Hidden => HIDDEN.to_owned(),
    }
}

/// The reason as a sentence, with what it waits for.
pub(super) fn sentence(item: &Item, glance: &Glance, sight: &Sight) -> String {
    let why = why(item, glance, sight);
    match item.status {
        Status::Pending => format!("It waits: {why}."),
        Status::Claimed => format!("It is being handled: {why}."),
        Status::Done => format!("It is {why}."),
        Status::Dlq if item.attempts == 0 => format!("It was dead-lettered, and waits for a decision: {why}"),
        Status::Dlq => {
            let attempts = counted(item.attempts.into(), "attempt");
            format!("It failed for good after {attempts}, and waits for a decision: {why}")
        }
    }
}

/// The reason for the present state of the item.
pub(super) fn why(item: &Item, glance: &Glance, sight: &Sight) -> String {
    match item.status {
        Status::Done => done(item),
        Status::Dlq => dead(item, sight),
        Status::Claimed => claimed(item, glance),
        Status::Pending => waiting(item, glance),
    }
}

fn done(item: &Item) -> String {
    let took = item.done_at.map(|at| span(at.since(item.created_at))).unwrap_or_default();
    match item.replays {
        0 => format!("done {took} after it was enqueued"),
        replays => format!("done after {}", counted(replays.into(), "replay")),
    }
}

fn dead(item: &Item, sight: &Sight) -> String {
    match sight.content(item.last_error.clone()) {
        Visible::Hidden => format!("the message is {HIDDEN}"),
        Visible::Shown(None) => "dead-lettered without a message".to_owned(),
        Visible::Shown(Some(message)) => message,
    }
}

fn claimed(item: &Item, glance: &Glance) -> String {
    let by = item.claimed_by.as_deref().unwrap_or("a process");
    let since = item.claimed_at.map(|at| span(glance.overview.now.since(at))).unwrap_or_default();
    match item.lease_until {
        Some(until) if until <= glance.overview.now => {
            format!("claimed by {by} {since} ago; its lease has ended, and another process takes it back")
        }
        _ => format!("claimed by {by} for {since}"),
    }
}

/// What a PENDING item waits for: the first reason that would hold it by itself.
fn waiting(item: &Item, glance: &Glance) -> String {
    let now = glance.overview.now;
    let reason = paused(item, glance).or_else(|| unserved(item, glance)).or_else(|| broken(item, glance));
    if let Some(reason) = reason {
        return reason;
    }
    if item.available_at > now {
        let wait = span(item.available_at.since(now));
        return match item.attempts {
            0 if item.give_backs > 0 => format!("given back: due in {wait}"),
            0 => format!("delayed: due in {wait}"),
            attempts => format!("attempt {} in {wait}", attempts + 1),
        };
    }
    match (&item.ordering_key, blocking(item, glance)) {
        (Some(key), Some(dead)) => format!("due; behind item {dead}, which is dead and blocks the key {key}"),
        (Some(key), None) => format!("due; waits for its turn in the key {key}, or for {}", claimer(item, glance)),
        (None, _) => format!("due; waits for {}", claimer(item, glance)),
    }
}

/// What an item waits for that nothing else holds back.
fn claimer(item: &Item, glance: &Glance) -> String {
    let key = item.fairness_key.as_deref();
    if let Some(limit) = key.and_then(|key| reached_key_limit(glance, &item.item_type, key)) {
        return format!("the limit of its fairness key: {limit}");
    }
    match (reached_limit(glance, &item.item_type), glance.overview.claim_limits_of(&item.item_type)) {
        (Some(limit), _) => format!("the limit of its type: {limit}"),
        (None, Some(limits)) => format!("a worker, or for a limit of its type: {}", claim_limits(limits).join(", ")),
        (None, None) => "a worker".to_owned(),
    }
}

/// The dead item that blocks the key of this one, where the store has told it.
fn blocking(item: &Item, glance: &Glance) -> Option<ItemId> {
    let of_key = |entry: &&StuckEntry| entry.kind == StuckKind::BlockedKey && entry.ordering_key == item.ordering_key;
    glance.stuck.iter().find(of_key)?.item
}

fn paused(item: &Item, glance: &Glance) -> Option<String> {
    let said = |reason: &Option<String>| reason.clone().unwrap_or_else(|| NO_REASON.to_owned());
    if let Some(pause) = glance.pauses.iter().find(|pause| pause.r#type == item.item_type) {
        return Some(format!("the type is paused by {}: {}", pause.actor, said(&pause.reason)));
    }
    let key = item.fairness_key.as_ref()?;
    let is_about = |of: &Option<String>| of.as_ref().is_none_or(|of| *of == item.item_type);
    let pause = glance.key_pauses.iter().find(|pause| pause.fairness_key == *key && is_about(&pause.r#type))?;
    Some(format!("the fairness key {key} is paused by {}: {}", pause.actor, said(&pause.reason)))
}

fn unserved(item: &Item, glance: &Glance) -> Option<String> {
    if glance.served.contains(&item.item_type) {
        return None;
    }
    let now = glance.overview.now;
    let had_one = |pod: &&Pod| pod.is_silent(now) && pod.plugins.iter().any(|one| one.types.contains(&item.item_type));
    let last = glance.overview.pods.iter().filter(had_one).max_by_key(|pod| pod.heartbeat_at);
    let told = |pod: &Pod| {
        let role = pod.role.as_ref().map(|role| format!(" of the role {role}")).unwrap_or_default();
        format!(": {}{role} had one, and has been silent for {}", pod.instance, span(now.since(pod.heartbeat_at)))
    };
    Some(format!("no running process has a handler for {}{}", item.item_type, last.map(told).unwrap_or_default()))
}

fn broken(item: &Item, glance: &Glance) -> Option<String> {
    let of_type = |breaker: &&BreakerStatus| breaker.types.contains(&item.item_type);
    let is_shut = |breaker: &&BreakerStatus| matches!(breaker.state, BreakerState::Open | BreakerState::Expired);
    let breakers = || glance.overview.live_pods().filter_map(|pod| pod.breakers.iter().filter(of_type).find(is_shut));
    let breaker = breakers().next()?;
    let (pods, shut) = (glance.overview.live_pods().count(), breakers().count());
    let where_ = if shut < pods { format!(" in {shut} of {pods} processes") } else { String::new() };
    let subject = breaker.subject();
    Some(match breaker.state {
        BreakerState::Expired => format!("{subject} has failed for long{where_}: its failures use up attempts again"),
        _ => format!("the breaker of {subject} is open{where_}: one attempt at a time finds out whether it is back"),
    })
}
