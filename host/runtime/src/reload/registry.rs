//! Who handles which type: the one table that attempts are routed by, and that is swapped whole.
//!
//! A type has one owner: a plugin of the role's folder before one of the root's, then the first by
//! file name. The others are told why they do not have it, and get it when the owner goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::load::loader::Generation;
use crate::reload::canary::CanaryState;
use crate::reload::versions::{PluginVersions, quarantine_message};
use crate::sandbox::failure_mapping;
use outbox_core::{AttemptReport, Failure, FailureClass, Outcome, RetryPolicy, ServedType};

/// Where a plugin lies; the order is that of ownership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PluginPath {
    /// Plugins of a role (`false`) come before those of the root.
    pub is_root: bool,
    /// The component's path.
    pub file: PathBuf,
}

/// One plugin, or one old generation of one, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PluginStatus {
    /// The file stem.
    pub name: String,
    /// The role whose folder it lies in.
    pub role: Option<String>,
    /// The component's path.
    pub file: PathBuf,
    /// Which of the versions that this process has loaded; none before the first.
    pub generation: Option<u64>,
    /// Whether it serves items.
    pub state: PluginState,
    /// The SHA-256 of the component that runs.
    pub digest: Option<String>,
    /// The types whose items it is given.
    pub types: Vec<String>,
    /// The version that the component gives itself.
    pub version: Option<String>,
    /// Why the file as it is now is not what runs.
    pub error: Option<String>,
    /// The types that it handles and is not given.
    pub refused: Vec<RefusedType>,
}

/// Whether a plugin serves items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// It is given items.
    Active,
    /// It finishes the attempts that it had begun when it was replaced or removed.
    Draining,
    /// It is given none: it could not be loaded, or every type of it has another owner.
    Failed,
    /// Its component was quarantined because it kept failing.
    Quarantined,
}

/// A type that a plugin handles and is not given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedType {
    /// The type.
    pub r#type: String,
    /// Why not.
    pub reason: String,
}

#[derive(Default)]
struct RoutingTable {
    routes: BTreeMap<String, Arc<Generation>>,
    served_types: Vec<ServedType>,
    status: Vec<PluginStatus>,
}

/// The published table, and what is left of those before.
pub(crate) struct Registry {
    table: ArcSwap<RoutingTable>,
    retired: Mutex<Vec<Weak<Generation>>>,
    changes: watch::Sender<u64>,
    canary_ended: Notify,
    is_scanned: AtomicBool,
    retry: RetryPolicy,
}

impl Registry {
    /// A registry that serves nothing yet; `retry` fills the gaps of manifests.
    pub(crate) fn new(retry: RetryPolicy) -> Self {
        Self {
            table: ArcSwap::default(),
            retired: Mutex::default(),
            changes: watch::Sender::new(0),
            canary_ended: Notify::new(),
            is_scanned: AtomicBool::new(false),
            retry,
        }
    }

    /// The generation that handles a type.
    pub(crate) fn route(&self, item_type: &str) -> Option<Arc<Generation>> {
        self.table.load().routes.get(item_type).cloned()
    }

    /// What is served.
    pub(crate) fn served_types(&self) -> Vec<ServedType> {
        self.table.load().served_types.clone()
    }

    /// Ticks at every publication.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Says that every file has been looked at once.
    pub(crate) fn finish_scan(&self) {
        self.is_scanned.store(true, Ordering::Release);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Whether every file has been looked at once.
    pub(crate) fn is_scanned(&self) -> bool {
        self.is_scanned.load(Ordering::Acquire)
    }

    /// Takes into account how an attempt at the item with this key ended: a fault during a canary is released
    /// uncounted.
    pub(crate) fn record_attempt(
        &self,
        generation: &Generation,
        key: &str,
        mut report: AttemptReport,
    ) -> AttemptReport {
        let is_fault = match &report.outcome {
            Outcome::Interrupted | Outcome::NoHandler => return report,
            Outcome::Failed(failure) if failure_mapping::is_component_fault(failure) => true,
            // The host's failures say nothing about the plugin.
            Outcome::Failed(failure) if failure.class == FailureClass::Host => return report,
            Outcome::Done { .. } | Outcome::Failed(_) => false,
        };
        let (before, after) = generation.canary.record_attempt(key, is_fault, Instant::now());
        if before != after {
            self.canary_ended.notify_one();
        }
        if let Outcome::Failed(failure) = &mut report.outcome
            && is_fault
            && before != CanaryState::Passed
        {
            *failure = uncounted_canary_failure(failure, generation);
        }
        report
    }

    /// Resolves when a canary has ended since the last time.
    pub(crate) async fn canary_ended(&self) {
        self.canary_ended.notified().await;
    }

    /// Every file in the folder, and every old generation that has not finished.
    pub(crate) fn status(&self) -> Vec<PluginStatus> {
        let mut status = self.table.load().status.clone();
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|old| old.strong_count() > 0);
        let listed: Vec<_> = status.iter().filter_map(|status| status.generation).collect();
        let draining = retired.iter().filter_map(Weak::upgrade);
        let draining = draining.filter(|old| old.is_busy() && !listed.contains(&old.number));
        status.extend(draining.map(|old| status_of(&old, PluginState::Draining)));
        status
    }

