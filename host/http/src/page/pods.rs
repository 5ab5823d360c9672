//! The processes that have the store open, and the plugins that they run, in short.

use std::collections::BTreeMap;

use outbox_core::{PluginState, PluginStatus};
use outbox_store::{Overview, Pod};

use crate::page::words::{Ago, short_digest};

/// A plugin, as the live pods run it.
pub(super) struct PluginRow {
    pub(super) name: String,
    pub(super) class: &'static str,
    pub(super) state: String,
    pub(super) digest: String,
    pub(super) pods: usize,
}

/// A process.
pub(super) struct PodRow {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) class: &'static str,
    pub(super) state: &'static str,
    pub(super) seen: Ago,
}

/// The plugins of live pods: one row for each version and state.
pub(super) fn plugin_rows(overview: &Overview) -> Vec<PluginRow> {
    let mut rows: BTreeMap<(&str, Option<&str>, &str), (&PluginStatus, usize)> = BTreeMap::new();
    for plugin in overview.live_pods().flat_map(|pod| &pod.plugins) {
        let key = (plugin.name.as_str(), plugin.digest.as_deref(), plugin.state.as_str());
        rows.entry(key).or_insert((plugin, 0)).1 += 1;
    }
    rows.into_values().map(|(plugin, pods)| plugin_row(plugin, pods)).collect()
}

fn plugin_row(plugin: &PluginStatus, pods: usize) -> PluginRow {
    let (class, state) = plugin_state(plugin);
    PluginRow {
        name: plugin.name.clone(),
        class,
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
            class,
            state,
            seen: Ago::of(pod.heartbeat_at, overview.now),
        }
    };
    overview.pods.iter().map(row).collect()
}
