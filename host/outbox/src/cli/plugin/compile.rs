//! `plugin compile`: fills the cache of compiled code, such as at the build of an image.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use outbox_runtime::{Compiled, compile, components};

use crate::cli::context::Context;
use crate::cli::output::{clean, short, table};
use crate::open_plugins;

/// Compile components into `OUTBOX_CACHE_DIR`, so that a host begins without compiling
#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// The components' files; without one, those that a host with this role loads from `OUTBOX_PLUGINS`
    files: Vec<PathBuf>,
}

/// Compiles. The command fails when the code of a component is not in the cache afterwards.
pub(crate) async fn run(args: CompileArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let config = &context.config;
    let settings = open_plugins::settings_without_store(config);
    let files = if args.files.is_empty() { components(&settings)? } else { args.files };
    if files.is_empty() {
        bail!("{} has no components to compile: set OUTBOX_PLUGINS, or name files", config.plugins);
    }
    let compiled = compile(&files, settings).await?;
    context.output.emit(&compiled, || rows(&compiled))?;
    let is_complete = compiled.iter().all(|one| one.error.is_none());
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rows(compiled: &[Compiled]) -> String {
    let row = |one: &Compiled| {
        let outcome = one.error.as_deref().map_or_else(|| format!("compiled in {:.1?}", one.time), clean);
        [one.file.display().to_string(), short(&one.digest, 12), outcome]
    };
    table(["FILE", "DIGEST", "RESULT"], compiled.iter().map(row))
}
