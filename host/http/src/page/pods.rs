//! The processes that have the store open, and the plugins that they run, in short.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use outbox_core::{PluginState, PluginStatus};
use outbox_store::{Overview, Pod};

use crate::page::needs::Since;
use crate::page::words::short_digest;

/// A plugin, as the live pods run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginRow {
    /// Its name.
    pub name: String,
    /// How good its state is: `done`, `run`, `wait`, `bad` or `off`.
    pub class: String,
    /// Whether it gets items, in a word.
    pub state: String,
    /// The first digits of the SHA-256 of its component.
    pub digest: String,
    /// How many processes run it.
    pub pods: u64,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PodRow {
    /// Its name.
    pub name: String,
    /// Its role; empty where it has none.
    pub role: String,
    /// How good its state is: `done`, `wait` or `bad`.
    pub class: String,
    /// Whether it is ready, in a word.
    pub state: String,
    /// When it last reported.
    pub seen: Since,
}

/// The plugins of live pods: one row for each version and state.
pub(super) fn plugin_rows(overview: &Overview) -> Vec<PluginRow> {
    let mut rows: BTreeMap<(&str, Option<&str>, &str), (&PluginStatus, u64)> = BTreeMap::new();
    for plugin in overview.live_pods().flat_map(|pod| &pod.plugins) {
        let key = (plugin.name.as_str(), plugin.digest.as_deref(), plugin.state.as_str());
        rows.entry(key).or_insert((plugin, 0)).1 += 1;
    }
    rows.into_values().map(|(plugin, pods)| plugin_row(plugin, pods)).collect()
}

fn plugin_row(plugin: &PluginStatus, pods: u64) -> PluginRow {
    let (class, state) = plugin_state(plugin);
    PluginRow {
        name: plugin.name.clone(),
        class: class.to_owned(),
        state: state.to_owned(),
        digest: plugin.digest.as_deref().map_or("–".to_owned(), short_digest),
        pods,
    }
}

/// The class and the word of a plugin's state.
pub(super) fn plugin_state(plugin: &PluginStatus) -> (&'static str, &'static str) {
    match plugin.state {
        PluginState::Active if plugin.error.is_some() => ("wait", "active, newest refused"),
        PluginState::Active => ("done", "active"),
        PluginState::Draining => ("off", "finishing"),
        PluginState::Loading => ("run", "loading"),
        PluginState::Failed => ("bad", "not loaded"),
        PluginState::Quarantined => ("bad", "quarantined"),
        PluginState::Unknown => ("off", "unknown"),
    }
}

/// The processes of the last minutes, by name.
pub(super) fn pod_rows(overview: &Overview) -> Vec<PodRow> {
    let row = |pod: &Pod| {
        let (class, state) = match (pod.is_silent(overview.now), pod.ready) {
            (true, _) => ("bad", "silent"),
            (false, true) => ("done", "ready"),
            (false, false) => ("wait", "not ready"),
        };
        PodRow {
            name: pod.instance.clone(),
            role: pod.role.clone().unwrap_or_default(),
            class: class.to_owned(),
            state: state.to_owned(),
            seen: Since::of(pod.heartbeat_at, overview.now),
        }
    };
    overview.pods.iter().map(row).collect()
}
