//! The settings of plugins in a folder, of a host without a store. It knows no component.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox::core::{
    BreakerMode, OwnersError, PresentPlugin, QuarantineEntry, QuarantineError, QuarantineStore, RetryPolicy,
    StateReadError, StateReader, StateVersion, TypeOwner, TypeOwners,
};
use outbox::runtime::{PluginSettings, SystemResolver};

/// A store without state and without a quarantine.
struct Nothing;

#[async_trait]
impl StateReader for Nothing {
    async fn read(&self, _: &str, _: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        Ok((None, None))
    }
}

#[async_trait]
impl QuarantineStore for Nothing {
    async fn add(&self, _: &QuarantineEntry) -> Result<(), QuarantineError> {
        Ok(())
    }

    async fn pause(&self, _: &str, _: &str) -> Result<(), QuarantineError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl TypeOwners for Nothing {
    async fn exchange(&self, _: &[PresentPlugin]) -> Result<Vec<TypeOwner>, OwnersError> {
        Ok(Vec::new())
    }
}

/// The settings of plugins in the folder, which also has the cache.
pub(crate) fn of(folder: &Path) -> PluginSettings {
    PluginSettings {
        dirs: vec![folder.to_owned()],
        image_dirs: Vec::new(),
        role: None,
        cache_dir: folder.join("cache"),
        keeps_in_cache: true,
        attempt_time: Duration::from_mins(1),
        retry: RetryPolicy::default(),
        breaker: BreakerMode::default(),
        slots: 1,
        environment: Arc::new(|_| None),
        keys: Vec::new(),
        state: Arc::new(Nothing),
        quarantine: Arc::new(Nothing),
        owners: Arc::new(Nothing),
        resolver: Arc::new(SystemResolver),
        ca_files: Vec::new(),
    }
}
