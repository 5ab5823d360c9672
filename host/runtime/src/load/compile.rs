//! Fills the cache of compiled code before a host starts, such as at the build of an image.
//!
//! It needs no manifest and none of its variables, which only the host that will run has. So it does not say whether a
//! host would load a component (`inspect`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::load::code_cache::CodeCache;
use crate::load::compatibility;
use crate::load::inspect::{InspectError, read};
use crate::load::loader::Loader;
use crate::load::manifest::limits::{Limits, milliseconds};
use crate::load::private_dir::PrivateDir;
use crate::load::source::{LoadError, PluginSource};
use crate::outgoing::authorities::TlsConfig;
use crate::settings::PluginSettings;
use crate::with_causes;

/// What became of one component.
#[derive(Clone, Debug, Serialize)]
pub struct Compiled {
    /// The component's path.
    pub file: PathBuf,
    /// The component's SHA-256.
    pub digest: String,
    /// The time until its code was in the cache; in JSON `time_ms`. Short where it was there already.
    #[serde(rename = "time_ms", serialize_with = "milliseconds")]
    pub time: Duration,
    /// Why its code is not in the cache.
    pub error: Option<String>,
}

/// Compiles components into the cache of these settings, one after the other. Errors if the cache cannot be used, if a
/// file cannot be read, or if the engine does not start; nothing is compiled then.
pub async fn compile(files: &[PathBuf], settings: PluginSettings) -> Result<Vec<Compiled>, InspectError> {
    let sources = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let cache = PrivateDir::open(&settings.cache_dir).map_err(|err| InspectError::Cache(with_causes(&err)))?;
    // As many slots as the host has: the code fits an engine of the same kind only.
    let loader = Loader::start(&settings, settings.slots, TlsConfig::public(), Some(CodeCache::new(cache)))?;
    loader.keep_code(sources.iter().map(|source| source.digest.clone()));
    let mut compiled = Vec::new();
    for source in sources {
        let begun = Instant::now();
        let error = into_cache(&loader, &source).await.err().map(|err| err.to_string());
        compiled.push(Compiled { time: begun.elapsed(), digest: source.digest.to_string(), file: source.file, error });
    }
    Ok(compiled)
}

async fn into_cache(loader: &Arc<Loader>, source: &PluginSource) -> Result<(), LoadError> {
    loader.check_signature(source)?;
    compatibility::check_bytes(&source.wasm, &Limits::default())?;
    let (component, is_kept) = loader.compile_and_keep(source).await?;
    compatibility::check_world(&component)?;
    if is_kept { Ok(()) } else { Err(LoadError::new("its code could not be written into the cache; the log says why")) }
}
