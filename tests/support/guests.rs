//! The components that tests run: built from source, once per test run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the package is two folders below the root")
}

fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let output = Command::new("make").args(["--silent", "plugins", "guests"]).current_dir(root()).output();
        let output = output.expect("running make");
        assert!(output.status.success(), "building the guests: {}", String::from_utf8_lossy(&output.stderr));
    });
}

/// The folder that `make plugins` builds into.
pub(crate) fn plugins() -> PathBuf {
    build();
    root().join("plugins.d")
}

/// One of the two versions of the chaos handler: the same behaviour, another digest.
pub(crate) fn chaos(version: u8) -> PathBuf {
    build();
    root().join(format!("target/guests/chaos-{version}.wasm"))
}

/// The handlers of `docs/patterns.md`, in one component.
pub(crate) fn patterns() -> PathBuf {
    build();
    root().join("target/guests/patterns.wasm")
}

/// The folder of the checker's gallery: a component with its manifest and its cases.
pub(crate) fn gallery() -> PathBuf {
    build();
    root().join("target/guests/gallery")
}

/// Grants what the chaos handler imports; tests add what else they need.
pub(crate) const CHAOS_GRANTS: &str = r#"
[grant]
state = true
emit = ["chaos_other"]

[[grant.http]]
origin = "${VECTOR_URL}"
"#;

/// Puts a component and its manifest into a folder, as an operator would: whole, the manifest first.
pub(crate) fn install(component: &Path, manifest: &str, folder: &Path, name: &str) {
    std::fs::create_dir_all(folder).expect("creating the plugins folder");
    place(manifest.as_bytes(), &folder.join(format!("{name}.toml")));
    place(&std::fs::read(component).expect("reading a component"), &folder.join(format!("{name}.wasm")));
}

/// Moves bytes into place under a name, atomically.
pub(crate) fn place(bytes: &[u8], path: &Path) {
    let fresh = path.with_extension("partial");
    std::fs::write(&fresh, bytes).expect("writing a file");
    std::fs::rename(&fresh, path).expect("moving a file into place");
}

/// The same component with another digest: its bytes and one more custom section.
pub(crate) fn variant(component: &[u8], number: u8) -> Vec<u8> {
    let mut bytes = component.to_vec();
    // A custom section: id 0, its length, the length of its name, its name, one byte of content.
    bytes.extend_from_slice(&[0, 4, 2, b't', b'v', number]);
    bytes
}
