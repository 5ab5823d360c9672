//! The overview in words: whether anything needs a person, and how items flow.
//!
//! `GET /status/cockpit?overview=true` answers it, and a terminal can show it. Its words are those of the page. It is made
//! from one reading of the store. This file knows neither HTML nor requests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use outbox_item::Millis;
use outbox_store::{Inspect, SagaTotals, StoreError};

use crate::answers::Sight;
use crate::description::UnixMillis;
use crate::glance::Glance;
use crate::page::hour::HourFigures;
use crate::page::needs::{Need, needs};
use crate::page::overview::{Flow, flow, opening, otherwise};
use crate::page::pods::{PluginRow, PodRow, plugin_rows, pod_rows};
use crate::page::types::{TypeRow, type_rows};
use crate::page::words::{bytes, count};

/// The overview in words, as the page of the cockpit shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OverviewReport {
    /// When the store was read.
    #[schema(value_type = UnixMillis)]
    pub read_at: Millis,
    /// Whether anything needs a person.
    pub opening: String,
    /// How everything else is.
    pub otherwise: String,
    /// What needs a person, the most urgent first.
    pub needs: Vec<Need>,
    /// How many more there are.
    pub more_needs: u64,
    /// How items flow.
    pub flow: Flow,
    /// The last hour, and the retries of the next.
    pub hour: HourFigures,
    /// The types, by name.
    pub types: Vec<TypeRow>,
    /// How many more there are, which have less to do.
    pub more_types: u64,
    /// The sagas that have begun, by name.
    pub sagas: Vec<SagaRow>,
    /// The plugins of running processes.
    pub plugins: Vec<PluginRow>,
    /// The processes of the last minutes.
    pub pods: Vec<PodRow>,
    /// The size of the database.
    pub database: String,
}

/// A saga: how many runs began and how they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SagaRow {
    /// Its name.
    pub name: String,
    /// Runs that began.
    pub began: String,
    /// Runs that have not ended.
    pub open: String,
    /// Runs that ended with every item DONE.
    pub ended_ok: String,
    /// Runs that ended with a dead item.
    pub ended_err: u64,
}

impl OverviewReport {
    /// Reads the store, for somebody who may see everything.
    pub async fn read(store: &dyn Inspect) -> Result<Self, StoreError> {
        Ok(Self::of(&Glance::read(store, &[]).await?, &Sight::of_everything()))
    }

    /// The overview of this reading, as its reader may see it.
    pub(crate) fn of(glance: &Glance, sight: &Sight) -> Self {
        let (needs, more_needs) = needs(glance, sight);
        let (types, more_types) = type_rows(glance);
        Self {
            read_at: glance.overview.now,
            opening: opening(needs.len() + more_needs),
            otherwise: otherwise(glance, needs.is_empty()),
            needs,
            more_needs: more_needs as u64,
            flow: flow(glance),
            hour: HourFigures::of(glance),
            types,
            more_types: more_types as u64,
            sagas: sagas(glance),
            plugins: plugin_rows(&glance.overview),
            pods: pod_rows(&glance.overview),
            database: bytes(glance.overview.database_bytes),
        }
    }
}

fn sagas(glance: &Glance) -> Vec<SagaRow> {
    let row = |(name, totals): (&String, &SagaTotals)| SagaRow {
        name: name.clone(),
        began: count(totals.began),
        open: count(totals.open()),
        ended_ok: count(totals.ended_ok),
        ended_err: totals.ended_err,
    };
    glance.overview.sagas.iter().filter(|(_, totals)| totals.began > 0).map(row).collect()
}
