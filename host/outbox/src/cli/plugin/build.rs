//! `plugin build`: builds the component of a handler's project with the usual tools of its language.

mod javascript;
mod project;
mod python;
mod rust;
mod tools;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::output::size;
use crate::cli::plugin::build::project::Project;
use crate::cli::plugin::build::tools::Tools;
use crate::cli::plugin::kit::Language;
use crate::filesystem::shown;

/// Make a component of a handler's project
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to put NAME.wasm, and NAME.toml if it is not there yet [default: the project's folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &BuildArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let project = Project::open(&args.dir)?;
    let tools = Tools::new(&context.config.cache_dir, context.output);
    let component = match project.language {
        Language::Rust => rust::build(&project, &tools),
        Language::Js => javascript::build(&project, &tools),
        Language::Python => python::build(&project, &tools),
    }?;
    let out = args.out.as_deref().unwrap_or(&project.dir);
    let file = deliver(&project, &component, out)?;
    let built = json!({ "name": project.name, "file": shown(&file), "size": component.len() });
    context.output.emit(&built, || format!("built {} ({})", shown(&file), size(component.len() as u64)))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the component into a folder that a host may watch. Writes the manifest only if there is none, because an
/// operator may have changed it.
fn deliver(project: &Project, component: &[u8], out: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(out).with_context(|| format!("making {}", shown(out)))?;
    let manifest = out.join(format!("{}.toml", project.name));
    if !manifest.exists() {
        place(&manifest, project.manifest.as_bytes())?;
    }
    let file = out.join(format!("{}.wasm", project.name));
    place(&file, component)?;
    Ok(file)
}

/// Writes a file with one rename, so that a host that watches the folder never reads an incomplete file.
fn place(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let draft = path.with_extension("tmp");
    let written = std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, path));
    written.with_context(|| format!("writing {}", shown(path)))
}
