//! `plugin list`: the plugins of running hosts, or those that the folder would give.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::output::{or_dash, short, table};
use crate::cli::plugin::{members, scan};
use outbox_store::{Overview, Pod};

pub(crate) async fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let running = match context.existing_store().await {
        Ok(store) => of_running_hosts(&store.overview().await?),
        // Without a database no host runs, and the folder can still be looked at.
        Err(_) => Vec::new(),
    };
    let found = if running.is_empty() { scan(&context.config).await? } else { running };
    context.output.emit(&found, || rows(&found))?;
    Ok(ExitCode::SUCCESS)
}

fn of_running_hosts(overview: &Overview) -> Vec<Value> {
    let pods = overview.live_pods();
    pods.flat_map(|pod| members(&pod.plugins).into_iter().map(|plugin| with_pod(plugin, pod))).collect()
}

fn with_pod(mut plugin: Value, pod: &Pod) -> Value {
    plugin["pod"] = json!(pod.instance);
    plugin
}

fn rows(plugins: &[Value]) -> String {
    if plugins.is_empty() {
        return "No plugins.".to_owned();
    }
    let row = |plugin: &Value| {
        let word = |member: &str| plugin[member].as_str();
        [
            or_dash(word("pod")),
            or_dash(word("name")),
            or_dash(word("version")),
            listed(&plugin["types"]),
            plugin["generation"].as_u64().map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            short(&or_dash(word("digest")), 12),
            or_dash(word("state")),
            or_dash(word("error")),
        ]
    };
    table(["POD", "PLUGIN", "VERSION", "TYPES", "GENERATION", "DIGEST", "STATE", "ERROR"], plugins.iter().map(row))
}

fn listed(words: &Value) -> String {
    let words: Vec<_> = words.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    or_dash(Some(words.join(", ").as_str()).filter(|words| !words.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_that_still_beat_are_asked_for_their_plugins() {
        let pod = |instance: &str, heartbeat_at| Pod {
            instance: instance.to_owned(),
            role: None,
            ready: true,
            heartbeat_at,
            plugins: json!([{ "name": "webhook" }]),
        };
        let overview = Overview { now: 100_000, pods: vec![pod("a", 99_000), pod("b", 80_000)], ..Overview::default() };
        assert_eq!(of_running_hosts(&overview), [json!({ "name": "webhook", "pod": "a" })]);
    }
}
