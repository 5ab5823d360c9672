//! From bytes to a generation: every check that stands between a file in the folder and its first item.
//!
//! Compiling happens off the async threads and one at a time. A component is asked what it is only
//! when everything else holds, with every capability denied.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wasmtime::component::Component;

use crate::bindings::PluginPre;
use crate::bindings::exports::outbox::handler::handler::Description;
use crate::load::code_cache::CodeCache;
use crate::load::compatibility;
use crate::load::manifest::{EnvLookup, Manifest};
use crate::load::signature::TrustedKeys;
use crate::reload::canary::Canary;
use crate::sandbox::engine::SharedEngine;
use crate::sandbox::instance::{DESCRIBE_CPU, DESCRIBE_TIMEOUT, LinkedPlugin};
use crate::sandbox::pool_limits;
use outbox_core::{Failure, FailureClass};
use outbox_item::validate_type;

/// Components made of Python, the largest that people write, take half a minute in a debug build of the
/// host, and minutes where the machine is busy: that is not held against them.
const COMPILE_MAX: Duration = Duration::from_mins(10);

/// Why a file is not loaded, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct LoadError {
    message: String,
    /// Whether the same file may load at another time.
    pub is_transient: bool,
}

impl LoadError {
    /// The refusal of a file as it is.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_transient: false }
    }
}

/// A component and its manifest as they were read.
#[derive(Clone, Debug)]
pub(crate) struct PluginSource {
    /// The file stem: the plugin's name, and the owner of its state.
    pub name: String,
    /// The role whose folder it lies in.
    pub role: Option<String>,
    /// The component's path.
    pub file: PathBuf,
    /// The component.
    pub wasm: Arc<Vec<u8>>,
    /// Its SHA-256 in hex.
    pub digest: String,
    /// The manifest, if there is one.
    pub manifest: Option<String>,
    /// The signature of the component, if there is one.
    pub signature: Option<String>,
}

/// One loaded version of a plugin: a component with the manifest that it was loaded with. Immutable;
/// attempts hold it until they end.
pub(crate) struct Generation {
    /// Ascending in the order of loading, in this process.
    pub number: u64,
    /// See [`PluginSource::name`].
    pub name: String,
    /// See [`PluginSource::role`].
    pub role: Option<String>,
    /// See [`PluginSource::file`].
    pub file: PathBuf,
    /// See [`PluginSource::digest`].
    pub digest: String,
    /// The version that the component gives itself.
    pub version: String,
    /// The types that it handles and the manifest lets it.
    pub types: Vec<String>,
    /// The terms of the operator.
    pub manifest: Manifest,
    /// What runs.
    pub plugin: LinkedPlugin,
    /// Whether it has yet to prove itself.
    pub canary: Canary,
    /// Held by each attempt.
    pub busy: Arc<()>,
}

impl Generation {
    /// Whether attempts are under way on it.
    pub(crate) fn is_busy(&self) -> bool {
        Arc::strong_count(&self.busy) > 1
    }
}

/// Makes generations.
pub(crate) struct Loader {
    engine: SharedEngine,
    cache: Option<CodeCache>,
    environment: EnvLookup,
    keys: TrustedKeys,
    compiling: Mutex<()>,
    last_number: AtomicU64,
}

impl Loader {
    /// A loader for one engine; without a cache everything is compiled each time.
    pub(crate) fn new(
        engine: SharedEngine,
        cache: Option<CodeCache>,
        environment: EnvLookup,
        keys: TrustedKeys,
    ) -> Self {
        Self { engine, cache, environment, keys, compiling: Mutex::new(()), last_number: AtomicU64::new(0) }
    }

    /// The generation that a source makes, if it passes every check.
    pub(crate) async fn load(self: &Arc<Self>, source: PluginSource) -> Result<Generation, LoadError> {
        self.check_signature(&source)?;
        let manifest = self.manifest(&source)?;
        compatibility::check_bytes(&source.wasm, &manifest.limits)?;
        let component = self.compile(&source).await?;
        compatibility::check_world(&component)?;
        check_grants(&source.name, &component, &manifest)?;
        let plugin = self.link(&source.name, &component, &manifest)?;
        let description = plugin.describe().await.map_err(|failure| describe_error(&failure))?;
        compatibility::check_description(&description)?;
        let types = select_types(&description, manifest.types.as_deref())?;
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let PluginSource { name, role, file, digest, .. } = source;
        let (version, canary, busy) = (description.version, Canary::skipped(Instant::now()), Arc::default());
        Ok(Generation { number, name, role, file, digest, version, types, manifest, plugin, canary, busy })
    }

