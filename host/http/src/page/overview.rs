//! The overview: whether anything needs a person, and how items flow.

use askama::Template;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use outbox_item::{Millis, Status};
use outbox_store::HistoryFigures;

use crate::glance::{Glance, lately};
use crate::page::charts::Chart;
use crate::page::frame::{Frame, Tab};
use crate::page::hour::HourFigures;
use crate::page::item::query;
use crate::page::needs::{Need, Since, needs};
use crate::page::pods::{PluginRow, PodRow, plugin_rows, pod_rows};
use crate::page::sagas::{SagaPanel, busiest};
use crate::page::types::{TypeRow, is_serving, type_rows};
use crate::page::visit::{Visit, shown};
use crate::page::words::{Ago, Moment, begun, bytes, count, counted, lasted, rate, short_count, span_ms};
use crate::problem::ApiError;

/// The overview, as its template reads it.
#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    frame: Frame,
    opening: String,
    /// What follows the opening: how everything else is.
    otherwise: String,
    read_at: Moment,
    now: Millis,
    needs: Vec<Need>,
    more_needs: usize,
    flow: Flow,
    charts: Charts,
    types: Vec<TypeRow>,
    more_types: usize,
    sagas: Vec<SagaPanel>,
    more_sagas: usize,
    plugins: Vec<PluginRow>,
    pods: Vec<PodRow>,
    database: String,
}

/// How items flow: in each status how many, and how fast they leave it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// Items that wait.
    pub waiting: String,
    /// How long ago the oldest of them was enqueued.
    pub oldest: String,
    /// How many of them wait for another attempt.
    pub retrying: String,
    /// Items that are claimed.
    pub claimed: String,
    /// How many items become DONE.
    pub done_rate: String,
    /// Items that are DONE.
    pub done: String,
    /// How many attempts fail and are repeated.
    pub retry_rate: String,
    /// Dead items.
    pub dead: String,
    /// How many of them died in the last hour.
    pub dead_lately: String,
    /// The latency of the last hour that 95% of the items did not exceed.
    pub p95: String,
}

/// The last hour in charts.
struct Charts {
    throughput: Chart,
    latency: Chart,
    most_latency: String,
    waiting: Chart,
    retries: Chart,
    /// The figures that they show.
    hour: HourFigures,
}

/// The overview.
pub(super) async fn overview(visit: Visit) -> Result<Response, ApiError> {
    let glance = visit.glance().await?;
    let (needs, more_needs) = needs(&glance, &visit.sight());
    let (types, more_types) = type_rows(&glance);
    let (sagas, more_sagas) = busiest(&glance, &visit.settings.sagas);
    shown(&OverviewPage {
        frame: visit.live_frame("Overview", Tab::Overview),
        opening: opening(needs.len() + more_needs),
        otherwise: otherwise(&glance, needs.is_empty()),
        read_at: Moment::at(glance.overview.now),
        now: glance.overview.now,
        needs,
        more_needs,
        flow: flow(&glance),
        charts: charts(&glance),
        types,
        more_types,
        sagas,
        more_sagas,
        plugins: plugin_rows(&glance.overview),
        pods: pod_rows(&glance.overview),
        database: bytes(glance.overview.database_bytes),
    })
}

impl OverviewPage {
    /// How long ago something was when the store was read.
    fn ago(&self, since: &Since) -> Ago {
        Ago::of(since.at, self.now)
    }

    /// The chart of a type; `None` where nothing is known of its last hour.
    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn chart(&self, row: &TypeRow) -> Option<Chart> {
        let about = format!("{} in the last hour", counted(row.done_each_minute.iter().sum(), "item"));
        let title = format!("{} done, last hour", row.name);
        (!row.done_each_minute.is_empty()).then(|| Chart::small(&title, about, &row.done_each_minute))
    }
}

pub(super) fn opening(needs: usize) -> String {
    match needs {
        0 => "Nothing needs you".to_owned(),
        1 => "One thing needs you".to_owned(),
        _ => format!("{} need you", begun(needs, "thing")),
    }
}

pub(super) fn otherwise(glance: &Glance, is_calm: bool) -> String {
    let (done, during) = lately(&glance.history.total, glance.overview.now, |figures| figures.done);
    let all = if is_calm { "Everything" } else { "Everything else" };
    let due = glance.overview.oldest_pending_ms.iter();
    let oldest = due.filter(|(name, _)| is_serving(glance, name)).map(|(_, ms)| ms).max();
    let claimed = of_status(glance, Status::Claimed);
    let moving = match (done, of_status(glance, Status::Pending)) {
        (0, 0) if claimed > 0 => format!("{} being handled.", counted(claimed, "item")),
        (0, 0) => format!("{all} is done."),
        (0, waiting) => format!("{} in the queue.", counted(waiting, "item")),
        _ => format!("{all} is moving: {} done.", rate(done, during)),
    };
    match oldest {
        Some(ms) if *ms >= 1_000 => format!("{moving} The oldest that is due waits {}.", span_ms(*ms)),
        _ => moving,
    }
}

fn of_status(glance: &Glance, status: Status) -> u64 {
    glance.overview.by_status.get(status.as_str()).copied().unwrap_or(0)
}

pub(super) fn flow(glance: &Glance) -> Flow {
    let (overview, total) = (&glance.overview, &glance.history.total);
    let rate_of = |figure: fn(&HistoryFigures) -> u64| {
        let (number, during) = lately(total, overview.now, figure);
        rate(number, during)
    };
    Flow {
        waiting: count(of_status(glance, Status::Pending)),
        oldest: overview.oldest_enqueued_ms.values().max().map_or("–".to_owned(), |ms| span_ms(*ms)),
        retrying: count(overview.retrying.values().sum()),
        claimed: count(of_status(glance, Status::Claimed)),
        done_rate: rate_of(|figures| figures.done),
        done: short_count(of_status(glance, Status::Done)),
        retry_rate: rate_of(|figures| figures.failed.saturating_sub(figures.dead) + figures.given_back),
        dead: count(of_status(glance, Status::Dlq)),
        dead_lately: count(total.sum.dead),
        p95: lasted(total.sum.p95_ms),
    }
}

fn charts(glance: &Glance) -> Charts {
    let hour = HourFigures::of(glance);
    let done = counted(glance.history.total.sum.done, "item");
    let latencies = [&hour.p50_ms[..], &hour.p95_ms, &hour.p99_ms];
    Charts {
        throughput: Chart::of(
            "Items done in each minute of the last hour",
            format!("{done} in all, at most {} in a minute", hour.most_done),
            &hour.done,
        ),
        latency: Chart::of_several(
            "Time from enqueue to done in each minute of the last hour",
            hour.latency.clone(),
            latencies,
        ),
        most_latency: lasted(latencies.into_iter().flatten().flatten().copied().max()),
        waiting: Chart::of(
            "Items that waited in each minute of the last hour",
            format!("at most {}", hour.most_waiting),
            &hour.waiting,
        ),
        retries: Chart::of(
            "Items due for another attempt in each of the next 60 minutes",
            hour.due.clone(),
            &hour.retries,
        ),
        hour,
    }
}
