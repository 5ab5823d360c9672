//! Routes each type to the plugin that handles it, and reports the status of all plugins.
//!
//! One plugin owns a type, as the store says. A type without an owner goes to a plugin of the role's folder before one of
//! the root, then to the first file name. The status of the others names the owner. The routing table is replaced as a
//! whole. It does not load anything and does not decide about rollbacks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use outbox_core::{
    AttemptReport, BreakerMode, Failure, FailureClass, KeyLimits, Outcome, PluginState, PluginStatus, RefusedType,
    RetryPolicy, STREAK_DEFAULT, ServedType,
};

use crate::load::loader::Generation;
use crate::load::source::PluginPath;
use crate::reload::canary::CanaryState;
use crate::reload::conduct::CanarySample;
use crate::reload::owner_cache::Owners;
use crate::reload::versions::{PluginVersions, quarantine_message};
use crate::sandbox::failure_mapping;

#[derive(Default)]
struct RoutingTable {
    routes: BTreeMap<String, Arc<Generation>>,
    served_types: Vec<ServedType>,
    status: Vec<PluginStatus>,
}

/// The published routing table, and the old generations that still finish attempts.
pub(crate) struct Routing {
    table: ArcSwap<RoutingTable>,
    retired: Mutex<Vec<Weak<Generation>>>,
    changes: watch::Sender<u64>,
    canary_ended: Notify,
    is_scanned: AtomicBool,
    retry: RetryPolicy,
    breaker: BreakerMode,
}

impl Routing {
    /// The routing of no plugins. `retry` and `breaker` are the host's policies, which manifests override.
    pub(crate) fn new(retry: RetryPolicy, breaker: BreakerMode) -> Self {
        Self {
            table: ArcSwap::default(),
            retired: Mutex::default(),
            changes: watch::Sender::new(0),
            canary_ended: Notify::new(),
            is_scanned: AtomicBool::new(false),
            retry,
            breaker,
        }
    }

    /// Whether the requests of the generation go through the breakers of their origins.
    pub(crate) fn uses_breakers(&self, generation: &Generation) -> bool {
        let manifest = &generation.manifest;
        self.breaker.applies(manifest.retry.max_retries.is_some(), manifest.breaker.is_some())
    }

    /// The generation that handles a type.
    pub(crate) fn route(&self, item_type: &str) -> Option<Arc<Generation>> {
        self.table.load().routes.get(item_type).cloned()
    }

    /// The types that have an owner.
    pub(crate) fn served_types(&self) -> Vec<ServedType> {
        self.table.load().served_types.clone()
    }

    /// Changes at every publication.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Marks the first scan as finished.
    pub(crate) fn finish_scan(&self) {
        self.is_scanned.store(true, Ordering::Release);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Whether the first scan has finished.
    pub(crate) fn is_scanned(&self) -> bool {
        self.is_scanned.load(Ordering::Acquire)
    }

    /// Counts an attempt for the generation's canary. `key` is the idempotency key of the item. Returns the report; a
    /// fault during a canary becomes one whose attempt does not count.
    pub(crate) fn record_attempt(
        &self,
        generation: &Generation,
        key: &str,
        mut report: AttemptReport,
    ) -> AttemptReport {
        let Some(sample) = canary_sample(&report.outcome) else { return report };
        if let Outcome::Failed(failure) = &report.outcome {
            generation.canary.remember_failure(key, sample, &failure.code);
        }
        let (before, after) = generation.canary.record_attempt(key, sample, Instant::now());
        let is_hopeless = generation.conduct.record(key, sample) && generation.is_first;
        if is_hopeless {
            generation.is_hopeless.store(true, Ordering::Relaxed);
        }
        if before != after || is_hopeless {
            self.canary_ended.notify_one();
        }
        if let Outcome::Failed(failure) = &mut report.outcome
            && is_given_back(sample, before, after)
        {
            *failure = uncounted_canary_failure(failure, generation);
        }
        report
    }

    /// Resolves when a canary has ended since the last call.
    pub(crate) async fn canary_ended(&self) {
        self.canary_ended.notified().await;
    }

    /// The status of every file in the folder, and of every old generation that still finishes attempts.
    pub(crate) fn status(&self) -> Vec<PluginStatus> {
        let table = self.table.load();
        let mut status = table.status.clone();
        table.add_runs(&mut status);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|old| old.strong_count() > 0);
        let listed: Vec<_> = status.iter().filter_map(|status| status.generation).collect();
        let draining = retired.iter().filter_map(Weak::upgrade);
        let draining = draining.filter(|old| old.is_busy() && !listed.contains(&old.number));
        status.extend(draining.map(|old| status_of(&old, PluginState::Draining)));
        status
    }

