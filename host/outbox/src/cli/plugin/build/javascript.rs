//! Builds handlers in JavaScript: componentize-js makes the component, jco its type declarations.

use std::path::Path;

use anyhow::Context as _;

use outbox_runtime::WIT;

use crate::cli::plugin::build::project::Project;
use crate::cli::plugin::build::tools::{Program, Tools, command, run};
use crate::cli::plugin::build::world;
use crate::cli::plugin::kit;
use crate::cli::plugin::kit::{JAVASCRIPT_TOOLS, Language};

const INSTALL: &str = "install Node.js 20 or newer from https://nodejs.org, or the packages nodejs and npm";

const NODE: Program = Program {
    name: "node",
    probe: &["--eval", "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)"],
    purpose: "building a handler in JavaScript",
    install: INSTALL,
};

const NPM: Program =
    Program { name: "npm", probe: &["--version"], purpose: "installing componentize-js", install: INSTALL };

pub(crate) fn build(project: &Project, tools: &Tools) -> anyhow::Result<Vec<u8>> {
    NODE.check()?;
    let installed = tools.installed("componentize-js", JAVASCRIPT_TOOLS, |folder| {
        NPM.check()?;
        run(command("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder)).map(drop)
    })?;
    Language::Js.write_kit(&project.dir)?;
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    let (wit, component) = (scratch.path().join("wit"), scratch.path().join("component.wasm"));
    kit::write(&wit, &WIT)?;
    declare_types(project, &installed, &wit)?;
    tools.step(&format!("building {} with componentize-js", project.name));
    world::write(project, &wit)?;
    let source = project.dir.join(Language::Js.source());
    let mut node = command("node");
    node.arg(installed.join("build.mjs")).args([&source, &wit, &component]);
    run(&mut node).with_context(|| world::advice(project))?;
    std::fs::read(&component).context("reading the component that componentize-js made")
}

/// Writes type declarations of the whole contract into the project, where editors find them.
fn declare_types(project: &Project, installed: &Path, wit: &Path) -> anyhow::Result<()> {
    let types = project.dir.join("outbox/types");
    let mut jco = command("node");
    jco.arg(installed.join("node_modules/@bytecodealliance/jco/src/jco.js"));
    jco.arg("guest-types").arg(wit).args(["--world-name", "plugin", "--quiet", "--out-dir"]).arg(types);
    run(&mut jco).context("declaring the types of the contract").map(drop)
}
