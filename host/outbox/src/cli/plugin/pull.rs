//! `plugin pull`: takes a component and its signature out of a registry, into a folder.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use tempfile::NamedTempFile;

use outbox_registry::RegistryClient;
use outbox_runtime::TrustedKeys;

use crate::cli::arguments::image;
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
    reference: String,
    /// The folder that gets the files
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    to: PathBuf,
}

pub(crate) async fn run(args: PullArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let PullArgs { reference, to } = args;
    let reference = image(&reference)?;
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

/// Writes the files so that none is ever seen in part, and that neither changes if one cannot be written. The signature
/// comes first: a host loads the two when they match. An old one goes when the component that it signs has gone.
fn write(file: &Path, component: &[u8], signature: Option<&str>) -> io::Result<()> {
    let beside = signature_file(file);
    if let Some(folder) = [file, &beside].into_iter().find(|path| path.is_dir()) {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, format!("{} is a folder", folder.display())));
    }
    let new = fresh(file, component)?;
    if let Some(text) = signature {
        fresh(&beside, text.as_bytes())?.persist(&beside)?;
        new.persist(file)?;
        return Ok(());
    }
    new.persist(file)?;
    match std::fs::remove_file(&beside) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// A file with these bytes beside a path.
fn fresh(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o644)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_cannot_be_replaced_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (file, beside) = (dir.path().join("p.wasm"), dir.path().join("p.wasm.minisig"));
        write(&file, b"old", Some("of old")).unwrap();
        let pair = || (std::fs::read_to_string(&file).ok(), std::fs::read_to_string(&beside).ok());
        assert_eq!(pair(), (Some("old".into()), Some("of old".into())));
        write(&file, b"new", None).unwrap();
        assert_eq!(pair(), (Some("new".into()), None));
        std::fs::create_dir(&beside).unwrap();
        for signature in [None, Some("of newer")] {
            assert!(write(&file, b"newer", signature).unwrap_err().to_string().contains("p.wasm.minisig is a folder"));
            assert_eq!(pair(), (Some("new".into()), None));
        }
        std::fs::remove_dir(&beside).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        write(&file, b"newer", Some("of newer")).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }
}
