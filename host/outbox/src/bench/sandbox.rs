//! The components that the bench measures. Each has its own folder and its own cache.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use outbox_core::{BreakerMode, Handler};
use outbox_runtime::{PluginSettings, Plugins, SystemResolver, load_time};

use crate::bench::environment::BenchEnvironment;
use crate::config::Config;
use crate::host::store_adapters::WithoutStore;

/// A component that imports nothing and does nothing.
const NOOP: &str = include_str!("noop.wat");

/// The component's file in its folder.
const FILE: &str = "bench.wasm";

/// A component in a folder, with a cache for its compiled code.
pub(crate) struct Sandbox {
    settings: PluginSettings,
    folder: TempDir,
}

/// A component that serves items.
pub(crate) struct ServedComponent {
    pub(crate) handler: Arc<dyn Handler>,
    /// The first type that it serves.
    pub(crate) item_type: String,
}

impl Sandbox {
    /// The built-in component.
    pub(crate) fn noop(environment: &BenchEnvironment, config: &Config) -> anyhow::Result<Self> {
        let wasm = wat::parse_str(NOOP).context("assembling the built-in component")?;
        Self::install(environment, config, &wasm, None)
    }

    /// A component from a file, with its manifest if it needs one.
    pub(crate) fn from_file(
        environment: &BenchEnvironment,
        config: &Config,
        file: &Path,
        manifest: Option<&str>,
    ) -> anyhow::Result<Self> {
        let wasm = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        Self::install(environment, config, &wasm, manifest)
    }

    fn install(
        environment: &BenchEnvironment,
        config: &Config,
        wasm: &[u8],
        manifest: Option<&str>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(environment.path())?;
        std::fs::write(folder.path().join(FILE), wasm)?;
        if let Some(manifest) = manifest {
            std::fs::write(folder.path().join("bench.toml"), manifest)?;
        }
        let settings = PluginSettings {
            dirs: vec![folder.path().to_owned()],
            image_dirs: Vec::new(),
            role: None,
            cache_dir: folder.path().join("cache"),
            keeps_in_cache: true,
            attempt_time: outbox_worker::attempt_time_without_timeout(config.lease),
            retry: config.retry,
            breaker: BreakerMode::Off,
            slots: config.concurrency,
            environment: Arc::new(|_| None),
            keys: Vec::new(),
            ca_files: Vec::new(),
            state: Arc::new(WithoutStore),
            quarantine: Arc::new(WithoutStore),
            owners: Arc::new(WithoutStore),
            resolver: Arc::new(SystemResolver),
        };
        Ok(Self { settings, folder })
    }

    /// Starts to serve the component.
    pub(crate) async fn start(&self) -> anyhow::Result<ServedComponent> {
        let plugins = Plugins::start(self.settings.clone(), &CancellationToken::new())?;
        plugins.scanned().await;
        let Some(served_type) = plugins.served_types().into_iter().next() else {
            let errors: Vec<_> = plugins.status().into_iter().filter_map(|status| status.error).collect();
            bail!("the component is not served: {}", errors.join("; "));
        };
        Ok(ServedComponent { handler: plugins, item_type: served_type.item_type })
    }

    /// The time to load the component. The second time, its compiled code is in the cache.
    pub(crate) async fn load_time(&self) -> anyhow::Result<Duration> {
        Ok(load_time(&self.folder.path().join(FILE), self.settings.clone()).await?)
    }

    /// Deletes the compiled code from the cache.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(&self.settings.cache_dir) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err).context("removing compiled code"),
            _ => Ok(()),
        }
    }
}

/// The webhook handler of the repository in the plugin folder; `None` before `make plugins` has built it.
pub(crate) fn webhook_file(config: &Config) -> Option<PathBuf> {
    config.plugins.file("webhook.wasm").filter(|file| file.exists())
}
