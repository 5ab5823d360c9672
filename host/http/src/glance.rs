//! One reading of the store that all views of the cockpit share for a moment.
//!
//! Many cockpits that are open cost the store as little as one. This file does not know what a view shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use outbox_core::PluginLimits;
use outbox_item::Millis;
use outbox_store::{
    HistoryFigures, HistoryReport, HistorySeries, Inspect, KeyPause, Overview, Pause, RatedType, ReachedRates,
    RetriesAhead, StoreError, StuckEntry, StuckQuery,
};

/// How long a reading is shown.
const SHOWN_FOR: Duration = Duration::from_secs(1);

/// The time that the figures of a reading are about.
const HISTORY: Duration = Duration::from_hours(1);

/// The state of the outbox at one moment.
#[derive(Debug)]
pub(crate) struct Glance {
    pub(crate) overview: Overview,
    pub(crate) stuck: Vec<StuckEntry>,
    /// The figures of the last hour, by minutes.
    pub(crate) history: HistoryReport,
    /// When items are due for another attempt in the next hour.
    pub(crate) retries: RetriesAhead,
    /// The rates that hold due items back, by type.
    pub(crate) reached: BTreeMap<String, ReachedRates>,
    pub(crate) pauses: Vec<Pause>,
    pub(crate) key_pauses: Vec<KeyPause>,
    /// The types that a process serves.
    pub(crate) served: Vec<String>,
}

impl Glance {
    /// Reads the store. `served_here` are the types that this process serves.
    pub(crate) async fn read(store: &dyn Inspect, served_here: &[String]) -> Result<Self, StoreError> {
        let overview = store.overview().await?;
        let served = overview.served_types(served_here);
        let query = StuckQuery { served: Some(served.clone()), ..StuckQuery::default() };
        let stuck = store.stuck(&query).await?;
        let rows = store.history(HistoryReport::begin(overview.now, HISTORY)).await?;
        let history = HistoryReport::new(overview.now, HISTORY, rows);
        let retries = store.retries_ahead().await?;
        let reached = store.reached_rates(&rated_types(&overview)).await?;
        let (pauses, key_pauses) = (store.pauses().await?, store.key_pauses().await?);
        Ok(Self { overview, stuck, history, retries, reached, pauses, key_pauses, served })
    }
}

/// The types that plugins serve with a rate, each once.
fn rated_types(overview: &Overview) -> Vec<RatedType> {
    let names: BTreeSet<_> = overview.serving_plugins().flat_map(|plugin| &plugin.types).collect();
    names.into_iter().filter_map(|name| rated(name, overview.claim_limits_of(name)?)).collect()
}

fn rated(name: &str, limits: &PluginLimits) -> Option<RatedType> {
    let PluginLimits { rate, rate_per_key, .. } = *limits;
    let has_rate = rate.is_some() || rate_per_key.is_some();
    has_rate.then(|| RatedType { item_type: name.to_owned(), rate, rate_per_key })
}

/// What happened lately, and how long that is: the minute that is over and the one that is not.
pub(crate) fn lately(series: &HistorySeries, now: Millis, figure: impl Fn(&HistoryFigures) -> u64) -> (u64, Duration) {
    let last = series.steps.len().saturating_sub(2);
    let begun_at = series.steps.get(last).map_or(now, |step| step.at);
    let happened = series.steps[last..].iter().map(|step| figure(&step.figures)).sum();
    (happened, now.since(begun_at))
}

/// A reading, or, of one that failed, what was tried.
type Reading = Result<Arc<Glance>, &'static str>;

/// The newest reading, and when it was made.
#[derive(Default)]
pub(crate) struct Glances {
    newest: Mutex<Option<(Instant, Reading)>>,
}

impl Glances {
    /// A reading that is at most a second old. Callers that come meanwhile wait for the one that is being made, and share
    /// its failure too: each would wait as long for its own.
    pub(crate) async fn newest(&self, store: &dyn Inspect, served_here: &[String]) -> Result<Arc<Glance>, StoreError> {
        let mut newest = self.newest.lock().await;
        if let Some((read_at, glance)) = newest.as_ref()
            && read_at.elapsed() < SHOWN_FOR
        {
            let again =
                |tried: &&'static str| StoreError::Unavailable { tried, source: "it failed a moment ago".into() };
            return glance.as_ref().map(Arc::clone).map_err(again);
        }
        let glance = Glance::read(store, served_here).await.map(Arc::new);
        *newest = match &glance {
            Ok(glance) => Some((Instant::now(), Ok(Arc::clone(glance)))),
            Err(StoreError::Unavailable { tried, .. }) => Some((Instant::now(), Err(tried))),
            Err(_) => None,
        };
        glance
    }

    /// Forgets the reading, because this process has changed something that it shows.
    pub(crate) async fn forget(&self) {
        *self.newest.lock().await = None;
    }
}
