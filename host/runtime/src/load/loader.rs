//! Makes a generation from the bytes of a component: every check between a file in the folder and its first item.
//!
//! Components are compiled one at a time, small ones first, on a blocking thread. A component runs for the first time
//! when its file has passed all checks: it describes itself, with everything denied. The loader does not know where a
//! component comes from or what happens to its generation.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use wasmtime::component::Component;

use outbox_core::{ComponentDigest, Failure, FailureClass, PluginRuns};
use outbox_item::validate_type;

use crate::bindings::PluginPre;
use crate::bindings::exports::outbox::handler::handler::Description;
use crate::load::code_cache::CodeCache;
use crate::load::compatibility;
use crate::load::compile_queue::{CompileQueue, QueuePlace};
use crate::load::manifest::Manifest;
use crate::load::manifest::environment::EnvLookup;
use crate::load::manifest::types::TypeNames;
use crate::load::signature::TrustedKeys;
use crate::load::source::{LoadError, PluginSource};
use crate::outgoing::authorities::TlsConfig;
use crate::reload::canary::Canary;
use crate::reload::conduct::Conduct;
use crate::sandbox::engine::SharedEngine;
use crate::sandbox::engine_errors::PoolLimit;
use crate::sandbox::instance::{DESCRIBE_CPU, DESCRIBE_TIMEOUT, LinkedPlugin};
use crate::settings::PluginSettings;
use crate::start_error::StartError;

/// The longest time of compiling one component. Components made of Python, the largest that people write, take half a
/// minute in a debug build of the host, and minutes on a busy machine.
const COMPILE_MAX: Duration = Duration::from_mins(10);

/// One loaded version of a plugin: a component with the manifest that it was loaded with. Immutable. Attempts hold it
/// until they end.
pub(crate) struct Generation {
    /// The number of this load in the process, ascending from 1.
    pub number: u64,
    /// See [`PluginSource::name`].
    pub name: String,
    /// See [`PluginSource::role`].
    pub role: Option<String>,
    /// See [`PluginSource::file`].
    pub file: PathBuf,
    /// See [`PluginSource::digest`].
    pub digest: ComponentDigest,
    /// See [`PluginSource::edition`].
    pub edition: ComponentDigest,
    /// The version that the component reports.
    pub version: String,
    /// The types that the component handles and the manifest does not exclude.
    pub types: Vec<String>,
    /// The manifest.
    pub manifest: Manifest,
    /// The linked component.
    pub plugin: LinkedPlugin,
    /// The canary, which may have ended already.
    pub canary: Canary,
    /// How its latest attempts ended.
    pub conduct: Conduct,
    /// Whether no version before it is known, so that only its own first items tell how it works.
    pub is_first: bool,
    /// Whether all of its first items have failed for good, and nothing was done about it yet.
    pub is_hopeless: AtomicBool,
    /// Each running attempt holds a clone.
    pub busy: Arc<()>,
}

impl Generation {
    /// What its attempts came to.
    pub(crate) fn runs(&self) -> PluginRuns {
        let (attempts, cpu) = self.plugin.cpu_total.read();
        PluginRuns {
            attempts,
            cpu_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
            faults: self.conduct.faults(),
        }
    }

    /// Whether attempts are running on this generation.
    pub(crate) fn is_busy(&self) -> bool {
        Arc::strong_count(&self.busy) > 1
    }

    /// Whether something must be done about a version that has not worked yet. True once.
    pub(crate) fn take_hopeless(&self) -> bool {
        self.is_hopeless.swap(false, Ordering::Relaxed)
    }
}

/// Makes generations.
pub(crate) struct Loader {
    engine: SharedEngine,
    cache: Option<CodeCache>,
    environment: EnvLookup,
    keys: TrustedKeys,
    compile_queue: Arc<CompileQueue>,
    last_number: AtomicU64,
}

