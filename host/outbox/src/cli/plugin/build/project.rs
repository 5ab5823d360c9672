//! The project of a handler: its language, its name and its manifest, which are recognised by its files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::cli::plugin::kit::Language;
use crate::filesystem::shown;

/// TOML files of tools. They are not the manifest of a plugin.
const OF_TOOLS: [&str; 6] =
    ["Cargo.toml", "clippy.toml", "outbox.toml", "pyproject.toml", "rust-toolchain.toml", "rustfmt.toml"];

/// The project of one handler.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    pub(crate) language: Language,
    /// The plugin's name: the stem of its manifest.
    pub(crate) name: String,
    /// The text of its manifest.
    pub(crate) manifest: String,
}

impl Project {
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir).with_context(|| format!("finding {}", dir.display()))?;
        let manifest = find_manifest(&dir)?;
        let text = std::fs::read_to_string(&manifest).with_context(|| format!("reading {}", shown(&manifest)))?;
        let name = manifest.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { language: language(&dir)?, dir, name, manifest: text })
    }
}

fn language(dir: &Path) -> anyhow::Result<Language> {
    let found: Vec<_> = Language::ALL.into_iter().filter(|language| dir.join(language.source()).is_file()).collect();
    match found[..] {
        [language] => Ok(language),
        [] => bail!(
            "{} holds no handler: it has neither of Cargo.toml, handler.js and handler.py; \
             begin one with `outbox plugin new NAME --lang rust|js|python`",
            shown(dir)
        ),
        _ => bail!("{} holds handlers of several languages: give each a folder of its own", shown(dir)),
    }
}

fn find_manifest(dir: &Path) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading the folder {}", shown(dir)))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    let is_plugins = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".toml") && !name.starts_with('.') && !OF_TOOLS.contains(&&*name)
    };
    paths.retain(is_plugins);
    match &paths[..] {
        [manifest] => Ok(manifest.clone()),
        [] => {
            bail!("{} has no manifest: put NAME.toml there, it names the plugin and grants what it may do", shown(dir))
        }
        [first, second, ..] => bail!("{} and {} could both be the manifest: keep one", shown(first), shown(second)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(files: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        Project::open(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_project_is_told_what_it_lacks() {
        assert!(refusal(&["Cargo.toml"]).contains("has no manifest"));
        assert!(refusal(&["a.toml", "b.toml"]).contains("could both be the manifest"));
        assert!(refusal(&["a.toml"]).contains("outbox plugin new"));
        assert!(refusal(&["a.toml", "handler.js", "handler.py"]).contains("several languages"));
    }
}
