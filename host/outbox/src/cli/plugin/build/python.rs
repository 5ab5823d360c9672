//! Builds handlers in Python: componentize-py makes the component and its type declarations.

use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use outbox_runtime::WIT;

use crate::cli::plugin::build::project::Project;
use crate::cli::plugin::build::tools::{Program, Tools, command, run};
use crate::cli::plugin::build::world;
use crate::cli::plugin::kit;
use crate::cli::plugin::kit::{Language, PYTHON_TOOLS};

const PYTHON: Program = Program {
    name: "python3",
    probe: &["-c", "import sys; sys.exit(sys.version_info < (3, 10))"],
    purpose: "building a handler in Python",
    install: "install Python 3.10 or newer from https://www.python.org, or the package python3",
};

const PIP: Program = Program {
    name: "python3",
    probe: &["-m", "pip", "--version"],
    purpose: "installing componentize-py with `python3 -m pip`",
    install: "install pip, in the package python3-pip, or run `python3 -m ensurepip`",
};

/// Installs the pinned packages only, and none that would have to be compiled.
const PIP_INSTALL: [&str; 9] = [
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--no-deps",
    "--require-hashes",
    "--only-binary=:all:",
    "--requirement=requirements.txt",
];

/// Starts componentize-py, which has no script that could be run.
const COMPONENTIZE: &str = "import sys, componentize_py; sys.exit(componentize_py.script())";

/// Python names of interfaces. Without them, the name of an interface would depend on the other imports of the world.
const NAMES: [(&str, &str); 3] = [
    ("outbox:handler/types@0.1.0", "contract"),
    ("wasi:config/store@0.2.0-rc.1", "configuration"),
    ("wasi:http/types@0.2.12", "http_types"),
];

pub(crate) fn build(project: &Project, tools: &Tools) -> anyhow::Result<Vec<u8>> {
    PYTHON.check()?;
    let installed = tools.installed("componentize-py", PYTHON_TOOLS, |folder| {
        PIP.check()?;
        run(command("python3").args(PIP_INSTALL).arg("--target=.").current_dir(folder)).map(drop)
    })?;
    Language::Python.write_kit(&project.dir)?;
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    let (wit, component) = (scratch.path().join("wit"), scratch.path().join("component.wasm"));
    kit::write(&wit, &WIT)?;
    declare_types(project, &installed, &wit)?;
    tools.step(&format!("building {} with componentize-py", project.name));
    world::write(project, &wit)?;
    let mut python = componentize_py(&installed, &wit, "guest");
    python.args(["componentize", "handler", "--python-path"]).arg(&project.dir).arg("--output").arg(&component);
    run(&mut python).with_context(|| world::advice(project))?;
    std::fs::read(&component).context("reading the component that componentize-py made")
}

/// Writes type declarations of the whole contract into the project, where editors find them. They replace those of an
/// earlier build, because componentize-py refuses to write into a folder that has files of the same names.
fn declare_types(project: &Project, installed: &Path, wit: &Path) -> anyhow::Result<()> {
    let typings = project.dir.join("outbox/typings");
    remove_folder(&typings).with_context(|| format!("removing the types of the last build, {}", typings.display()))?;
    let mut python = componentize_py(installed, wit, "plugin");
    python.arg("bindings").arg(&typings);
    run(&mut python).context("declaring the types of the contract").map(drop)
}

/// Removes the folder with what is in it, if there is one.
fn remove_folder(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn componentize_py(installed: &Path, wit: &Path, world: &str) -> Command {
    let mut python = command("python3");
    python.env("PYTHONPATH", installed).args(["-c", COMPONENTIZE]);
    python.arg("--wit-path").arg(wit).args(["--world", world]);
    for (interface, name) in NAMES {
        python.arg("--import-interface-name").arg(format!("{interface}={name}"));
    }
    python
}
