//! `plugin pull`: takes a component and its signature out of a registry, into a folder.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use outbox_registry::{ImageReference, RegistryClient};
use outbox_runtime::TrustedKeys;

use crate::cli::context::Context;
use crate::cli::output::fields;
use crate::cli::plugin::sign::signature_file;
use crate::filesystem::shown;

/// Pull a component from a registry into a folder
///
/// Writes NAME.wasm, where NAME is the last part of the repository, and NAME.wasm.minisig if the image is signed. With
/// `OUTBOX_PLUGIN_KEYS`, a component that none of the keys has signed is not written.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Which image, such as `registry.example/team/webhook:stable` or `…/webhook@sha256:…`
    reference: ImageReference,
    /// The folder that gets the files
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    to: PathBuf,
}

pub(crate) async fn run(args: PullArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let PullArgs { reference, to } = args;
    let keys = TrustedKeys::read(&context.config.plugin_keys)?;
    let pulled = RegistryClient::new(context.config.registry.clone()).pull(&reference).await?;
    let image = reference.at(&pulled.digest).to_string();
    let signature = pulled.signature.as_deref();
    keys.check(reference.name(), &pulled.component, signature).with_context(|| format!("{image} is not written"))?;
    let file = to.join(format!("{}.wasm", reference.name()));
    write(&file, &pulled.component, signature).with_context(|| format!("writing {}", file.display()))?;
    let report = json!({
        "image": image, "digest": pulled.digest, "component": pulled.component_digest, "file": shown(&file),
        "signed": signature.is_some()
    });
    context.output.emit(&report, || {
        let signed = if signature.is_some() { shown(&signature_file(&file)) } else { "none".to_owned() };
        let component = pulled.component_digest.clone();
        fields(&[("image", image), ("component", component), ("file", shown(&file)), ("signature", signed)])
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the files so that none is ever seen in part. The signature comes first: a host loads the two when they match.
fn write(file: &Path, component: &[u8], signature: Option<&str>) -> io::Result<()> {
    let beside = signature_file(file);
    match signature {
        Some(text) => replace(&beside, text.as_bytes())?,
        None => match std::fs::remove_file(&beside) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        },
    }
    replace(file, component)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o644)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
