//! Whether the folders that the settings name are there: a host starts without them, and then handles nothing.
//!
//! It reads the names of folders and no file. What the folders contain is the runtime's.

use std::path::Path;

use crate::filesystem::shown;

/// What is missing of the plugin folder and of the role's folder in it, and what to do; `None` where both are there.
pub(crate) fn missing(plugins: &Path, role: Option<&str>) -> Option<String> {
    if !plugins.is_dir() {
        let folder = shown(plugins);
        return Some(format!("there is no folder {folder}: no item is handled. Create it, or set OUTBOX_PLUGINS"));
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
        assert!(missing(&plugins, None).unwrap().contains("there is no folder"));
        std::fs::create_dir_all(plugins.join("vector")).unwrap();
        assert_eq!(missing(&plugins, None), None);
        assert_eq!(missing(&plugins, Some("vector")), None);
        let told = missing(&plugins, Some("vectr")).unwrap();
        assert!(told.contains("\"vectr\"") && told.contains("it has vector"), "{told}");
    }
}
