//! Builds handlers in Rust: cargo alone makes the component.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::cli::plugin::build::project::Project;
use crate::cli::plugin::build::tools::{Program, Tools, command, run};

const TARGET: &str = "wasm32-wasip2";

const CARGO: Program = Program {
    name: "cargo",
    probe: &["--version"],
    purpose: "building a handler in Rust",
    install: "install Rust from https://rustup.rs",
};

pub(crate) fn build(project: &Project, tools: &Tools) -> anyhow::Result<Vec<u8>> {
    CARGO.check()?;
    check_target(&project.dir)?;
    tools.step(&format!("building {} with cargo", project.name));
    let mut cargo = command("cargo");
    cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    // Cargo shows its own progress.
    let output = cargo.current_dir(&project.dir).stderr(Stdio::inherit()).output().context("running cargo")?;
    if !output.status.success() {
        bail!("cargo could not build {}: it says above why", project.dir.display());
    }
    let Some(file) = component(&output.stdout) else {
        bail!("cargo made no component: the crate needs `crate-type = [\"cdylib\"]` under [lib]");
    };
    std::fs::read(&file).with_context(|| format!("reading {}", file.display()))
}

fn check_target(dir: &Path) -> anyhow::Result<()> {
    let printed = run(command("rustc").args(["--print", "sysroot"]).current_dir(dir))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&printed).trim());
    if !sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        bail!("building a handler in Rust needs the target {TARGET}: run `rustup target add {TARGET}`");
    }
    Ok(())
}

/// The last component that cargo reports. Cargo builds a crate after its dependencies, so the last one is the project.
fn component(messages: &[u8]) -> Option<PathBuf> {
    let lines = messages.split(|byte| *byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let files = messages.flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    let mut files = files.filter_map(|file| file.as_str().map(PathBuf::from));
    files.rfind(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}
