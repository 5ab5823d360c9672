//! `plugin rollback`: withdraws the running version of a plugin, so that each host returns to the version before it.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use outbox_core::{PluginState, PluginStatus};
use outbox_store::{Control, Overview};

use crate::cli::arguments::{AuditArgs, execution};
use crate::cli::context::Context;
use crate::cli::requests::send_control;

/// Return to the version of a plugin before the running one
///
/// The running component is quarantined: no host runs it until `outbox plugin release`. The items that it dead-lettered
/// are one group: `outbox replay --status DLQ --handler-digest SHA-256`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The plugin: the name of its file without .wasm
    name: String,
    /// The version to return to, by the beginning of its SHA-256; without it, the one that each host ran before
    digest: Option<String>,
    /// Only say what would be withdrawn
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn run(args: RollbackArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let RollbackArgs { name, digest, dry_run, audit } = args;
    for digest in withdrawn(&store.overview().await?, &name, digest.as_deref())? {
        let control = Control::RollBack { plugin: name.clone(), digest };
        send_control(&*store, control, execution(dry_run), audit.clone(), context).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The running components to withdraw. Errors unless each host that runs the plugin has a version to return to.
fn withdrawn(overview: &Overview, name: &str, target: Option<&str>) -> anyhow::Result<BTreeSet<String>> {
    let plugins = overview.live_pods().flat_map(|pod| &pod.plugins);
    let is_running = |plugin: &&PluginStatus| plugin.name == name && plugin.state == PluginState::Active;
    let running: Vec<_> = plugins.filter(is_running).collect();
    if running.is_empty() {
        bail!("no running host runs a plugin {name:?}: outbox plugin list shows those that run");
    }
    let mut digests = BTreeSet::new();
    for PluginStatus { digest, previous, .. } in running {
        match (previous, target) {
            (None, _) => bail!(
                "a host knows no version of {name} before the running one: put the earlier file into its folder, or pause \
                 the types of the plugin"
            ),
            (Some(previous), Some(target)) if !previous.starts_with(target) => {
                bail!("a host can return to {previous} only, which does not begin with {target:?}")
            }
            _ => digests.extend(digest.clone()),
        }
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outbox_item::Millis;
    use outbox_store::Pod;

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
        let told = |previous, name, target| withdrawn(&overview(previous), name, target).map_err(|err| err.to_string());
        assert_eq!(told(Some("cd12"), "webhook", None), Ok(BTreeSet::from(["ab".to_owned()])));
        assert_eq!(told(Some("cd12"), "webhook", Some("cd")), Ok(BTreeSet::from(["ab".to_owned()])));
        assert!(told(Some("cd12"), "webhook", Some("ef")).unwrap_err().contains("return to cd12 only"));
        assert!(told(None, "webhook", None).unwrap_err().contains("pause the types"));
        assert!(told(Some("cd12"), "mail", None).unwrap_err().contains("plugin list"));
    }
}