    /// Errors when only signed components run and this one is not.
    pub(crate) fn check_signature(&self, source: &PluginSource) -> Result<(), LoadError> {
        self.keys.check(source)
    }

    /// What is known of the signature, in words.
    pub(crate) fn signature(&self, source: &PluginSource) -> String {
        self.keys.describe(source)
    }

    /// The manifest of a source, when the component is the one that it pins.
    pub(crate) fn manifest(&self, source: &PluginSource) -> Result<Manifest, LoadError> {
        read_manifest(source, &self.environment)
    }

    /// The compiled component of a source.
    pub(crate) async fn compile(self: &Arc<Self>, source: &PluginSource) -> Result<Component, LoadError> {
        let _guard = self.compiling.lock().await;
        let (loader, wasm, digest) = (Arc::clone(self), Arc::clone(&source.wasm), source.digest.clone());
        let compile = move || match &loader.cache {
            Some(cache) => cache.compile(&loader.engine.wasmtime, &digest, &wasm),
            None => Component::from_binary(&loader.engine.wasmtime, &wasm),
        };
        let compiled = with_timeout(COMPILE_MAX, tokio::task::spawn_blocking(compile)).await?;
        compiled.map_err(|err| match pool_limits::explain(&err) {
            Some(message) => LoadError::new(message),
            None => LoadError::new(format!("it is damaged, incomplete or not supported: {err:#}")),
        })
    }

    /// The component linked to this host, checked type by type, on the manifest's terms.
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

/// The manifest of a source, when the component is the one that it pins.
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

/// Errors with the lines that are missing when a component imports what it is not granted.
pub(crate) fn check_grants(name: &str, component: &Component, manifest: &Manifest) -> Result<(), LoadError> {
    match compatibility::missing_grants(&compatibility::imports(component), &manifest.grants) {
        None => Ok(()),
        Some(lines) => Err(LoadError::new(format!(
            "it imports what {name}.toml does not grant; these lines in {name}.toml grant it:\n{lines}"
        ))),
    }
}

/// What compiling comes to, unless it takes too long. It cannot be interrupted: one that is given up
/// keeps its thread until it is done, and the file is not tried again.
async fn with_timeout<T>(limit: Duration, compiling: JoinHandle<T>) -> Result<T, LoadError> {
    match tokio::time::timeout(limit, compiling).await {
        Ok(compiled) => compiled.map_err(|err| LoadError::new(format!("compiling it failed: {err}"))),
        Err(_) => {
            Err(LoadError::new(format!("compiling it took longer than a component may take, which is {limit:?}")))
        }
    }
}

/// Why a component could not say what it is.
pub(crate) fn describe_error(failure: &Failure) -> LoadError {
    let message = match failure.class {
        FailureClass::Cpu => format!("it computed for longer than {DESCRIBE_CPU:?} to describe itself"),
        FailureClass::Timeout => format!("it did not describe itself within {DESCRIBE_TIMEOUT:?}"),
        class => format!("it could not describe itself ({class}): {}", failure.message),
    };
    // A busy host may be the reason; what the component did wrong itself it will do again.
    LoadError { message, is_transient: matches!(failure.class, FailureClass::Timeout | FailureClass::Host) }
}

/// The types that a component describes, narrowed by its manifest.
pub(crate) fn select_types(description: &Description, manifest: Option<&[String]>) -> Result<Vec<String>, LoadError> {
    for described in &description.types {
        validate_type(described).map_err(|err| LoadError::new(format!("it describes a type that is none: {err}")))?;
    }
    let described = || description.types.join(", ");
    let mut types = match manifest {
        None => description.types.clone(),
        Some(wanted) => {
            if let Some(unknown) = wanted.iter().find(|wanted| !description.types.contains(wanted)) {
                let message =
                    format!("`types` names {unknown:?}, which it does not handle: it handles {}", described());
                return Err(LoadError::new(message));
            }
            wanted.to_vec()
        }
    };
    types.sort();
    types.dedup();
    if types.is_empty() { Err(LoadError::new("it handles no type of item")) } else { Ok(types) }
}

/// The SHA-256 of some bytes, in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
