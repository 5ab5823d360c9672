//! Which components a rollback withdraws: those that run and have a version to return to.
//!
//! Decides from what the processes report; it withdraws nothing.

use std::collections::BTreeSet;

use outbox_core::{PluginState, PluginStatus};

use crate::overview::Overview;

/// Why a plugin cannot be rolled back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotRollBack {
    /// No live process runs it.
    #[error("no running host runs a plugin {0:?}: outbox plugin list shows those that run")]
    NotRunning(String),
    /// A process has nothing to return to.
    #[error(
        "a host knows no version of {0} before the running one: put the earlier file into its folder, or pause the types \
         of the plugin"
    )]
    NoEarlier(String),
    /// A process would return to another version than the wanted one.
    #[error("a host can return to {previous} only, which does not begin with {wanted:?}")]
    Other {
        /// The version that it would return to.
        previous: String,
        /// How the wanted version begins.
        wanted: String,
    },
}

impl Overview {
    /// The running components to withdraw, so that each live process returns to the version before. `target` is how that
    /// version begins; `None` takes whichever it is.
    pub fn withdrawn(&self, name: &str, target: Option<&str>) -> Result<BTreeSet<String>, CannotRollBack> {
        let plugins = self.live_pods().flat_map(|pod| &pod.plugins);
        let is_running = |plugin: &&PluginStatus| plugin.name == name && plugin.state == PluginState::Active;
        let running: Vec<_> = plugins.filter(is_running).collect();
        if running.is_empty() {
            return Err(CannotRollBack::NotRunning(name.to_owned()));
        }
        let mut digests = BTreeSet::new();
        for PluginStatus { digest, previous, .. } in running {
            let previous = previous.as_ref().ok_or_else(|| CannotRollBack::NoEarlier(name.to_owned()))?;
            if let Some(wanted) = target.filter(|wanted| !previous.starts_with(wanted)) {
                return Err(CannotRollBack::Other { previous: previous.clone(), wanted: wanted.to_owned() });
            }
            digests.extend(digest.clone());
        }
        Ok(digests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outbox_item::Millis;

    use crate::pods::Pod;

    fn overview(previous: Option<&str>) -> Overview {
        let plugin = PluginStatus {
            name: "webhook".into(),
            digest: Some("ab".into()),
            previous: previous.map(Into::into),
            state: PluginState::Active,
            ..PluginStatus::default()
        };
        let pod = Pod {
            instance: "a".into(),
            role: None,
            ready: true,
            heartbeat_at: Millis::new(99_000),
            plugins: vec![plugin],
            breakers: Vec::new(),
        };
        Overview { now: Millis::new(100_000), pods: vec![pod], ..Overview::default() }
    }

    #[test]
    fn what_runs_is_withdrawn_where_something_was_before() {
        let told = |previous, name, target| overview(previous).withdrawn(name, target).map_err(|err| err.to_string());
        assert_eq!(told(Some("cd12"), "webhook", None), Ok(BTreeSet::from(["ab".to_owned()])));
        assert_eq!(told(Some("cd12"), "webhook", Some("cd")), Ok(BTreeSet::from(["ab".to_owned()])));
        assert!(told(Some("cd12"), "webhook", Some("ef")).unwrap_err().contains("return to cd12 only"));
        assert!(told(None, "webhook", None).unwrap_err().contains("pause the types"));
        assert!(told(Some("cd12"), "mail", None).unwrap_err().contains("plugin list"));
    }
}
