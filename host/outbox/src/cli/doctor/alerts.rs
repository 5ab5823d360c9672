//! The check of the way of alerts: whether they have a destination of their own.

use outbox_core::{PluginState, PluginStatus};

use crate::cli::doctor::result::CheckResult;

const CHECK: &str = "alerts";

/// Judges the type of alerts by the plugins that the folder gives.
pub(crate) fn check(alerts: Option<&str>, plugins: &[PluginStatus]) -> CheckResult {
    let Some(alert_type) = alerts else {
        let advice = "set OUTBOX_ALERTS to a type with a destination of its own, or watch /metrics";
        return CheckResult::warn(CHECK, "OUTBOX_ALERTS is not set: nobody is told of dead items", advice);
    };
    let serves = |plugin: &&PluginStatus| {
        plugin.state == PluginState::Active && plugin.types.iter().any(|served| served == alert_type)
    };
    let Some(plugin) = plugins.iter().find(serves) else {
        let advice = "give a plugin this type, such as a copy of webhook.wasm with [types] alert = \"webhook\"";
        return CheckResult::warn(CHECK, format!("no plugin here handles alerts, the type {alert_type:?}"), advice);
    };
    if plugin.types.len() == 1 && !is_common(alert_type, &plugin.name) {
        return CheckResult::ok(CHECK, format!("{} sends them, and nothing else", plugin.name));
    }
    let message =
        format!("{} sends alerts together with other items, to a receiver that may be down itself", plugin.name);
    let advice = "copy webhook.wasm to alert.wasm, with [types] alert = \"webhook\" and a url of its own in alert.toml, \
                  and set OUTBOX_ALERTS=alert";
    CheckResult::warn(CHECK, message, advice)
}

/// Whether applications enqueue items of the type too: it is the one that the repository's webhook has.
fn is_common(alert_type: &str, plugin: &str) -> bool {
    alert_type == "webhook" && plugin == "webhook"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::result::Severity;

    #[test]
    fn alerts_have_a_destination_of_their_own() {
        let plugin = |name: &str, types: &[&str]| PluginStatus {
            name: name.into(),
            types: types.iter().map(|name| (*name).to_owned()).collect(),
            state: PluginState::Active,
            ..PluginStatus::default()
        };
        let plugins = [plugin("webhook", &["webhook"]), plugin("alert", &["alert"]), plugin("both", &["a", "b"])];
        let check = |alerts| check(alerts, &plugins).severity;
        assert_eq!(check(Some("alert")), Severity::Ok);
        for shared in [None, Some("webhook"), Some("a"), Some("nothing")] {
            assert_eq!(check(shared), Severity::Warn, "{shared:?}");
        }
    }
}
