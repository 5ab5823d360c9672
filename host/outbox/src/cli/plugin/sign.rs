//! `plugin sign`: makes the signature of a component that hosts with `OUTBOX_PLUGIN_KEYS` check.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::filesystem::shown;

/// Sign a component with a secret key of minisign
///
/// Writes `FILE.minisig`. `minisign -G` makes the pair of keys; give the public one to hosts, in `OUTBOX_PLUGIN_KEYS`.
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The component's file
    file: PathBuf,
    /// The file of the secret key
    #[arg(long, value_name = "SECRETKEY")]
    key: PathBuf,
    /// A file with the password of the key; without it, the terminal is asked if the key needs one
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

pub(crate) fn run(args: &SignArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let SignArgs { file, key, password_file } = args;
    let component = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let secret = std::fs::read_to_string(key).with_context(|| format!("reading the key {}", key.display()))?;
    let password = password_file.as_deref().map(password_of).transpose()?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let signature = outbox_registry::sign(&component, &name, &secret, password)
        .with_context(|| format!("signing with {}; a password may be in --password-file", key.display()))?;
    let beside = signature_file(file);
    std::fs::write(&beside, signature).with_context(|| format!("writing {}", beside.display()))?;
    context.output.emit(&json!({ "signature": shown(&beside) }), || format!("signed: {}", shown(&beside)))?;
    Ok(ExitCode::SUCCESS)
}

/// The file beside a component that has its signature.
pub(super) fn signature_file(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".minisig");
    path.into()
}

fn password_of(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading the password in {}", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
