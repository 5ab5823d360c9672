//! The files that the program carries for authors of handlers: the SDK of each language, and project templates.
//!
//! This file writes files. It runs no tool and reads nothing.

use std::path::Path;

use anyhow::Context as _;
use clap::ValueEnum;

use outbox_runtime::WIT;

/// Files by their path, with `/` between folders.
pub(crate) type Files = &'static [(&'static str, &'static str)];

/// The files below a folder of the repository.
macro_rules! embedded {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../../", $folder, "/", $path)))),+]
    };
}

/// The crate for handlers in Rust, without its manifest.
const CRATE: Files = embedded!("plugins/sdk":
    "examples/notify.rs", "src/bindings.rs", "src/config.rs", "src/failure.rs", "src/followups.rs", "src/http.rs",
    "src/http/response.rs", "src/http/wire.rs", "src/item.rs", "src/lib.rs", "src/log.rs", "src/state.rs",
);
const CRATE_MANIFEST: &str = include_str!("../../../../../plugins/sdk/Cargo.toml");
const WORKSPACE_MANIFEST: &str = include_str!("../../../../../Cargo.toml");
const CARGO_CONFIG: &str = include_str!("../../../../../plugins/templates/cargo-config.toml");

/// The module for handlers in JavaScript.
const JAVASCRIPT: Files = embedded!("plugins/sdk-js/outbox":
    "failure.js", "followups.js", "http.js", "index.js", "response.js", "state.js",
);

/// The package for handlers in Python.
const PYTHON: Files = embedded!("plugins/sdk-py/outbox":
    "__init__.py", "config.py", "failure.py", "followups.py", "http.py", "log.py", "response.py", "state.py",
);

/// The tools that make a component of JavaScript. npm installs them from the lock file.
pub(crate) const JAVASCRIPT_TOOLS: Files =
    embedded!("plugins/sdk-js/tools": "build.mjs", "package-lock.json", "package.json");

/// The tools that make a component of Python. pip checks their hashes.
pub(crate) const PYTHON_TOOLS: Files = embedded!("plugins/sdk-py/tools": "requirements.txt");

const SHARED_TEMPLATES: [(&str, &str); 5] = [
    ("{{name}}.toml", include_str!("../../../../../plugins/templates/manifest.toml")),
    ("README.md", include_str!("../../../../../plugins/templates/README.md")),
    ("cases/greets.toml", include_str!("../../../../../plugins/templates/cases/greets.toml")),
    ("cases/nobody.toml", include_str!("../../../../../plugins/templates/cases/nobody.toml")),
    (".gitignore", include_str!("../../../../../plugins/templates/gitignore")),
];
const RUST_TEMPLATES: Files = embedded!("plugins/templates/rust": "Cargo.toml", "src/lib.rs");
const JAVASCRIPT_TEMPLATES: Files = embedded!("plugins/templates/js": "handler.js", "jsconfig.json");
const PYTHON_TEMPLATES: Files = embedded!("plugins/templates/python": "handler.py", "pyrightconfig.json");

/// The programming language of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Rust,
    #[value(alias = "javascript")]
    Js,
    #[value(alias = "py")]
    Python,
}

impl Language {
    pub(crate) const ALL: [Self; 3] = [Self::Rust, Self::Js, Self::Python];

    /// The file by which a project of this language is recognised.
    pub(crate) fn source(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml",
            Self::Js => "handler.js",
            Self::Python => "handler.py",
        }
    }

    /// The source file of the handler.
    pub(crate) fn handler(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::Js | Self::Python => self.source(),
        }
    }

    /// The files of a new project. They contain placeholders for the name and the type of item.
    pub(crate) fn templates(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let own = match self {
            Self::Rust => RUST_TEMPLATES,
            Self::Js => JAVASCRIPT_TEMPLATES,
            Self::Python => PYTHON_TEMPLATES,
        };
        SHARED_TEMPLATES.into_iter().chain(own.iter().copied())
    }

    /// Writes the SDK of this language into a project, and overwrites an older one.
    pub(crate) fn write_kit(self, project: &Path) -> anyhow::Result<()> {
        match self {
            Self::Rust => {
                let vendored = project.join("vendor/outbox-handler");
                write(&vendored, CRATE)?;
                write_one(&vendored.join("Cargo.toml"), &standalone(CRATE_MANIFEST, WORKSPACE_MANIFEST))?;
                // The crate reads the contract from two folders up, as it does in the repository of the outbox.
                write(&project.join("wit"), &WIT)?;
                write_one(&project.join(".cargo/config.toml"), CARGO_CONFIG)
            }
            Self::Js => write(&project.join("outbox"), JAVASCRIPT),
            Self::Python => write(&project.join("outbox"), PYTHON),
        }
    }
}

/// Writes files below a folder, and creates the folder if needed.
pub(crate) fn write(folder: &Path, files: &[(&str, &str)]) -> anyhow::Result<()> {
    files.iter().try_for_each(|(path, text)| write_one(&folder.join(path), text))
}

/// Writes a file, and creates its folder if needed.
pub(crate) fn write_one(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text));
    made.with_context(|| format!("writing {}", path.display()))
}

/// The manifest of a crate of a workspace, changed for use without it: inherited values are written out, and lints are
/// left out.
fn standalone(manifest: &str, workspace: &str) -> String {
    let own = |line: &str| {
        let inherited = line.strip_suffix(".workspace = true").or_else(|| line.strip_suffix(" = { workspace = true }"));
        let Some(key) = inherited else { return line.to_owned() };
        let written = workspace.lines().find(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(" = ")));
        written.unwrap_or(line).to_owned()
    };
    let lines: Vec<_> = manifest.replace("[lints]\nworkspace = true\n", "").lines().map(own).collect();
    lines.join("\n").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    fn files_below(folder: &str) -> BTreeSet<String> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
        let (mut folders, mut found) = (vec![root.clone()], BTreeSet::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found
    }

    #[test]
    fn the_program_carries_every_file_that_handlers_are_written_with() {
        let carried = |files: Files| files.iter().map(|(path, _)| (*path).to_owned()).collect::<BTreeSet<_>>();
        for (folder, files) in [
            ("wit", &WIT[..]),
            ("plugins/sdk-js/outbox", JAVASCRIPT),
            ("plugins/sdk-py/outbox", PYTHON),
            ("plugins/sdk-js/tools", JAVASCRIPT_TOOLS),
            ("plugins/sdk-py/tools", PYTHON_TOOLS),
            ("plugins/templates/rust", RUST_TEMPLATES),
            ("plugins/templates/js", JAVASCRIPT_TEMPLATES),
            ("plugins/templates/python", PYTHON_TEMPLATES),
        ] {
            assert_eq!(carried(files), files_below(folder), "{folder}");
        }
        let with_manifest = carried(CRATE).into_iter().chain(["Cargo.toml".to_owned()]).collect();
        assert_eq!(files_below("plugins/sdk"), with_manifest);
    }

    #[test]
    fn a_project_builds_handlers_with_the_options_of_this_repository() {
        let own = include_str!("../../../../../.cargo/config.toml");
        assert!(own.starts_with(CARGO_CONFIG), "{CARGO_CONFIG}");
    }

    #[test]
    fn a_manifest_without_its_workspace_has_what_it_inherited() {
        let manifest = standalone(CRATE_MANIFEST, WORKSPACE_MANIFEST);
        assert!(!manifest.contains("workspace"), "{manifest}");
        for line in ["version = \"0.1.0\"", "edition = \"2024\"", "serde_json = \"1\""] {
            assert!(manifest.lines().any(|found| found == line), "{line} is not in\n{manifest}");
        }
    }
}