impl Loader {
    /// A loader for one engine. Without a cache every load compiles.
    pub(crate) fn new(
        engine: SharedEngine,
        cache: Option<CodeCache>,
        environment: EnvLookup,
        keys: TrustedKeys,
    ) -> Self {
        Self { engine, cache, environment, keys, compile_queue: Arc::default(), last_number: AtomicU64::new(0) }
    }

    /// A loader with an engine of its own, of so many slots. Errors if the engine does not start or a key cannot be read.
    pub(crate) fn start(
        settings: &PluginSettings,
        slots: usize,
        tls: TlsConfig,
        cache: Option<CodeCache>,
    ) -> Result<Arc<Self>, StartError> {
        let keys = TrustedKeys::read(&settings.keys)?;
        let engine = SharedEngine::new(slots, Arc::clone(&settings.resolver), tls)?;
        Ok(Arc::new(Self::new(engine, cache, Arc::clone(&settings.environment), keys)))
    }

    /// Keeps the compiled code of these components in the cache.
    pub(crate) fn keep_code(&self, digests: impl Iterator<Item = ComponentDigest>) {
        if let Some(cache) = &self.cache {
            cache.keep(digests.map(|digest| digest.to_string()).collect());
        }
    }

    /// Makes the generation of a source. Errors with the first check that fails. The call itself takes the place in the
    /// queue of components that are compiled: of the futures that are polled, that of the smallest one comes first.
    pub(crate) fn load(
        self: &Arc<Self>,
        source: PluginSource,
    ) -> impl Future<Output = Result<Generation, LoadError>> + use<> {
        let (loader, place) = (Arc::clone(self), self.compile_queue.join(source.wasm.len()));
        async move { loader.load_from(place, source).await }
    }

    async fn load_from(self: &Arc<Self>, place: QueuePlace, source: PluginSource) -> Result<Generation, LoadError> {
        self.check_signature(&source)?;
        let manifest = self.manifest(&source)?;
        compatibility::check_bytes(&source.wasm, &manifest.limits)?;
        let (component, _) = self.compile_from(place, &source).await?;
        compatibility::check_world(&component)?;
        check_grants(&source, &component, &manifest)?;
        let plugin = self.link(&source.name, &component, &manifest)?;
        let description = plugin.describe().await.map_err(|failure| describe_error(&failure))?;
        compatibility::check_description(&description)?;
        let types = select_types(&description, manifest.types.as_ref())?;
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let edition = source.edition();
        let PluginSource { name, role, file, digest, .. } = source;
        let (version, canary, busy) = (description.version, Canary::skipped(Instant::now()), Arc::default());
        let (conduct, is_first) = (Conduct::default(), false);
        Ok(Generation {
            number,
            name,
            role,
            file,
            digest,
            edition,
            version,
            types,
            manifest,
            plugin,
            canary,
            conduct,
            is_first,
            is_hopeless: AtomicBool::new(false),
            busy,
        })
    }

    /// Errors if keys are configured and none of them has signed the component.
    pub(crate) fn check_signature(&self, source: &PluginSource) -> Result<(), LoadError> {
        self.keys.check_source(source)
    }

    /// What is known about the signature, in words.
    pub(crate) fn signature(&self, source: &PluginSource) -> String {
        self.keys.describe(source)
    }

    /// The manifest of a source. Errors if it pins another component.
    pub(crate) fn manifest(&self, source: &PluginSource) -> Result<Manifest, LoadError> {
        read_manifest(source, &self.environment)
    }

    /// Compiles a source, or takes its code from the cache.
    pub(crate) async fn compile(self: &Arc<Self>, source: &PluginSource) -> Result<Component, LoadError> {
        Ok(self.compile_and_keep(source).await?.0)
    }

    /// Compiles a source, or takes its code from the cache. Also says whether the cache has the code now.
    pub(crate) async fn compile_and_keep(
        self: &Arc<Self>,
        source: &PluginSource,
    ) -> Result<(Component, bool), LoadError> {
        self.compile_from(self.compile_queue.join(source.wasm.len()), source).await
    }

