//! `plugin list`: lists the plugins of running hosts, or those of the plugin folder when no host runs.

use std::process::ExitCode;

use serde_json::Value;

use outbox_core::{PluginState, PluginStatus};
use outbox_store::{Overview, Pod};

use crate::cli::context::Context;
use crate::cli::output::{or_dash, short, table};
use crate::open_plugins::scan;

/// A plugin, with the process that runs it if one does.
#[derive(Debug, PartialEq)]
struct ListedPlugin {
    status: PluginStatus,
    pod: Option<String>,
}

impl ListedPlugin {
    /// The state in its process. Where none runs it, only whether one would load it is known.
    fn state(&self) -> &'static str {
        match self.status.state {
            PluginState::Active if self.pod.is_none() => "loads",
            state => state.as_str(),
        }
    }

    /// The members of the status, sorted, with the process.
    fn to_json(&self) -> serde_json::Result<Value> {
        let mut members = serde_json::to_value(&self.status)?;
        members["state"] = self.state().into();
        if let Some(pod) = &self.pod {
            members["pod"] = pod.as_str().into();
        }
        Ok(members)
    }
}

pub(crate) async fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let running = match context.existing_store().await {
        Ok(store) => of_running_hosts(&store.overview().await?),
        // Without a database no host runs, but the folder can still be scanned.
        Err(_) => Vec::new(),
    };
    let found = if running.is_empty() { of_folder(context).await? } else { running };
    let members = found.iter().map(ListedPlugin::to_json).collect::<Result<Vec<_>, _>>()?;
    context.output.emit(&members, || rows(&found))?;
    Ok(ExitCode::SUCCESS)
}

async fn of_folder(context: &Context) -> anyhow::Result<Vec<ListedPlugin>> {
    let plugins = scan(&context.config).await?.into_iter();
    Ok(plugins.map(|status| ListedPlugin { status, pod: None }).collect())
}

/// The plugins of the pods that serve, and of those that cannot because an image gave them no component yet.
fn of_running_hosts(overview: &Overview) -> Vec<ListedPlugin> {
    let lacks_image =
        |pod: &Pod| pod.plugins.iter().any(|plugin| plugin.image.is_some() && plugin.generation.is_none());
    let is_running = |pod: &&Pod| pod.is_live(overview.now) || !pod.is_silent(overview.now) && lacks_image(pod);
    overview.pods.iter().filter(is_running).flat_map(of_pod).collect()
}

fn of_pod(pod: &Pod) -> impl Iterator<Item = ListedPlugin> {
    pod.plugins.iter().map(|status| ListedPlugin { status: status.clone(), pod: Some(pod.instance.clone()) })
}

fn rows(plugins: &[ListedPlugin]) -> String {
    if plugins.is_empty() {
        return "No plugins.".to_owned();
    }
    let row = |listed: &ListedPlugin| {
        let ListedPlugin { status, pod } = listed;
        [
            or_dash(pod.as_deref()),
            status.name.clone(),
            or_dash(status.version.as_deref()),
            or_dash(Some(status.types.join(", ").as_str()).filter(|types| !types.is_empty())),
            status.generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            short(&or_dash(status.digest.as_deref()), 12),
            listed.state().to_owned(),
            short_image(status.image.as_deref()),
            or_dash(status.trouble().as_deref()),
        ]
    };
    let header = ["POD", "PLUGIN", "VERSION", "TYPES", "GENERATION", "DIGEST", "STATE", "IMAGE", "ERROR"];
    table(header, plugins.iter().map(row))
}

/// The image with the first digits of its digest.
fn short_image(image: Option<&str>) -> String {
    match image.and_then(|image| image.split_once("@sha256:")) {
        Some((name, digits)) => format!("{name}@sha256:{}", digits.get(..12).unwrap_or(digits)),
        None => or_dash(image),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outbox_item::Millis;

    fn webhook() -> PluginStatus {
        PluginStatus { name: "webhook".into(), ..PluginStatus::default() }
    }

    #[test]
    fn only_hosts_that_still_beat_are_asked_for_their_plugins() {
        let pod = |instance: &str, heartbeat_at| Pod {
            instance: instance.to_owned(),
            role: None,
            ready: true,
            heartbeat_at: Millis::new(heartbeat_at),
            plugins: vec![webhook()],
            breakers: Vec::new(),
        };
        let overview = Overview {
            now: Millis::new(100_000),
            pods: vec![pod("a", 99_000), pod("b", 80_000)],
            ..Overview::default()
        };
        assert_eq!(of_running_hosts(&overview), [ListedPlugin { status: webhook(), pod: Some("a".into()) }]);
        let unready = |plugins| Pod { ready: false, plugins, ..pod("c", 99_000) };
        let lacking = PluginStatus { image: Some("oci://r.example/webhook:1".into()), ..webhook() };
        let overview = Overview { pods: vec![unready(vec![webhook()]), unready(vec![lacking.clone()])], ..overview };
        assert_eq!(of_running_hosts(&overview), [ListedPlugin { status: lacking, pod: Some("c".into()) }]);
    }

    #[test]
    fn the_pod_is_a_member_among_the_others_in_the_order_of_the_alphabet() {
        let listed = ListedPlugin { status: webhook(), pod: Some("a".into()) };
        assert_eq!(
            listed.to_json().unwrap().to_string(),
            concat!(
                r#"{"digest":null,"error":null,"file":"","generation":null,"grants":[],"#,
                r#""image":null,"limits":null,"name":"webhook","pod":"a","previous":null,"refused":[],"role":null,"#,
                r#""runs":{"attempts":0,"cpu_ms":0,"faults":0},"state":"unknown","types":[],"version":null}"#
            )
        );
        let scanned = ListedPlugin { status: webhook(), pod: None };
        assert!(scanned.to_json().unwrap().get("pod").is_none());
    }

    #[test]
    fn a_plugin_that_no_host_runs_is_said_to_load_and_not_to_be_active() {
        let state = |state: PluginState, pod: Option<&str>| {
            let status = PluginStatus { state, ..webhook() };
            let listed = ListedPlugin { status, pod: pod.map(str::to_owned) };
            let row = rows(&[ListedPlugin { status: listed.status.clone(), pod: listed.pod.clone() }]);
            assert!(row.contains(listed.state()), "{row}");
            listed.to_json().unwrap()["state"].as_str().unwrap().to_owned()
        };
        assert_eq!(state(PluginState::Active, None), "loads");
        assert_eq!(state(PluginState::Failed, None), "failed");
        assert_eq!(state(PluginState::Active, Some("a")), "active");
    }
}
