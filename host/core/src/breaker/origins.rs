//! The breakers of all origins of a process, and which types they hold back.
//!
//! The origins are those of requests, so a breaker holds back a type only while the type's last attempts all ended at
//! its origin. Time is an argument.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use outbox_item::{ItemId, millis};

use crate::breaker::origin::{BREAKER_ITEMS, BREAKER_WINDOW, BreakerTurn, OriginBreaker, Passage};
use crate::breaker::status::BreakerStatus;

/// Origins above this number are forgotten when none of their items failed lately.
const ORIGINS_KEPT: usize = 1_000;

/// How long an origin is remembered that no attempt calls. A type that waits for it calls it with a probe each minute.
const UNCALLED_MAX: Duration = Duration::from_mins(10);

/// The breakers of all origins.
#[derive(Debug, Default)]
pub(crate) struct OriginBreakers(Mutex<OriginsState>);

#[derive(Debug, Default)]
struct OriginsState {
    origins: HashMap<String, KnownOrigin>,
    trails: HashMap<String, TypeTrail>,
    news: Vec<BreakerNews>,
}

#[derive(Debug, Default)]
struct KnownOrigin {
    breaker: OriginBreaker,
    /// The types whose items failed there.
    types: BTreeSet<String>,
    /// The last attempt at a request.
    called_at: Option<Instant>,
}

/// The last request of an attempt to one origin.
#[derive(Clone, Debug)]
pub(crate) struct OriginRequest {
    pub(crate) origin: String,
    /// How the attempt was let through. One that probes, or returns, sends all of its requests there.
    pub(crate) passage: Passage,
    pub(crate) end: RequestEnd,
    /// When it ended, or was sent if it has not.
    pub(crate) at: Instant,
}

impl OriginRequest {
    pub(crate) fn is_probe(&self) -> bool {
        self.passage == Passage::Probe
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// It has no answer.
    Unanswered,
    /// The receiver answered, and is not to blame.
    Answered,
    /// The receiver failed: the reason in words.
    Failed(String),
    /// It ended in a way that says nothing about the receiver.
    Unknown,
    /// It was not sent, because the breaker is open for this reason.
    Refused(String),
}

/// Where the last attempts of a type ended.
#[derive(Debug)]
struct TypeTrail {
    origin: String,
    /// How many in a row ended there.
    row: usize,
    /// When the last one ended.
    last_at: Instant,
    /// When one ended at another origin.
    elsewhere_at: Option<Instant>,
}

/// Something that operators want to know of a breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BreakerNews {
    /// It opened.
    Opened(BreakerStatus),
    /// It closed again. The status is that of the outage.
    Closed(BreakerStatus),
}

impl OriginBreakers {
    pub(crate) fn pass(&self, origin: &str, item_type: &str, now: Instant) -> Passage {
        let mut state = self.lock();
        let Some(known) = state.origins.get_mut(origin) else { return Passage::Free };
        known.called_at = Some(now);
        let passage = known.breaker.pass(now);
        if passage == Passage::Refused {
            known.types.insert(item_type.to_owned());
        }
        passage
    }

    /// What failed last at the origin.
    pub(crate) fn cause(&self, origin: &str, now: Instant) -> String {
        let state = self.lock();
        let outage = state.origins.get(origin).and_then(|known| known.breaker.outage(now));
        outage.map(|(outage, _)| outage.cause.clone()).unwrap_or_default()
    }

    /// Whether failures at the origin do not count.
    pub(crate) fn spares(&self, origin: &str, now: Instant) -> bool {
        self.lock().origins.get(origin).is_some_and(|known| known.breaker.spares(now))
    }

    /// Forgets where the attempts of a type ended: its plugin uses no breakers.
    pub(crate) fn forget(&self, item_type: &str) {
        self.lock().trails.remove(item_type);
    }

    #[cfg(test)]
    pub(crate) fn is_open(&self, origin: &str, now: Instant) -> bool {
        self.lock().origins.get(origin).is_some_and(|known| known.breaker.is_open(now))
    }

    pub(crate) fn attempt_ended(
        &self,
        item_type: &str,
        item: ItemId,
        requests: &[OriginRequest],
        is_failed: bool,
        now: Instant,
    ) {
        let mut state = self.lock();
        for request in requests {
            state.request_ended(item_type, item, request, is_failed, now);
        }
        match requests.last() {
            Some(last) => state.follow(item_type, &last.origin, now),
            // Not all of its attempts end at an origin.
            None => drop(state.trails.remove(item_type)),
        }
    }

