//! The check of the images that `OUTBOX_PLUGINS` names: whether each registry answers, and with an image of a plugin.

use outbox_registry::{ImageContents, ImageReference, RegistryClient};

use crate::cli::doctor::result::CheckResult;
use crate::cli::output::short;
use crate::config::Config;

/// Looks at each image in its registry. Nothing is pulled.
pub(super) async fn check(config: &Config) -> Vec<CheckResult> {
    let registry = RegistryClient::new(config.registry.clone());
    let mut results = Vec::new();
    for image in &config.plugins.images {
        results.push(look(&registry, image, !config.plugin_keys.is_empty()).await);
    }
    results
}

async fn look(registry: &RegistryClient, image: &ImageReference, needs_signature: bool) -> CheckResult {
    const CHECK: &str = "registry";
    match registry.look(image).await {
        Ok(ImageContents { is_signed: false, digest, .. }) if needs_signature => {
            let message = format!("{} is not signed, and OUTBOX_PLUGIN_KEYS is set", image.at(&digest));
            CheckResult::fail(CHECK, message, "sign the component with `outbox plugin sign`, and push it again")
        }
        Ok(ImageContents { digest, component, is_signed }) => {
            let signed = if is_signed { "signed" } else { "not signed" };
            let component = short(&component, 12);
            CheckResult::ok(CHECK, format!("{} has the component {component}, {signed}", image.at(&digest)))
        }
        Err(err) => CheckResult::error(CHECK, &err),
    }
}
