//! Reports what a component is and whether a host would load it, without serving items.
//!
//! The checks are those of the loader. Where the loader stops at the first failure, an inspection lists all that it
//! can.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use wasmtime::component::Component;

use outbox_core::OnDead;

use crate::load::code_cache::CodeCache;
use crate::load::folder::{Folder, read_source};
use crate::load::loader::{Loader, describe_error, select_types, why_ungranted};
use crate::load::manifest::Manifest;
use crate::load::manifest::canary_policy::CanaryPolicy;
use crate::load::manifest::environment::EnvLookup;
use crate::load::manifest::error::ManifestError;
use crate::load::manifest::limits::{Limits, milliseconds};
use crate::load::private_dir::PrivateDir;
use crate::load::source::{LoadError, PluginSource};
use crate::load::{compatibility, contract_diff, producers};
use crate::outgoing::authorities::TlsConfig;
use crate::settings::PluginSettings;
use crate::start_error::StartError;

/// Why nothing can be said about a component or a folder.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The component, its manifest or its signature cannot be read.
    #[error("reading {file}")]
    Read {
        /// The component's path.
        file: String,
        /// The error of the file system.
        source: io::Error,
    },
    /// The plugin folder cannot be read.
    #[error("reading the plugin folder {dir}")]
    Folder {
        /// The folder.
        dir: String,
        /// The error of the file system.
        source: io::Error,
    },
    /// The cache of compiled code cannot be used.
    #[error("using OUTBOX_CACHE_DIR: {0}")]
    Cache(String),
    /// The runtime does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The component is refused. Only [`load_time`] errors with this; [`inspect`] reports refusals.
    #[error(transparent)]
    Refused(#[from] LoadError),
}

/// What was found out about a component. Without errors a host would load it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// The plugin's name: the file stem.
    pub name: String,
    /// The component's path.
    pub file: PathBuf,
    /// The component's size in bytes.
    pub size: u64,
    /// The component's SHA-256, as a manifest pins it.
    pub digest: String,
    /// What is known about its signature, in words.
    pub signature: String,
    /// The language and the tool that the component names, if it does.
    pub made_with: Option<String>,
    /// The time of compiling; in JSON `compile_time_ms`.
    #[serde(rename = "compile_time_ms", serialize_with = "milliseconds")]
    pub compile_time: Duration,
    /// The bytes of memory that an instance begins with, if one can be created.
    pub memory_at_start: Option<u64>,
    /// The world that the component was built for, if it exports a handler.
    pub world: Option<String>,
    /// How the component's contract differs from this host's, in words.
    pub differences: Vec<String>,
    /// The interfaces that the component imports.
    pub imports: Vec<String>,
    /// The interfaces that the component exports.
    pub exports: Vec<String>,
    /// The name that the component reports.
    pub described_name: Option<String>,
    /// The version that the component reports.
    pub version: Option<String>,
    /// The types whose items the plugin would get.
    pub types: Vec<String>,
    /// The manifest lines that would grant what the component imports without a grant.
    pub missing_grants: Option<String>,
    /// The longest time of one attempt: the manifest's timeout, else what fits into the host's lease; in JSON
    /// `attempt_time_ms`.
    #[serde(rename = "attempt_time_ms", serialize_with = "milliseconds")]
    pub attempt_time: Duration,
    /// Attempts after the first one, before an item is dead-lettered.
    pub max_retries: u32,
    /// The limits of the manifest, or their defaults.
    pub limits: Limits,
    /// Whether a dead-lettered item blocks its ordering key.
    pub on_dead: OnDead,
    /// The canary of a new version.
    #[serde(rename = "reload")]
    pub canary: CanaryPolicy,
    /// Why a host would not load the component.
    pub errors: Vec<String>,
}

