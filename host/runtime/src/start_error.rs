//! Why no plugin of a process can run.

use crate::load::signature::TrustedKeyError;
use crate::outgoing::authorities::AuthorityError;
use crate::sandbox::engine::EngineStartError;

/// Why the runtime does not start. Each reason concerns the whole process; a component that cannot be loaded is not
/// among them.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key of `OUTBOX_PLUGIN_KEYS` cannot be read.
    #[error(transparent)]
    Keys(#[from] TrustedKeyError),
    /// A file of certificates cannot be read.
    #[error(transparent)]
    Authorities(#[from] AuthorityError),
    /// The WebAssembly engine does not start.
    #[error(transparent)]
    Engine(#[from] EngineStartError),
}
