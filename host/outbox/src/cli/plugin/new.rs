//! `plugin new`: creates a folder with a small, complete project of a handler.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use outbox_item::validate_type;

use crate::cli::arguments::UsageError;
use crate::cli::context::Context;
use crate::cli::plugin::kit;
use crate::cli::plugin::kit::Language;
use crate::filesystem::shown;

/// Names that cargo rejects, or that would hide another crate.
const RESERVED: [&str; 5] = ["alloc", "core", "outbox-handler", "std", "test"];

/// Begin a handler: make a folder with a complete project
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The handler's name, and that of its folder: lower-case letters, digits and dashes
    name: String,
    /// What it is written in
    #[arg(long, value_enum)]
    lang: Language,
    /// The type of item that it handles [default: the name, with underscores]
    #[arg(long = "type", value_name = "TYPE")]
    item_type: Option<String>,
}

pub(crate) fn run(args: NewArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let NewArgs { name, lang, item_type } = args;
    check_name(&name)?;
    let item_type = item_type.unwrap_or_else(|| name.replace('-', "_"));
    validate_type(&item_type).map_err(|err| UsageError(format!("--type: {err}")))?;
    let folder = PathBuf::from(&name);
    create(&folder, lang, &name, &item_type)?;
    let made = json!({ "name": name, "type": item_type, "folder": shown(&folder) });
    context.output.emit(&made, || {
        format!("{} is ready: change {name}/{}, then run `outbox plugin build {name}`", shown(&folder), lang.handler())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn check_name(name: &str) -> Result<(), UsageError> {
    let spelt = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !begins || name.ends_with('-') || name.len() > 64 || !name.chars().all(spelt) {
        return Err(UsageError(format!(
            "{name:?} cannot be a handler's name: it takes lower-case letters, digits and dashes, a letter first, \
             at most 64"
        )));
    }
    if RESERVED.contains(&name) {
        return Err(UsageError(format!("{name:?} cannot be a handler's name: Rust has a crate of that name")));
    }
    Ok(())
}

/// Creates the project with one rename, so that an error leaves no incomplete project behind.
fn create(folder: &Path, lang: Language, name: &str, item_type: &str) -> anyhow::Result<()> {
    if folder.symlink_metadata().is_ok() {
        bail!("{} exists already: choose another name, or remove it first", shown(folder));
    }
    let draft = tempfile::Builder::new().prefix(".outbox-new-").tempdir_in(".").context("making a folder here")?;
    let project = draft.path().join(name);
    for (path, text) in lang.templates() {
        kit::write_one(&project.join(filled(path, name, item_type, lang)), &filled(text, name, item_type, lang))?;
    }
    lang.write_kit(&project)?;
    std::fs::rename(&project, folder).with_context(|| format!("making {}", shown(folder)))
}

fn filled(template: &str, name: &str, item_type: &str, lang: Language) -> String {
    template.replace("{{name}}", name).replace("{{type}}", item_type).replace("{{source}}", lang.handler())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_every_tool_takes() {
        for name in ["a", "charge-card", "v2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "2a", "Charge", "a_b", "../a", "a b", "std", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