/// Inspects a component and the manifest beside it. Errors only if the files cannot be read or the engine does not
/// start; refusals are in [`Inspection::errors`].
pub async fn inspect(file: &Path, settings: PluginSettings) -> Result<Inspection, InspectError> {
    let source = read(file)?;
    let loader = Loader::start(&settings, 1, TlsConfig::public(), None)?;
    let mut inspection = Inspection {
        name: source.name.clone(),
        file: source.file.clone(),
        size: source.wasm.len() as u64,
        digest: source.digest.to_string(),
        signature: loader.signature(&source),
        made_with: producers::made_with(&source.wasm),
        ..Inspection::default()
    };
    if let Err(err) = inspection.examine(&loader, &source, &settings).await {
        inspection.errors.push(err.to_string());
    }
    Ok(inspection)
}

/// Checks the text of a manifest as a load would, without a component. The error says what to change. It shows values
/// as they were written, never what a variable stands for.
pub fn check_manifest(text: &str, environment: &EnvLookup) -> Result<(), ManifestError> {
    Manifest::parse(text, environment).map(drop)
}

/// The components that a process with these settings would load. A folder that does not exist has none.
pub fn components(settings: &PluginSettings) -> Result<Vec<PathBuf>, InspectError> {
    let folder = Folder::of(settings);
    let paths = folder.list();
    let shown = || folder.directories().iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
    let paths = paths.map_err(|source| InspectError::Folder { dir: shown(), source })?;
    Ok(paths.into_iter().map(|path| path.file).collect())
}

/// Measures how long a host takes to load a component, from its cache if it is there. Reading the file and starting the
/// engine are not counted.
pub async fn load_time(file: &Path, settings: PluginSettings) -> Result<Duration, InspectError> {
    let source = read(file)?;
    let cache = PrivateDir::open(&settings.cache_dir).ok().map(CodeCache::new);
    let loader = Loader::start(&settings, settings.slots, TlsConfig::public(), cache)?;
    let begun = Instant::now();
    loader.load(source).await?;
    Ok(begun.elapsed())
}

/// Reads a component with the files beside it.
pub(crate) fn read(file: &Path) -> Result<PluginSource, InspectError> {
    read_source(file).map_err(|source| InspectError::Read { file: file.display().to_string(), source })
}

impl Inspection {
    async fn examine(
        &mut self,
        loader: &Arc<Loader>,
        source: &PluginSource,
        settings: &PluginSettings,
    ) -> Result<(), LoadError> {
        if let Err(err) = loader.check_signature(source) {
            self.errors.push(err.to_string());
        }
        let read = loader.manifest(source);
        self.errors.extend(read.as_ref().err().map(ToString::to_string));
        // What a manifest grants that cannot be used is not known.
        let is_known = read.is_ok();
        let manifest = read.unwrap_or_default();
        self.apply(&manifest, settings);
        compatibility::check_bytes(&source.wasm, &manifest.limits)?;
        let begun = Instant::now();
        let component = loader.compile(source).await?;
        self.compile_time = begun.elapsed();
        self.compare(&component);
        if is_known {
            self.find_missing_grants(source, &manifest);
        }
        compatibility::check_world(&component)?;
        let plugin = loader.link(&source.name, &component, &manifest)?;
        let description = plugin.describe().await.map_err(|failure| describe_error(&failure))?;
        compatibility::check_description(&description)?;
        self.memory_at_start = plugin.memory_at_start().await;
        self.described_name = Some(description.name.clone());
        self.version = Some(description.version.clone());
        self.types = select_types(&description, manifest.types.as_ref())?;
        Ok(())
    }

    fn apply(&mut self, manifest: &Manifest, settings: &PluginSettings) {
        self.attempt_time = manifest.timeout.unwrap_or(settings.attempt_time);
        self.max_retries = manifest.retry.applied_to(settings.retry).max_retries;
        self.limits = manifest.limits.clone();
        self.on_dead = manifest.on_dead;
        self.canary = manifest.canary;
    }

    fn compare(&mut self, component: &Component) {
        self.imports = compatibility::imports(component);
        self.exports = compatibility::exports(component);
        self.world = compatibility::target(component);
        self.differences = contract_diff::differences(component);
    }

    fn find_missing_grants(&mut self, source: &PluginSource, manifest: &Manifest) {
        self.missing_grants = compatibility::missing_grants(&self.imports, &manifest.grants);
        if self.missing_grants.is_some() {
            self.errors.push(why_ungranted(source));
        }
    }
}
