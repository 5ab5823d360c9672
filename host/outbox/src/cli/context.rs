//! What every verb works with: the configuration and the output, and the way to the store.

use std::sync::Arc;

use outbox_store::Store;

use crate::cli::output::Output;
use crate::config::{Config, Flags};
use crate::open_store;
use crate::telemetry::Log;

/// What every verb works with.
pub(crate) struct Context {
    pub(crate) config: Config,
    /// The flags that `config` was made with.
    pub(crate) flags: Flags,
    pub(crate) output: Output,
    /// The command line of this process, the program first.
    pub(crate) arguments: Vec<String>,
    pub(crate) log: Log,
}

impl Context {
    /// The store as it is. Most verbs use it: only `serve`, `worker`, `enqueue` and `migrate` create or migrate one.
    pub(crate) async fn existing_store(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(open_store::open_existing(&self.config, &self.config.new_instance_name()).await?)
    }

    /// The store, created or migrated if needed.
    pub(crate) async fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(open_store::open(&self.config, &self.config.new_instance_name()).await?)
    }
}
