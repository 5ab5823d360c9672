//! `plugin switch`: an operator gives a type to another plugin.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use outbox_core::PluginStatus;
use outbox_store::{Control, Overview};

use crate::cli::arguments::{AuditArgs, execution};
use crate::cli::context::Context;
use crate::cli::requests::send_control;

/// Give a type to another plugin
///
/// The plugin that owns the type keeps it until then, whatever files come into the folder.
#[derive(Debug, Args)]
pub(crate) struct SwitchArgs {
    /// The type
    #[arg(value_name = "TYPE")]
    item_type: String,
    /// The plugin: the name of its file without `.wasm`, after ROLE/ if it is in the folder of a role
    #[arg(value_name = "NAME")]
    plugin: String,
    /// The role whose processes are meant; by default that of this process, if it has one
    #[arg(long)]
    role: Option<String>,
    /// Only say whether anything would change
    #[arg(long)]
    dry_run: bool,
    /// Also a plugin that no running host has
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    audit: AuditArgs,
}

pub(crate) async fn run(args: SwitchArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store().await?;
    let role = args.role.or_else(|| context.config.role.clone());
    let control = Control::Switch { role: role.clone(), item_type: args.item_type, plugin: args.plugin };
    control.validate()?;
    if let Control::Switch { item_type, plugin, .. } = &control
        && !args.force
    {
        check_plugin(&store.overview().await?, role.as_deref(), item_type, plugin)?;
    }
    send_control(&*store, control, execution(args.dry_run), args.audit, context).await
}

/// Errors when no running host of the role has a plugin of this name for the type.
fn check_plugin(overview: &Overview, role: Option<&str>, item_type: &str, plugin: &str) -> anyhow::Result<()> {
    let of_role = overview.live_pods().filter(|pod| pod.role.as_deref() == role);
    let handling = of_role.flat_map(|pod| &pod.plugins).filter(|status| handles(status, item_type));
    let mut names: Vec<_> = handling.map(owner_name).collect();
    names.sort();
    names.dedup();
    if names.iter().any(|name| name == plugin) {
        return Ok(());
    }
    let found = if names.is_empty() { "none does".to_owned() } else { names.join(", ") };
    bail!(
        "no running host has a plugin {plugin:?} that handles {item_type} ({found}): correct the name, or add --force"
    );
}

fn handles(status: &PluginStatus, item_type: &str) -> bool {
    let refused = status.refused.iter().map(|refused| &refused.r#type);
    status.types.iter().chain(refused).any(|handled| handled == item_type)
}

fn owner_name(status: &PluginStatus) -> String {
    match &status.role {
        Some(role) => format!("{role}/{}", status.name),
        None => status.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::RefusedType;
    use outbox_item::Millis;
    use outbox_store::Pod;

    use super::*;

    #[test]
    fn a_plugin_is_known_if_a_host_of_the_role_has_it_for_the_type() {
        let refused = vec![RefusedType { r#type: "mail".into(), reason: "webhook owns it".into() }];
        let newcomer = PluginStatus { name: "another".into(), refused, ..PluginStatus::default() };
        let of_role = PluginStatus { name: "fax".into(), role: Some("vector".into()), ..newcomer.clone() };
        let pod = |role: Option<&str>, plugins| Pod {
            instance: "a".into(),
            role: role.map(str::to_owned),
            ready: true,
            heartbeat_at: Millis::default(),
            plugins,
            breakers: Vec::new(),
        };
        let pods = vec![pod(None, vec![newcomer]), pod(Some("vector"), vec![of_role])];
        let overview = Overview { pods, ..Overview::default() };
        let is_known = |role, item_type, plugin| check_plugin(&overview, role, item_type, plugin).is_ok();
        assert!(is_known(None, "mail", "another") && is_known(Some("vector"), "mail", "vector/fax"));
        assert!(!is_known(Some("vector"), "mail", "another") && !is_known(None, "sms", "another"));
        let error = check_plugin(&overview, None, "mail", "anothr").unwrap_err().to_string();
        assert!(error.contains("(another)"), "{error}");
    }
}
