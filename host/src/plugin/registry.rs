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

use super::lineage::{Lineage, quarantined};
use super::load::Generation;
use super::trial::Standing;
use super::verdict;
use crate::handler::{Outcome, Report, Service};
use crate::item::{Class, Failure};
use crate::retry::RetryPolicy;

/// Where a plugin lies; the order is that of ownership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
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
    /// Its component was withdrawn because it kept failing.
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
struct Table {
    routes: BTreeMap<String, Arc<Generation>>,
    services: Vec<Service>,
    status: Vec<PluginStatus>,
}

/// The published table, and what is left of those before.
pub(super) struct Registry {
    table: ArcSwap<Table>,
    retired: Mutex<Vec<Weak<Generation>>>,
    changes: watch::Sender<u64>,
    verdict: Notify,
    is_scanned: AtomicBool,
    retry: RetryPolicy,
}

impl Registry {
    /// A registry that serves nothing yet; `retry` fills the gaps of manifests.
    pub(super) fn new(retry: RetryPolicy) -> Self {
        Self {
            table: ArcSwap::default(),
            retired: Mutex::default(),
            changes: watch::Sender::new(0),
            verdict: Notify::new(),
            is_scanned: AtomicBool::new(false),
            retry,
        }
    }

    /// The generation that handles a type.
    pub(super) fn route(&self, item_type: &str) -> Option<Arc<Generation>> {
        self.table.load().routes.get(item_type).cloned()
    }

    /// What is served.
    pub(super) fn services(&self) -> Vec<Service> {
        self.table.load().services.clone()
    }

    /// Ticks at every publication.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Says that every file has been looked at once.
    pub(super) fn finish_scan(&self) {
        self.is_scanned.store(true, Ordering::Release);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Whether every file has been looked at once.
    pub(super) fn is_scanned(&self) -> bool {
        self.is_scanned.load(Ordering::Acquire)
    }

    /// Takes into account how an attempt at the item with this key ended: a fault of a generation on probation is given back.
    pub(super) fn settle(&self, generation: &Generation, key: &str, mut report: Report) -> Report {
        let is_fault = match &report.outcome {
            Outcome::Stopped | Outcome::Unserved => return report,
            Outcome::Failed(failure) if verdict::is_fault(failure) => true,
            // The host's failures say nothing about the plugin.
            Outcome::Failed(failure) if failure.class == Class::Host => return report,
            Outcome::Done { .. } | Outcome::Failed(_) => false,
        };
        let (before, after) = generation.trial.settle(key, is_fault, Instant::now());
        if before != after {
            self.verdict.notify_one();
        }
        if let Outcome::Failed(failure) = &mut report.outcome
            && is_fault
            && before != Standing::Passed
        {
            *failure = on_probation(failure, generation);
        }
        report
    }

    /// Resolves when a probation has ended since the last time.
    pub(super) async fn verdict(&self) {
        self.verdict.notified().await;
    }

    /// Every file in the folder, and every old generation that has not finished.
    pub(super) fn status(&self) -> Vec<PluginStatus> {
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
    pub(super) fn retire(&self, old: &Arc<Generation>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(old)));
        retired.push(Arc::downgrade(old));
    }

    /// Replaces the table by the one that follows from what is known.
    pub(super) fn publish<'a>(&self, lineages: impl Iterator<Item = (&'a Place, &'a Lineage)>) {
        let mut table = Table::default();
        for (place, lineage) in lineages {
            let status = table.admit(place, lineage, self.retry);
            table.status.extend(status);
        }
        self.table.store(Arc::new(table));
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Table {
    /// Gives a file's live generation the types that are free. Answers how the file is listed.
    fn admit(&mut self, place: &Place, lineage: &Lineage, retry: RetryPolicy) -> Vec<PluginStatus> {
        let withdrawn = lineage.withdrawn.as_ref().map(|(withdrawal, generation)| PluginStatus {
            generation: *generation,
            state: PluginState::Quarantined,
            digest: Some(withdrawal.digest.clone()),
            error: Some(quarantined(withdrawal)),
            ..unloaded(place, lineage)
        });
        let live = lineage.live.as_ref().map(|live| PluginStatus {
            error: lineage.error.as_ref().map(ToString::to_string),
            ..self.serve(live, retry)
        });
        let listed: Vec<_> = live.into_iter().chain(withdrawn).collect();
        if listed.is_empty() { vec![unloaded(place, lineage)] } else { listed }
    }

    fn serve(&mut self, live: &Arc<Generation>, retry: RetryPolicy) -> PluginStatus {
        let mut status = PluginStatus { types: Vec::new(), ..status_of(live, PluginState::Active) };
        for item_type in &live.types {
            if let Some(owner) = self.routes.get(item_type) {
                status.refused.push(refused(item_type, owner));
                continue;
            }
            self.routes.insert(item_type.clone(), Arc::clone(live));
            self.services.push(service(item_type, live, retry));
            status.types.push(item_type.clone());
        }
        if status.types.is_empty() {
            status.state = PluginState::Failed;
        }
        status
    }
}

/// The same failure as one of the plugin, which the item does not pay for.
fn on_probation(failure: &Failure, generation: &Generation) -> Failure {
    let words = format!("generation {} is on probation and faulted ({}): ", generation.number, failure.class);
    Failure { class: Class::Plugin, message: words + &failure.message, ..failure.clone() }
}

fn service(item_type: &str, generation: &Generation, retry: RetryPolicy) -> Service {
    let manifest = &generation.manifest;
    Service {
        item_type: item_type.to_owned(),
        timeout: manifest.timeout,
        retry: manifest.retry.over(retry),
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

fn unloaded(place: &Place, lineage: &Lineage) -> PluginStatus {
    let name = |path: &std::path::Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    PluginStatus {
        name: place.file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        role: place.file.parent().filter(|_| !place.is_root).and_then(name),
        file: place.file.clone(),
        generation: None,
        state: PluginState::Failed,
        digest: None,
        types: Vec::new(),
        version: None,
        error: lineage.error.as_ref().map(ToString::to_string),
        refused: Vec::new(),
    }
}
