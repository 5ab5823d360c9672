//! The components that tests run. They are built from source once per test run.

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

/// The folder into which `make plugins` builds.
pub(crate) fn plugins() -> PathBuf {
    build();
    root().join("plugins.d")
}

/// One of the two versions of the chaos handler: both behave alike, but their digests differ.
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

/// The grants for the imports of the chaos handler; tests add more when they need them.
pub(crate) const CHAOS_GRANTS: &str = r#"
[grant]
state = true
emit = ["chaos_other"]

[[grant.http]]
origin = "${VECTOR_URL}"
"#;

/// Copies a component and its manifest into a folder as an operator would: each file atomically, the manifest first.
pub(crate) fn install(component: &Path, manifest: &str, folder: &Path, name: &str) {
    std::fs::create_dir_all(folder).expect("creating the plugins folder");
    place(manifest.as_bytes(), &folder.join(format!("{name}.toml")));
    place(&std::fs::read(component).expect("reading a component"), &folder.join(format!("{name}.wasm")));
}

/// Writes bytes to a temporary file and renames it, so that the file appears atomically.
pub(crate) fn place(bytes: &[u8], path: &Path) {
    let fresh = path.with_extension("partial");
    std::fs::write(&fresh, bytes).expect("writing a file");
    std::fs::rename(&fresh, path).expect("moving a file into place");
}

/// The same component with another digest: its bytes and one more custom section.
pub(crate) fn variant(component: &[u8], number: u8) -> Vec<u8> {
    let mut bytes = component.to_vec();
    // A custom section: id 0, its length in bytes, the length of its name, its name, one byte of content.
    bytes.extend_from_slice(&[0, 4, 2, b't', b'v', number]);
    bytes
}
