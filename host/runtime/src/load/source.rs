//! A plugin as it was read from disk, and the reason why it is refused.
//!
//! Plain data for loading and reloading. Nothing here reads a file or decides anything.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outbox_core::ComponentDigest;

/// Where a plugin file is. The order is that of ownership: the first plugin that handles a type without an owner gets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PluginPath {
    /// Whether the file is in the root of the plugin folder. Files of the role's folder (`false`) come first.
    pub is_root: bool,
    /// The component's path.
    pub file: PathBuf,
}

impl PluginPath {
    /// The name by which the plugin owns types: that of the file, after the folder of the role.
    pub(crate) fn owner_name(&self) -> String {
        let name = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let stem = name(self.file.file_stem());
        if self.is_root { stem } else { format!("{}/{stem}", name(self.file.parent().and_then(Path::file_name))) }
    }
}

/// A component with the manifest and the signature that were beside it.
#[derive(Clone, Debug)]
pub(crate) struct PluginSource {
    /// The file stem: the plugin's name, and the owner of its state.
    pub name: String,
    /// The role whose folder the file is in.
    pub role: Option<String>,
    /// The component's path.
    pub file: PathBuf,
    /// The component.
    pub wasm: Arc<Vec<u8>>,
    /// The digest of `wasm`.
    pub digest: ComponentDigest,
    /// The text of the manifest, if there is one.
    pub manifest: Option<String>,
    /// The files that the manifest may be.
    pub manifest_files: Vec<PathBuf>,
    /// The text of the signature, if there is one.
    pub signature: Option<String>,
}

impl PluginSource {
    /// The digest of the component and its manifest together: what a canary is about.
    pub(crate) fn edition(&self) -> ComponentDigest {
        let manifest = self.manifest.as_deref().unwrap_or_default();
        ComponentDigest::of(format!("{}\n{manifest}", self.digest).as_bytes())
    }
}

/// Why a component is refused, with what the operator can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    message: String,
    /// Whether the same files may load later, for example when the host is less busy.
    pub is_transient: bool,
}

impl LoadError {
    /// A refusal that stays until the files change.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_transient: false }
    }

    /// A refusal that may pass without a change of the files.
    pub(crate) fn transient(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_transient: true }
    }
}