    /// Remembers a generation that gets no new items, until its last attempt has ended.
    pub(crate) fn retire(&self, old: &Arc<Generation>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(old)));
        retired.push(Arc::downgrade(old));
    }

    /// Replaces the table by the one that follows from what is known.
    pub(crate) fn publish<'a>(&self, files: impl Iterator<Item = (&'a PluginPath, &'a PluginVersions)>) {
        let mut table = RoutingTable::default();
        for (path, versions) in files {
            let status = table.add(path, versions, self.retry);
            table.status.extend(status);
        }
        self.table.store(Arc::new(table));
        self.changes.send_modify(|count| *count += 1);
    }
}

impl RoutingTable {
    /// Gives a file's live generation the types that are free. Answers how the file is listed.
    fn add(&mut self, path: &PluginPath, versions: &PluginVersions, retry: RetryPolicy) -> Vec<PluginStatus> {
        let quarantined = versions.quarantined.as_ref().map(|(entry, generation)| PluginStatus {
            generation: *generation,
            state: PluginState::Quarantined,
            digest: Some(entry.digest.clone()),
            error: Some(quarantine_message(entry)),
            ..status_of_unloaded(path, versions)
        });
        let live = versions.live.as_ref().map(|live| PluginStatus {
            error: versions.error.as_ref().map(ToString::to_string),
            ..self.assign_types(live, retry)
        });
        let listed: Vec<_> = live.into_iter().chain(quarantined).collect();
        if listed.is_empty() { vec![status_of_unloaded(path, versions)] } else { listed }
    }

    fn assign_types(&mut self, live: &Arc<Generation>, retry: RetryPolicy) -> PluginStatus {
        let mut status = PluginStatus { types: Vec::new(), ..status_of(live, PluginState::Active) };
        for item_type in &live.types {
            if let Some(owner) = self.routes.get(item_type) {
                status.refused.push(refused(item_type, owner));
                continue;
            }
            self.routes.insert(item_type.clone(), Arc::clone(live));
            self.served_types.push(served_type(item_type, live, retry));
            status.types.push(item_type.clone());
        }
        if status.types.is_empty() {
            status.state = PluginState::Failed;
        }
        status
    }
}

/// The same failure as one of the plugin, which the item does not pay for.
fn uncounted_canary_failure(failure: &Failure, generation: &Generation) -> Failure {
    let words = format!("generation {} is on probation and faulted ({}): ", generation.number, failure.class);
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
        on_dead: manifest.on_dead,
        breaker: manifest.breaker,
    }
}

fn refused(item_type: &str, owner: &Generation) -> RefusedType {
    let reason = format!("{} handles it", owner.file.display());
    RefusedType { r#type: item_type.to_owned(), reason }
}

fn status_of(generation: &Generation, state: PluginState) -> PluginStatus {
    PluginStatus {
        name: generation.name.clone(),
        role: generation.role.clone(),
        file: generation.file.clone(),
        generation: Some(generation.number),
        state,
        digest: Some(generation.digest.clone()),
        types: generation.types.clone(),
        version: Some(generation.version.clone()),
        error: None,
        refused: Vec::new(),
    }
}

fn status_of_unloaded(path: &PluginPath, versions: &PluginVersions) -> PluginStatus {
    let name = |path: &std::path::Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    PluginStatus {
        name: path.file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        role: path.file.parent().filter(|_| !path.is_root).and_then(name),
        file: path.file.clone(),
        generation: None,
        state: PluginState::Failed,
        digest: None,
        types: Vec::new(),
        version: None,
        error: versions.error.as_ref().map(ToString::to_string),
        refused: Vec::new(),
    }
}
