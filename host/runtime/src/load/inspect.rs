//! What a component is and whether it would be loaded, without loading it: `outbox plugin inspect`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use wasmtime::component::Component;

use crate::PluginSettings;
use crate::load::code_cache::CodeCache;
use crate::load::folder::{Folder, read_source};
use crate::load::loader::{LoadError, Loader, PluginSource, describe_error, select_types};
use crate::load::manifest::limits::Limits;
use crate::load::manifest::{CanaryPolicy, EnvLookup, Manifest};
use crate::load::private_dir::PrivateDir;
use crate::load::signature::TrustedKeys;
use crate::load::{compatibility, contract_diff, producers};
use crate::sandbox::engine::SharedEngine;
use outbox_core::OnDead;

/// What was found out about a component. Without errors it would be loaded.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// The name that the plugin would have.
    pub name: String,
    /// The component's path.
    pub file: PathBuf,
    /// The component's size in bytes.
    pub size: u64,
    /// The component's SHA-256, as a manifest pins it.
    pub digest: String,
    /// What is known of its signature.
    pub signature: String,
    /// The language that it was written in and the tool that made it, as far as it tells.
    pub made_with: Option<String>,
    /// How long compiling took.
    pub compile_time: Duration,
    /// The bytes of memory that an instance begins with.
    pub memory_at_start: Option<u64>,
    /// The world that it was made for.
    pub world: Option<String>,
    /// How what it knows of the contract differs from this host's.
    pub differences: Vec<String>,
    /// What the component imports.
    pub imports: Vec<String>,
    /// What the component exports.
    pub exports: Vec<String>,
    /// The name that the component gives itself.
    pub described_name: Option<String>,
    /// The version that the component gives itself.
    pub version: Option<String>,
    /// The types that it would be given.
    pub types: Vec<String>,
    /// The manifest lines that would grant what it imports and is not granted.
    pub missing_grants: Option<String>,
    /// The longest that one attempt could take: the manifest's timeout, or else the host's lease.
    pub attempt_time: Duration,
    /// How its failures would be retried: this often after the first attempt.
    pub max_retries: u32,
    /// How much it would be given.
    pub limits: Limits,
    /// What its dead-lettered items would mean for those behind them.
    pub on_dead: OnDead,
    /// How the canary of a new version of it would go.
    #[serde(rename = "reload")]
    pub canary: CanaryPolicy,
    /// Why it would not be loaded.
    pub errors: Vec<String>,
}

/// Looks at a component and the manifest beside it. Errors when the file cannot be read at all.
pub async fn inspect(file: &Path, settings: PluginSettings) -> anyhow::Result<Inspection> {
    let source = read_source(file).with_context(|| format!("reading {}", file.display()))?;
    let keys = TrustedKeys::read(&settings.keys)?;
    let engine = SharedEngine::new(1, Arc::clone(&settings.resolver))?;
    let loader = Arc::new(Loader::new(engine, None, Arc::clone(&settings.environment), keys));
    let mut inspection = Inspection {
        name: source.name.clone(),
        file: source.file.clone(),
        size: source.wasm.len() as u64,
        digest: source.digest.clone(),
        signature: loader.signature(&source),
        made_with: producers::made_with(&source.wasm),
        ..Inspection::default()
    };
    if let Err(err) = inspection.examine(&loader, &source, &settings).await {
        inspection.errors.push(err.to_string());
    }
    Ok(inspection)
}

/// Reads a manifest as a load would, whatever component lies beside it. The error says what to change, and
/// shows what was written, never what a variable stands for.
pub fn check_manifest(text: &str, environment: &EnvLookup) -> anyhow::Result<()> {
    Manifest::parse(text, environment)?;
    Ok(())
}

/// The components that a process of this role would look at. A folder that is not there has none.
pub fn components(dir: &Path, role: Option<&str>) -> anyhow::Result<Vec<PathBuf>> {
    let paths = Folder::new(dir.to_owned(), role.map(str::to_owned)).list();
    let paths = paths.with_context(|| format!("reading the plugin folder {}", dir.display()))?;
    Ok(paths.into_iter().map(|path| path.file).collect())
}

/// How long a host takes to load a component that it has read, from its cache if it is there. The engine
/// runs by then, as it does in a host.
pub async fn load_time(file: &Path, settings: PluginSettings) -> anyhow::Result<Duration> {
    let source = read_source(file).with_context(|| format!("reading {}", file.display()))?;
    let cache = CodeCache::new(PrivateDir::open(&settings.cache_dir)?);
    let keys = TrustedKeys::read(&settings.keys)?;
    let engine = SharedEngine::new(settings.slots, settings.resolver)?;
    let loader = Arc::new(Loader::new(engine, Some(cache), settings.environment, keys));
    let begun = Instant::now();
    loader.load(source).await?;
    Ok(begun.elapsed())
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
        let manifest = loader.manifest(source).unwrap_or_else(|err| {
            self.errors.push(err.to_string());
            Manifest::default()
        });
        self.apply(&manifest, settings);
        compatibility::check_bytes(&source.wasm, &manifest.limits)?;
        let begun = Instant::now();
        let component = loader.compile(source).await?;
        self.compile_time = begun.elapsed();
        self.compare(&component, &manifest);
        compatibility::check_world(&component)?;
        let plugin = loader.link(&source.name, &component, &manifest)?;
        let description = plugin.describe().await.map_err(|failure| describe_error(&failure))?;
        compatibility::check_description(&description)?;
        self.memory_at_start = plugin.memory_at_start().await;
        self.described_name = Some(description.name.clone());
        self.version = Some(description.version.clone());
        self.types = select_types(&description, manifest.types.as_deref())?;
        Ok(())
    }

    fn apply(&mut self, manifest: &Manifest, settings: &PluginSettings) {
        self.attempt_time = manifest.timeout.unwrap_or(settings.lease);
        self.max_retries = manifest.retry.applied_to(settings.retry).max_retries;
        self.limits = manifest.limits.clone();
        self.on_dead = manifest.on_dead;
        self.canary = manifest.canary;
    }

    fn compare(&mut self, component: &Component, manifest: &Manifest) {
        self.imports = compatibility::imports(component);
        self.exports = compatibility::exports(component);
        self.world = compatibility::target(component);
        self.differences = contract_diff::differences(component);
        self.missing_grants = compatibility::missing_grants(&self.imports, &manifest.grants);
        if self.missing_grants.is_some() {
            self.errors.push(format!("{}.toml does not grant everything that it imports", self.name));
        }
    }
}