    /// Ends requests that say nothing about their receivers.
    pub(crate) fn dropped(&self, requests: &[OriginRequest], now: Instant) {
        let mut state = self.lock();
        for request in requests {
            match state.origins.get_mut(&request.origin) {
                Some(known) if request.is_probe() => known.breaker.probe_dropped(now),
                Some(known) if request.passage == Passage::Returning => known.breaker.returned(),
                _ => {}
            }
        }
    }

    /// The most attempts at a time at items of the type; `None` for any number.
    pub(crate) fn at_once(&self, item_type: &str, now: Instant) -> Option<u32> {
        let state = self.lock();
        let trail = state.trails.get(item_type).filter(|trail| trail.is_single(now))?;
        state.origins.get(&trail.origin)?.breaker.at_once(now)
    }

    /// The breakers that are not closed. Forgets those of origins that nobody calls any more.
    pub(crate) fn status(&self, now: Instant) -> Vec<BreakerStatus> {
        let mut state = self.lock();
        state.origins.retain(|_, known| known.called_at.is_none_or(|at| now - at < UNCALLED_MAX));
        let mut status: Vec<_> = state.origins.iter().filter_map(|(origin, known)| known.status(origin, now)).collect();
        status.sort_by(|a, b| a.origin.cmp(&b.origin));
        status
    }

    /// What has happened since the last call.
    pub(crate) fn take_news(&self) -> Vec<BreakerNews> {
        std::mem::take(&mut self.lock().news)
    }

    fn lock(&self) -> MutexGuard<'_, OriginsState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OriginsState {
    fn request_ended(&mut self, item_type: &str, item: ItemId, request: &OriginRequest, is_failed: bool, now: Instant) {
        let OriginRequest { origin, passage, end, at } = request;
        let is_probe = request.is_probe();
        if let (Passage::Returning, Some(known)) = (passage, self.origins.get_mut(origin)) {
            known.breaker.returned();
        }
        let cause = match end {
            RequestEnd::Answered => return self.succeeded(origin, *at, now),
            RequestEnd::Failed(cause) => cause.as_str(),
            RequestEnd::Unanswered => "no answer before the attempt ended",
            RequestEnd::Unknown | RequestEnd::Refused(_) => {
                let known = self.origins.get_mut(origin).filter(|_| is_probe);
                return known.into_iter().for_each(|known| known.breaker.probe_dropped(now));
            }
        };
        if is_failed || is_probe {
            self.failed(item_type, item, request, cause, now);
        }
    }

    fn succeeded(&mut self, origin: &str, at: Instant, now: Instant) {
        let Some(known) = self.origins.get_mut(origin) else { return };
        let before = known.status(origin, now);
        if let (Some(BreakerTurn::Closed(_)), Some(outage)) = (known.breaker.succeeded(at, now), before) {
            self.news.push(BreakerNews::Closed(outage));
        }
        if known.breaker.is_idle(now) {
            self.origins.remove(origin);
        }
    }

    fn failed(&mut self, item_type: &str, item: ItemId, request: &OriginRequest, cause: &str, now: Instant) {
        let origin = &request.origin;
        if self.origins.len() > ORIGINS_KEPT {
            self.origins.retain(|_, known| !known.breaker.is_idle(now));
        }
        let known = self.origins.entry(origin.clone()).or_default();
        known.types.insert(item_type.to_owned());
        known.called_at = Some(now);
        let turn = known.breaker.failed(item, cause, request.is_probe(), now);
        let opened = turn.and_then(|_| known.status(origin, now));
        self.news.extend(opened.map(BreakerNews::Opened));
    }

    /// Remembers that an attempt of the type ended at the origin.
    fn follow(&mut self, item_type: &str, origin: &str, now: Instant) {
        let begin = || TypeTrail { origin: origin.to_owned(), row: 0, last_at: now, elsewhere_at: None };
        let trail = self.trails.entry(item_type.to_owned()).or_insert_with(begin);
        if trail.origin != origin {
            *trail = TypeTrail { elsewhere_at: Some(trail.last_at), ..begin() };
        }
        trail.row += 1;
        trail.last_at = now;
    }
}

impl KnownOrigin {
    fn status(&self, origin: &str, now: Instant) -> Option<BreakerStatus> {
        let (outage, state) = self.breaker.outage(now)?;
        Some(BreakerStatus {
            cause: outage.cause.clone(),
            items: outage.items,
            open_for_ms: u64::try_from(millis(now - outage.since)).unwrap_or_default(),
            origin: Some(origin.to_owned()),
            state,
            types: self.types.iter().cloned().collect(),
        })
    }
}

impl TypeTrail {
    /// Whether the type uses no other origin, as far as its last attempts tell.
    fn is_single(&self, now: Instant) -> bool {
        let was_elsewhere = self.elsewhere_at.is_some_and(|at| now - at <= BREAKER_WINDOW);
        self.row >= BREAKER_ITEMS && !was_elsewhere
    }
}