    /// Lists a generation as draining until its last attempt has ended. It gets no new items.
    pub(crate) fn retire(&self, old: &Arc<Generation>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(old)));
        retired.push(Arc::downgrade(old));
    }

    /// Replaces the routing table by the one that follows from these files and owners.
    pub(crate) fn publish<'a>(
        &self,
        files: impl Iterator<Item = (&'a PluginPath, &'a PluginVersions)>,
        owners: &Owners,
    ) {
        let mut table = RoutingTable::default();
        for (path, versions) in files {
            let status = table.add(path, versions, self.retry, owners);
            table.status.extend(status);
        }
        for (plugin, refused) in newly_refused(&self.table.load().status, &table.status) {
            let RefusedType { r#type, reason } = refused;
            tracing::warn!(plugin.name = plugin, item.r#type = r#type, %reason, "a plugin does not get a type");
        }
        self.table.store(Arc::new(table));
        self.changes.send_modify(|count| *count += 1);
    }
}

impl RoutingTable {
    /// Gives a file's live generation the types that it owns and those without an owner. Returns the status of the file.
    fn add(
        &mut self,
        path: &PluginPath,
        versions: &PluginVersions,
        retry: RetryPolicy,
        owners: &Owners,
    ) -> Vec<PluginStatus> {
        let quarantined = versions.quarantined.as_ref().map(|(entry, generation)| PluginStatus {
            generation: *generation,
            state: PluginState::Quarantined,
            digest: Some(entry.digest.to_string()),
            error: Some(quarantine_message(entry)),
            ..status_of_unloaded(path, versions)
        });
        let name = path.owner_name();
        let assigned = versions.live.as_ref().map(|live| self.assign_types(&name, live, retry, owners));
        let live = assigned.map(|assigned| PluginStatus {
            error: versions.error.as_ref().map(ToString::to_string).or(assigned.error),
            ..assigned
        });
        let previous = versions.previous().map(ToString::to_string);
        let live = live.map(|live| PluginStatus { previous, ..live });
        let listed: Vec<_> = live.into_iter().chain(quarantined).collect();
        if listed.is_empty() { vec![status_of_unloaded(path, versions)] } else { listed }
    }

    /// Says what the attempts of the generations that get items came to by now.
    fn add_runs(&self, status: &mut [PluginStatus]) {
        let runs: BTreeMap<u64, _> = self.routes.values().map(|live| (live.number, live.runs())).collect();
        for plugin in status {
            plugin.runs = plugin.generation.and_then(|number| runs.get(&number)).copied().unwrap_or(plugin.runs);
        }
    }

    fn assign_types(
        &mut self,
        name: &str,
        live: &Arc<Generation>,
        retry: RetryPolicy,
        owners: &Owners,
    ) -> PluginStatus {
        let mut status = PluginStatus { types: Vec::new(), ..status_of(live, PluginState::Active) };
        for item_type in &live.types {
            let owned =
                owners.get(item_type).filter(|owner| *owner != name).map(|owner| owned_by(owner, item_type, name));
            let handled = || self.routes.get(item_type).map(|owner| format!("{} handles it", owner.file.display()));
            if let Some(reason) = owned.or_else(handled) {
                status.refused.push(RefusedType { r#type: item_type.clone(), reason });
                continue;
            }
            self.routes.insert(item_type.clone(), Arc::clone(live));
            self.served_types.push(served_type(item_type, live, retry));
            status.types.push(item_type.clone());
        }
        if status.types.is_empty() {
            status.state = PluginState::Failed;
            let owned = |refused: &RefusedType| format!("{}: {}", refused.r#type, refused.reason);
            let owned: Vec<_> = status.refused.iter().map(owned).collect();
            status.error = Some(format!("other plugins own all of its types ({})", owned.join(", ")));
        }
        status
    }
}

/// The types that a plugin does not get now and that were not refused for the same reason before, with its name.
fn newly_refused<'a>(before: &[PluginStatus], now: &'a [PluginStatus]) -> Vec<(&'a str, &'a RefusedType)> {
    let is_known = |file: &Path, refused: &RefusedType| {
        before.iter().any(|known| known.file == file && known.refused.contains(refused))
    };
    let new = |status: &'a PluginStatus| {
        let refused = status.refused.iter().filter(|refused| !is_known(&status.file, refused));
        refused.map(|refused| (status.name.as_str(), refused))
    };
    now.iter().flat_map(new).collect()
}

/// What an outcome says about the version; `None` if it says nothing.
fn canary_sample(outcome: &Outcome) -> Option<CanarySample> {
    match outcome {
        Outcome::Interrupted | Outcome::NoHandler => None,
        Outcome::Failed(failure) if failure_mapping::is_component_fault(failure) => Some(CanarySample::Fault),
        // A deferred one waits for a receiver that is down, whichever version asks it.
        Outcome::Failed(failure) if matches!(failure.class, FailureClass::Host | FailureClass::Deferred) => None,
        Outcome::Failed(failure) if failure.class.skips_retries() => Some(CanarySample::Permanent),
        Outcome::Failed(failure) if failure.class.is_uncounted() => Some(CanarySample::Fine),
        Outcome::Failed(_) => Some(CanarySample::Retry),
        Outcome::Done { .. } => Some(CanarySample::Fine),
    }
}

/// Whether the attempt does not count, because the version is at fault: each fault during the canary, and every failure
/// once the canary has failed, until the version before runs.
fn is_given_back(sample: CanarySample, before: CanaryState, after: CanaryState) -> bool {
    match sample {
        CanarySample::Fine => false,
        CanarySample::Fault => before != CanaryState::Passed,
        CanarySample::Permanent | CanarySample::Retry => matches!(after, CanaryState::Failed { .. }),
    }
}

/// The same failure as one of the plugin, which does not count as an attempt at the item.
fn uncounted_canary_failure(failure: &Failure, generation: &Generation) -> Failure {
    let what = if failure_mapping::is_component_fault(failure) { "faulted during" } else { "failed" };
    let words = format!("generation {} {what} its canary ({}): ", generation.number, failure.class);
    Failure { class: FailureClass::Plugin, message: words + &failure.message, ..failure.clone() }
}

fn served_type(item_type: &str, generation: &Generation, retry: RetryPolicy) -> ServedType {
    let manifest = &generation.manifest;
    ServedType {
        item_type: item_type.to_owned(),
        timeout: manifest.timeout,
        retry: manifest.retry.applied_to(retry),
        concurrency: manifest.limits.concurrency,
        rate: manifest.limits.rate,
        per_key: KeyLimits { concurrency: manifest.limits.concurrency_per_key, rate: manifest.limits.rate_per_key },
        on_dead: manifest.on_dead,
        streak: manifest.streak.unwrap_or(STREAK_DEFAULT),
        breaker: manifest.breaker,
    }
}

fn owned_by(owner: &str, item_type: &str, name: &str) -> String {
    format!("{owner} owns it; `outbox plugin switch {item_type} {name}` gives it to this plugin")
}

fn status_of(generation: &Generation, state: PluginState) -> PluginStatus {
    PluginStatus {
        name: generation.name.clone(),
        role: generation.role.clone(),
        file: generation.file.clone(),
        generation: Some(generation.number),
        state,
        digest: Some(generation.digest.to_string()),
        types: generation.types.clone(),
        version: Some(generation.version.clone()),
        runs: generation.runs(),
        grants: generation.manifest.grants.in_words(),
        limits: Some(generation.manifest.limits.in_status()),
        ..PluginStatus::default()
    }
}

fn status_of_unloaded(path: &PluginPath, versions: &PluginVersions) -> PluginStatus {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    PluginStatus {
        name: path.file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        role: path.file.parent().filter(|_| !path.is_root).and_then(name),
        file: path.file.clone(),
        state: if versions.error.is_some() { PluginState::Failed } else { PluginState::Loading },
        error: versions.error.as_ref().map(ToString::to_string),
        ..PluginStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_waits_for_its_receiver_says_nothing_about_the_version() {
        let sample = |class| canary_sample(&Outcome::Failed(Failure::new(class, "upstream.503", "it is down")));
        let samples = [FailureClass::Deferred, FailureClass::Host, FailureClass::Permanent].map(sample);
        assert_eq!(samples, [None, None, Some(CanarySample::Permanent)]);
    }

    #[test]
    fn a_refused_type_is_told_once_for_each_reason() {
        let status = |reasons: &[&str]| {
            let refused = |reason: &&str| RefusedType { r#type: "t".into(), reason: (*reason).to_owned() };
            let path = PluginPath { file: "p.wasm".into(), is_root: true };
            let unloaded = status_of_unloaded(&path, &PluginVersions::default());
            vec![PluginStatus { refused: reasons.iter().map(refused).collect(), ..unloaded }]
        };
        let told = |before: &[&str], now: &[&str]| newly_refused(&status(before), &status(now)).len();
        assert_eq!((told(&[], &["a"]), told(&["a"], &["a"]), told(&["a"], &["b"]), told(&["a"], &[])), (1, 0, 1, 0));
    }
}
