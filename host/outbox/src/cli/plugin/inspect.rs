//! `plugin inspect`: prints what a component imports and exports, and what its manifest grants.

use std::path::Path;
use std::process::ExitCode;

use outbox_runtime::Inspection;

use crate::cli::context::Context;
use crate::cli::output::{clean, fields, or_dash, size};
use crate::open_plugins;

/// Inspects a component. The command fails when a host would not load it.
pub(crate) async fn run(file: &Path, context: &Context) -> anyhow::Result<ExitCode> {
    let settings = open_plugins::settings_without_store(&context.config);
    let inspection = outbox_runtime::inspect(file, settings).await?;
    context.output.emit(&inspection, || page(&inspection))?;
    Ok(if inspection.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn page(inspection: &Inspection) -> String {
    let grants: Vec<_> = inspection.missing_grants.iter().flat_map(|lines| lines.lines()).map(str::to_owned).collect();
    let parts = [
        Some(facts(inspection)),
        list("Imports", &inspection.imports),
        list("Exports", &inspection.exports),
        list("How its contract differs from this host's", &inspection.differences),
        list("Why it would not be loaded", &inspection.errors),
        list("Lines of its manifest that grant what it imports", &grants),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn facts(inspection: &Inspection) -> String {
    let memory = inspection.memory_at_start.map(|bytes| format!("{} at start", size(bytes)));
    let types = inspection.types.join(", ");
    fields(&[
        ("name", inspection.name.clone()),
        ("file", inspection.file.display().to_string()),
        ("size", size(inspection.size)),
        ("sha256", inspection.digest.clone()),
        ("signature", inspection.signature.clone()),
        ("world", or_dash(inspection.world.as_deref())),
        ("made with", or_dash(inspection.made_with.as_deref())),
        ("memory", or_dash(memory.as_deref())),
        ("compiled in", format!("{:.1?}", inspection.compile_time)),
        ("calls itself", or_dash(inspection.described_name.as_deref())),
        ("version", or_dash(inspection.version.as_deref())),
        ("types", or_dash(Some(types.as_str()).filter(|types| !types.is_empty()))),
    ])
}

/// A title and its lines; `None` without lines.
fn list(title: &str, lines: &[String]) -> Option<String> {
    let lines: Vec<_> = lines.iter().map(|line| format!("  {}", clean(line))).collect();
    (!lines.is_empty()).then(|| format!("{title}\n{}", lines.join("\n")))
}
