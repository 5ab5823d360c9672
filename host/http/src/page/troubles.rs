//! What keeps plugins from running as their files say: what several processes tell alike, told once.

use outbox_core::{PluginState, PluginStatus};
use outbox_store::Overview;

/// The most processes that are named.
const NAMED: usize = 3;

/// Why a plugin does not run as its file says.
pub(super) struct Trouble<'a> {
    /// The plugin, as the first of the processes reports it; its version in quarantine, where one is.
    pub(super) plugin: &'a PluginStatus,
    /// Why.
    pub(super) text: String,
    /// The processes.
    pub(super) pods: Vec<&'a str>,
}

impl<'a> Trouble<'a> {
    /// Adds what a process reports alike. Of a rollback, a process reports the version that runs and the one in
    /// quarantine.
    fn add(&mut self, pod: &'a str, plugin: &'a PluginStatus) {
        if self.pods.last() != Some(&pod) {
            self.pods.push(pod);
        }
        if plugin.state == PluginState::Quarantined {
            self.plugin = plugin;
        }
    }

    /// Where it is: `pod-1`, or `4 processes: pod-1, pod-2, pod-3 and others`.
    pub(super) fn places(&self) -> String {
        let named = self.pods[..self.pods.len().min(NAMED)].join(", ");
        let others = if self.pods.len() > NAMED { " and others" } else { "" };
        match self.pods.len() {
            1 => named,
            pods => format!("{pods} processes: {named}{others}"),
        }
    }

    /// The same in few words, where it is more than one: ` in 4 processes`.
    pub(super) fn extent(&self) -> String {
        match self.pods.len() {
            1 => String::new(),
            pods => format!(" in {pods} processes"),
        }
    }
}

/// The troubles of processes that report, in the order of the processes.
pub(super) fn troubles(overview: &Overview) -> Vec<Trouble<'_>> {
    let mut troubles: Vec<Trouble<'_>> = Vec::new();
    for pod in overview.reporting_pods() {
        for plugin in &pod.plugins {
            let Some(text) = plugin.trouble() else { continue };
            match troubles.iter_mut().find(|known| known.text == text && is_alike(known.plugin, plugin)) {
                Some(known) => known.add(&pod.instance, plugin),
                None => troubles.push(Trouble { plugin, text, pods: vec![&pod.instance] }),
            }
        }
    }
    troubles
}

/// Whether the same is said of both.
fn is_alike(one: &PluginStatus, other: &PluginStatus) -> bool {
    let about = |plugin: &PluginStatus| (plugin.digest.is_some(), plugin.error.is_some());
    one.name == other.name && one.role == other.role && about(one) == about(other)
}
