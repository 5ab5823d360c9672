//! `plugin push`: makes an image of a component and its signature, in a registry.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use outbox_registry::RegistryClient;
use outbox_runtime::TrustedKeys;

use crate::cli::arguments::image;
use crate::cli::context::Context;
use crate::cli::output::fields;
use crate::cli::plugin::sign::signature_file;

/// Push a component to a registry, under a tag
///
/// The signature in `FILE.minisig` goes along, if there is one. The manifest does not: the operator of each host decides
/// what a component is granted. With `OUTBOX_PLUGIN_KEYS`, a component that none of the keys has signed is not pushed.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The component's file
    file: PathBuf,
    /// Where to, such as `registry.example/team/webhook:stable`
    reference: String,
}

pub(crate) async fn run(args: PushArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let PushArgs { file, reference } = args;
    let reference = image(&reference)?;
    let component = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let signature = signature_of(&file)?;
    let keys = TrustedKeys::read(&context.config.plugin_keys)?;
    keys.check(&name(&file), &component, signature.as_deref())?;
    let is_signed = signature.is_some();
    let pushed = RegistryClient::new(context.config.registry.clone()).push(&reference, component, signature).await?;
    let image = reference.at(&pushed.digest).to_string();
    let report = json!({
        "image": image, "digest": pushed.digest, "component": pushed.component, "signed": is_signed
    });
    context.output.emit(&report, || {
        let signed = if is_signed { "pushed with it" } else { "none" };
        fields(&[("image", image), ("component", pushed.component), ("signature", signed.to_owned())])
    })?;
    Ok(ExitCode::SUCCESS)
}

fn name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The signature beside a component; `None` without one.
fn signature_of(file: &Path) -> anyhow::Result<Option<String>> {
    let path = signature_file(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err).with_context(|| format!("reading {}", path.display())),
    }
}
