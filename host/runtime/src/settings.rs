//! What a process gives the runtime: the folders, the defaults of manifests, and the way to the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::{BreakerMode, QuarantineStore, RetryPolicy, StateReader, TypeOwners};

use crate::load::manifest::environment::EnvLookup;
use crate::load::private_dir::LateDir;
use crate::outgoing::resolve::Resolver;

/// The folder of one image of a registry: a plugin folder with one component.
#[derive(Clone, Debug)]
pub struct ImageDir {
    /// The folder. It need not exist yet.
    pub dir: PathBuf,
    /// The name of the component. No file of another folder may have it.
    pub name: String,
    /// The image, as settings write it.
    pub image: String,
    /// The files of the operator that its manifest may be. The first that exists counts.
    pub manifests: Vec<PathBuf>,
}

/// The settings of the plugins of one process.
#[derive(Clone)]
pub struct PluginSettings {
    /// The plugin folders. They need not exist yet.
    pub dirs: Vec<PathBuf>,
    /// The folders of images inside `cache_dir`. They count once this user alone can write that.
    pub image_dirs: Vec<ImageDir>,
    /// The role of the process. The sub-folders of this name are loaded beside the roots.
    pub role: Option<String>,
    /// The folder of compiled code and of the last good components. Only this user may be able to write it.
    pub cache_dir: PathBuf,
    /// Whether compiled code and good components are kept in `cache_dir`. Otherwise it is only read, if it is there.
    pub keeps_in_cache: bool,
    /// The longest time of one attempt when the manifest has no `timeout`.
    pub attempt_time: Duration,
    /// The retry policy; a manifest overrides single values of it.
    pub retry: RetryPolicy,
    /// For which plugins requests go through the breakers of their origins.
    pub breaker: BreakerMode,
    /// The highest number of attempts at a time in this process.
    pub slots: usize,
    /// Looks up the environment variables that manifests name.
    pub environment: EnvLookup,
    /// Minisign public keys, in base64 or as names of files. If there are any, only components that one of them
    /// signed are loaded.
    pub keys: Vec<String>,
    /// Files of PEM certificates of authorities that receivers are believed by, besides the public ones.
    pub ca_files: Vec<PathBuf>,
    /// Reads plugin state for attempts.
    pub state: Arc<dyn StateReader>,
    /// Remembers quarantined components for every process.
    pub quarantine: Arc<dyn QuarantineStore>,
    /// Keeps which plugin owns which type, for every process of the role.
    pub owners: Arc<dyn TypeOwners>,
    /// Resolves the host names of outgoing requests.
    pub resolver: Arc<dyn Resolver>,
}

impl PluginSettings {
    /// The cache folder, to be used as these settings say.
    pub(crate) fn cache(&self) -> LateDir {
        if self.keeps_in_cache { LateDir::new(&self.cache_dir) } else { LateDir::to_read(&self.cache_dir) }
    }
}
