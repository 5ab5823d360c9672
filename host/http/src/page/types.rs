//! A row for each type: whether workers claim its items, how fast, how well, and what waits.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use outbox_core::{BreakerState, PluginLimits};
use outbox_item::Status;
use outbox_store::{OTHER_TYPES, RateText};

use crate::glance::{Glance, lately};
use crate::page::words::{NO_REASON, count, lasted, rate, share, span_ms};

/// The most types that the overview lists.
const LISTED: usize = 100;

/// A type, as the overview shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TypeRow {
    /// Its name.
    pub name: String,
    /// Whether its items are claimed.
    pub state: TypeState,
    /// Items that became DONE in each minute of the last hour, oldest first; empty where nothing is known of it.
    pub done_each_minute: Vec<u64>,
    /// Items that wait.
    pub waiting: String,
    /// Those of them that wait for another attempt.
    pub retrying: u64,
    /// Items that are claimed.
    pub claimed: String,
    /// Dead items.
    pub dead: u64,
    /// How many become DONE.
    pub done_rate: String,
    /// The share of the attempts of the last hour that failed.
    pub failing: String,
    /// How long ago the oldest waiting item was enqueued.
    pub oldest: String,
    /// The latency of the last hour that 95% of the items did not exceed.
    pub p95: String,
}

/// Whether the items of a type are claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TypeState {
    /// How good this is: `done`, `run`, `wait`, `bad` or `off`.
    pub class: String,
    /// In a word.
    pub text: String,
    /// Why; empty where there is nothing to say.
    pub about: String,
}

/// The rows, the types with the most to tell first, and how many there are beyond those that are listed.
pub(super) fn type_rows(glance: &Glance) -> (Vec<TypeRow>, usize) {
    let overview = &glance.overview;
    let known = overview.by_type.keys().chain(&glance.served).chain(glance.history.types.keys());
    let paused = glance.pauses.iter().map(|pause| &pause.r#type);
    let names: BTreeSet<&String> = known.chain(paused).filter(|name| *name != OTHER_TYPES).collect();
    let more = names.len().saturating_sub(LISTED);
    let mut names: Vec<_> = names.into_iter().collect();
    if more > 0 {
        names.sort_by_key(|name| std::cmp::Reverse(activity(glance, name)));
        names.truncate(LISTED);
        names.sort();
    }
    (names.into_iter().map(|name| type_row(glance, name)).collect(), more)
}

fn activity(glance: &Glance, name: &str) -> u64 {
    let unfinished = [Status::Pending, Status::Claimed, Status::Dlq].map(|status| items(glance, name, status));
    unfinished.into_iter().sum::<u64>() + glance.history.types.get(name).map_or(0, |series| series.sum.done)
}

fn items(glance: &Glance, name: &str, status: Status) -> u64 {
    let counts: Option<&BTreeMap<_, _>> = glance.overview.by_type.get(name);
    counts.and_then(|counts| counts.get(status.as_str())).copied().unwrap_or(0)
}

fn type_row(glance: &Glance, name: &str) -> TypeRow {
    let overview = &glance.overview;
    let series = glance.history.types.get(name);
    let attempts = series.map_or(0, |series| series.sum.done + series.sum.failed);
    TypeRow {
        name: name.to_owned(),
        state: type_state(glance, name),
        done_each_minute: series
            .map(|series| series.steps.iter().map(|step| step.figures.done).collect())
            .unwrap_or_default(),
        waiting: count(items(glance, name, Status::Pending)),
        retrying: overview.retrying.get(name).copied().unwrap_or(0),
        claimed: count(items(glance, name, Status::Claimed)),
        dead: items(glance, name, Status::Dlq),
        done_rate: series.map_or("0 /s".to_owned(), |series| {
            let (done, during) = lately(series, overview.now, |figures| figures.done);
            rate(done, during)
        }),
        failing: share(series.map_or(0, |series| series.sum.failed), attempts),
        oldest: overview.oldest_enqueued_ms.get(name).map_or("–".to_owned(), |ms| span_ms(*ms)),
        p95: lasted(series.and_then(|series| series.sum.p95_ms)),
    }
}

/// The limits of a type's claims, in words.
pub(super) fn claim_limits(limits: &PluginLimits) -> Vec<String> {
    let of_type = [limits.concurrency.map(at_a_time), limits.rate.map(rate_in_words)];
    let of_keys = [limits.concurrency_per_key.map(at_a_time), limits.rate_per_key.map(rate_in_words)];
    of_type.into_iter().chain(of_keys.map(|limit| limit.as_deref().map(of_key))).flatten().collect()
}

fn at_a_time(most: u32) -> String {
    format!("{most} at a time")
}

fn of_key(limit: &str) -> String {
    format!("{limit} for each key")
}

fn rate_in_words(per_second: f64) -> String {
    RateText::of(per_second).in_words()
}

/// The limit that holds back the claims of the type now, in words: as many are claimed as may be, or its rate or those of
/// all keys with due items are used up. How many of a fairness key are claimed is not looked at.
pub(super) fn reached_limit(glance: &Glance, name: &str) -> Option<String> {
    let limits = glance.overview.claim_limits_of(name)?;
    let claimed = items(glance, name, Status::Claimed);
    if let Some(most) = limits.concurrency.filter(|most| claimed >= u64::from(*most)) {
        return Some(at_a_time(most));
    }
    let reached = glance.reached.get(name)?;
    let of_keys = limits.rate_per_key.filter(|_| reached.are_all_keys).map(|rate| of_key(&rate_in_words(rate)));
    limits.rate.filter(|_| reached.is_of_type).map(rate_in_words).or(of_keys)
}

/// The rate of the fairness key that holds back its items of the type now, in words.
pub(super) fn reached_key_limit(glance: &Glance, name: &str, key: &str) -> Option<String> {
    let rate = glance.overview.claim_limits_of(name)?.rate_per_key?;
    glance.reached.get(name)?.keys.contains(key).then(|| rate_in_words(rate))
}

/// Whether workers claim the items of the type.
pub(super) fn is_serving(glance: &Glance, name: &str) -> bool {
    type_state(glance, name).class == "done"
}

fn type_state(glance: &Glance, name: &str) -> TypeState {
    let state = |class: &str, text: &str, about| TypeState { class: class.to_owned(), text: text.to_owned(), about };
    if let Some(pause) = glance.pauses.iter().find(|pause| pause.r#type == name) {
        let reason = pause.reason.as_deref().unwrap_or(NO_REASON);
        return state("off", "paused", format!("by {}: {reason}", pause.actor));
    }
    let breakers = glance.overview.live_pods().flat_map(|pod| &pod.breakers);
    let of_type = breakers.filter(|breaker| breaker.types.iter().any(|known| known == name));
    match of_type.map(|breaker| breaker.state).min_by_key(|state| *state != BreakerState::Open) {
        Some(BreakerState::Open) => return state("bad", "breaker open", "its receiver fails".to_owned()),
        Some(BreakerState::Expired) => return state("bad", "receiver down", "failures count again".to_owned()),
        Some(BreakerState::Closing) => return state("wait", "recovering", "its receiver is back".to_owned()),
        _ => {}
    }
    let waiting = items(glance, name, Status::Pending);
    if glance.served.iter().any(|served| served == name) {
        return match reached_limit(glance, name).filter(|_| waiting > 0) {
            Some(limit) => state("wait", "limited", limit),
            None => state("done", "serving", String::new()),
        };
    }
    if waiting > 0 {
        state("bad", "unhandled", "no process has a handler".to_owned())
    } else {
        state("off", "not served", "no process has a handler".to_owned())
    }
}