    async fn compile_from(
        self: &Arc<Self>,
        place: QueuePlace,
        source: &PluginSource,
    ) -> Result<(Component, bool), LoadError> {
        // What is in the cache does not wait for components that are being compiled.
        if let Some(component) = self.cached(source).await {
            return Ok((component, true));
        }
        place.turn().await;
        let (loader, wasm, digest) = (Arc::clone(self), Arc::clone(&source.wasm), source.digest.clone());
        let compile = move || match &loader.cache {
            Some(cache) => cache.compile(&loader.engine.wasmtime, digest.as_str(), &wasm),
            None => Ok((Component::from_binary(&loader.engine.wasmtime, &wasm)?, false)),
        };
        let compiled = with_timeout(COMPILE_MAX, tokio::task::spawn_blocking(compile)).await?;
        drop(place);
        compiled.map_err(|err| match PoolLimit::recognise(&err) {
            Some(limit) => LoadError::new(limit.to_string()),
            None => LoadError::new(format!("it is damaged, incomplete or not supported: {err:#}")),
        })
    }

    /// The component of a source, if the cache has its code.
    async fn cached(self: &Arc<Self>, source: &PluginSource) -> Option<Component> {
        let (loader, digest) = (Arc::clone(self), source.digest.clone());
        let read = move || loader.cache.as_ref()?.get(&loader.engine.wasmtime, digest.as_str());
        tokio::task::spawn_blocking(read).await.ok()?
    }

    /// Links a component to the host's functions. Errors if a type differs from the contract.
    pub(crate) fn link(
        &self,
        name: &str,
        component: &Component,
        manifest: &Manifest,
    ) -> Result<LinkedPlugin, LoadError> {
        let linked = self.engine.linker.instantiate_pre(component).and_then(PluginPre::new);
        let linked = linked.map_err(|reason| compatibility::incompatible(component, &reason))?;
        Ok(LinkedPlugin::new(name, linked, manifest, &self.engine))
    }
}

/// The manifest of a source. Errors if it pins another component.
pub(crate) fn read_manifest(source: &PluginSource, environment: &EnvLookup) -> Result<Manifest, LoadError> {
    let Some(text) = &source.manifest else { return Ok(Manifest::default()) };
    let manifest = Manifest::parse(text, environment);
    let manifest = manifest.map_err(|err| LoadError::new(format!("{}.toml: {err}", source.name)))?;
    match &manifest.sha256 {
        Some(pin) if *pin != source.digest => Err(LoadError::new(format!(
            "its SHA-256 is {}, and {}.toml pins {pin}: one of the two is not the file that was meant",
            source.digest, source.name
        ))),
        _ => Ok(manifest),
    }
}

/// Errors with the missing manifest lines if a component imports what it is not granted.
pub(crate) fn check_grants(source: &PluginSource, component: &Component, manifest: &Manifest) -> Result<(), LoadError> {
    let Some(lines) = compatibility::missing_grants(&compatibility::imports(component), &manifest.grants) else {
        return Ok(());
    };
    let place = match &source.manifest {
        Some(_) => format!("these lines in {}.toml grant it", source.name),
        None => "a file with these lines grants it".to_owned(),
    };
    Err(LoadError::new(format!("{}; {place}:\n{lines}", why_ungranted(source))))
}

/// Why a component is not granted all that it imports: its manifest does not, or there is none.
pub(crate) fn why_ungranted(source: &PluginSource) -> String {
    if source.manifest.is_some() {
        return format!("it imports what {}.toml does not grant", source.name);
    }
    let files: Vec<_> = source.manifest_files.iter().map(|file| file.display().to_string()).collect();
    format!("it imports what only a manifest grants, and has none: there is no file {}", files.join(" and no file "))
}

