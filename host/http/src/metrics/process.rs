//! The metrics of this process, from its status. They ask no store.

use std::collections::BTreeMap;

use outbox_core::{BreakerStatus, PluginState};

use crate::metrics::catalog;
use crate::metrics::exposition::Exposition;
use crate::metrics::label_values::{OTHER, OTHERS_MAX};
use crate::state::HostStatus;

/// Adds the metrics of this process.
pub(super) fn add(exposition: &mut Exposition, status: &HostStatus) {
    exposition.metric(catalog::BUILD_INFO).add([env!("CARGO_PKG_VERSION")], 1);
    let attempts = exposition.metric(catalog::ATTEMPT_SECONDS);
    for ((item_type, outcome), durations) in &status.durations {
        attempts.durations([item_type, outcome], durations);
    }
    exposition.metric(catalog::ATTEMPTS_RUNNING).add([], status.attempts_running);
    exposition.metric(catalog::ATTEMPTS_LIMIT).add([], status.attempts_limit);
    breakers(exposition, &status.breakers);
    exposition.metric(catalog::LOG_LINES_DROPPED).add([], status.dropped_log_lines);
    plugins(exposition, status);
}

/// The origins of receivers can be any number where a manifest grants all names of a domain.
fn breakers(exposition: &mut Exposition, breakers: &[BreakerStatus]) {
    let metric = exposition.metric(catalog::BREAKER);
    for (index, breaker) in breakers.iter().enumerate() {
        let state = breaker.state.as_str();
        if index < OTHERS_MAX {
            metric.add([&breaker.subject(), &breaker.types.join(","), state], 1);
        } else {
            metric.add([OTHER, OTHER, state], 1);
        }
    }
}

fn plugins(exposition: &mut Exposition, status: &HostStatus) {
    let info = exposition.metric(catalog::PLUGIN_INFO);
    for plugin in &status.plugins {
        let (version, digest) = (plugin.version.as_deref(), plugin.digest.as_deref());
        info.add([&plugin.name, version.unwrap_or_default(), digest.unwrap_or_default(), plugin.state.as_str()], 1);
    }
    let live = exposition.metric(catalog::PLUGIN_GENERATION);
    for plugin in status.plugins.iter().filter(|plugin| plugin.state == PluginState::Active) {
        if let Some(generation) = plugin.generation {
            live.add([&plugin.name], generation);
        }
    }
    let mut errors: BTreeMap<&str, bool> = BTreeMap::new();
    for plugin in &status.plugins {
        *errors.entry(&plugin.name).or_default() |= plugin.error.is_some() || !plugin.refused.is_empty();
    }
    let error = exposition.metric(catalog::PLUGIN_ERROR);
    for (name, has_error) in errors {
        error.add([name], u64::from(has_error));
    }
}
