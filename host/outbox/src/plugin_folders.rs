//! Whether the folders that the settings name are there: a host starts without them, and then handles nothing.
//!
//! It reads the names of folders and no file. What the folders contain is the runtime's.

use std::path::Path;

use crate::config::Config;
use crate::filesystem::shown;

/// What is missing of the folders that the settings name, and what to do; `None` where all are there. Where plugins come
/// from registries, the role needs no folder.
pub(crate) fn missing(config: &Config) -> Option<String> {
    if let Some(manifests) = config.missing_manifests() {
        let folder = shown(manifests);
        return Some(format!(
            "there is no folder {folder}: images have no manifests. Create it, or set OUTBOX_MANIFESTS"
        ));
    }
    let role = config.role.as_deref().filter(|_| config.plugins.images.is_empty());
    missing_of(config.plugins.folder.as_deref()?, role)
}

fn missing_of(plugins: &Path, role: Option<&str>) -> Option<String> {
    if !plugins.is_dir() {
        let folder = shown(plugins);
        return Some(format!(
            "there is no folder {folder}: no component is loaded from there. Create it, or set OUTBOX_PLUGINS"
        ));
    }
    let role = role.filter(|role| !plugins.join(role).is_dir())?;
    let known = roles(plugins);
    let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
    let folder = shown(plugins);
    Some(format!("{folder} has no folder for the role {role:?} ({known}): correct OUTBOX_ROLE, or create the folder"))
}

/// The folders that can be those of roles, by name.
fn roles(plugins: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(plugins) else { return Vec::new() };
    let folders = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_missing_and_a_misspelt_role_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins.d");
        assert!(missing_of(&plugins, None).unwrap().contains("there is no folder"));
        std::fs::create_dir_all(plugins.join("vector")).unwrap();
        assert_eq!(missing_of(&plugins, None), None);
        assert_eq!(missing_of(&plugins, Some("vector")), None);
        let told = missing_of(&plugins, Some("vectr")).unwrap();
        assert!(told.contains("\"vectr\"") && told.contains("it has vector"), "{told}");
    }
}