/// Waits for a compilation up to `limit`. It cannot be interrupted: after the limit it keeps its thread until it ends,
/// and the file is not tried again.
async fn with_timeout<T>(limit: Duration, compiling: JoinHandle<T>) -> Result<T, LoadError> {
    match tokio::time::timeout(limit, compiling).await {
        Ok(compiled) => compiled.map_err(|err| LoadError::new(format!("compiling it failed: {err}"))),
        Err(_) => {
            Err(LoadError::new(format!("compiling it took longer than a component may take, which is {limit:?}")))
        }
    }
}

/// The refusal of a component that could not describe itself.
pub(crate) fn describe_error(failure: &Failure) -> LoadError {
    let message = match failure.class {
        FailureClass::Cpu => format!("it computed for longer than {DESCRIBE_CPU:?} to describe itself"),
        FailureClass::Timeout => format!("it did not describe itself within {DESCRIBE_TIMEOUT:?}"),
        class => format!("it could not describe itself ({class}): {}", failure.message),
    };
    match failure.class {
        // The reason may be a busy host. All other failures will happen again.
        FailureClass::Timeout | FailureClass::Host => LoadError::transient(message),
        _ => LoadError::new(message),
    }
}

/// The types that a component describes, restricted by its manifest, sorted.
pub(crate) fn select_types(description: &Description, manifest: Option<&TypeNames>) -> Result<Vec<String>, LoadError> {
    for described in &description.types {
        validate_type(described).map_err(|err| LoadError::new(format!("it describes a type that is none: {err}")))?;
    }
    let described = || description.types.join(", ");
    let mut types = match manifest {
        None => description.types.clone(),
        Some(wanted) => {
            for item_type in wanted.keys() {
                validate_type(item_type)
                    .map_err(|err| LoadError::new(format!("`types` names a type of items that is none: {err}")))?;
            }
            if let Some(unknown) = wanted.values().find(|wanted| !description.types.contains(wanted)) {
                let message =
                    format!("`types` names {unknown:?}, which it does not handle: it handles {}", described());
                return Err(LoadError::new(message));
            }
            wanted.keys().cloned().collect()
        }
    };
    types.sort();
    types.dedup();
    if types.is_empty() { Err(LoadError::new("it handles no type of item")) } else { Ok(types) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::private_dir::PrivateDir;
    use crate::outgoing::resolve::SystemResolver;

    #[tokio::test]
    async fn what_is_in_the_cache_does_not_wait_for_its_turn_to_compile() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SharedEngine::new(1, Arc::new(SystemResolver), TlsConfig::public()).unwrap();
        let cache = CodeCache::new(PrivateDir::open(&dir.path().join("cache")).unwrap());
        let loader = Arc::new(Loader::new(engine, Some(cache), Arc::new(|_| None), TrustedKeys::default()));
        let wasm = wat::parse_str("(component)").unwrap();
        let source = PluginSource {
            name: "p".to_owned(),
            role: None,
            file: "p.wasm".into(),
            digest: ComponentDigest::of(&wasm),
            wasm: Arc::new(wasm),
            manifest: None,
            manifest_files: Vec::new(),
            signature: None,
        };
        let (_, is_kept) = loader.compile_and_keep(&source).await.unwrap();
        assert!(is_kept);
        let compiling = loader.compile_queue.join(0);
        compiling.turn().await;
        let answer = tokio::time::timeout(Duration::from_mins(1), loader.compile_and_keep(&source)).await;
        assert!(answer.expect("it waits for the one that is being compiled").is_ok());
    }

    #[tokio::test]
    async fn compiling_is_given_up_when_it_takes_too_long() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let quick = with_timeout(Duration::from_mins(1), tokio::task::spawn_blocking(|| 1)).await;
        assert_eq!(quick, Ok(1));
        let slow = with_timeout(Duration::from_millis(10), tokio::task::spawn_blocking(move || wait.recv())).await;
        assert!(slow.unwrap_err().to_string().contains("which is 10ms"));
        drop(done);
    }
}
