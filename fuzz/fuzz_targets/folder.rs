//! The host finds exactly the components in the plugin folders, for every content of these folders.

#![no_main]

mod plugin_settings;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use outbox::runtime::{PluginSettings, components};

/// Creates an entry: its first byte chooses the kind and the folder (root or role), and the rest is the name.
/// Returns the path when the host should find the entry.
fn make(root: &Path, entry: &[u8]) -> Option<PathBuf> {
    let (kind, name) = entry.split_first()?;
    let path = if kind & 4 == 0 { root.join("role") } else { root.to_owned() }.join(OsStr::from_bytes(name));
    if path.symlink_metadata().is_ok() {
        return None;
    }
    let made = match kind & 3 {
        0 => fs::write(&path, name),
        1 => symlink(root.join("../target"), &path),
        2 => symlink(root.join("../no/where"), &path),
        _ => fs::create_dir(&path),
    };
    let is_named_so = !name.starts_with(b".") && name.ends_with(b".wasm");
    (made.is_ok() && kind & 3 < 2 && is_named_so).then_some(path)
}

/// What a host with this role finds.
fn found(root: &Path, role: Option<&str>) -> BTreeSet<PathBuf> {
    let settings = PluginSettings { role: role.map(str::to_owned), ..plugin_settings::of(root) };
    components(&settings).unwrap().into_iter().collect()
}

fuzz_target!(|input: &[u8]| {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("plugins");
    fs::create_dir_all(root.join("role")).unwrap();
    fs::write(home.path().join("target"), "linked").unwrap();
    let names = input.split(|byte| *byte == 0).filter(|entry| !entry.contains(&b'/')).take(8);
    let expected: BTreeSet<_> = names.filter_map(|entry| make(&root, entry)).collect();
    assert_eq!(found(&root, Some("role")), expected);
    let in_root = expected.iter().filter(|path| path.parent() == Some(&root)).cloned().collect::<BTreeSet<_>>();
    assert_eq!(found(&root, None), in_root);
});
