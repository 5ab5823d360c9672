//! The host refuses a damaged component with a reason, or the component passes every check.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use libfuzzer_sys::fuzz_target;
use outbox::core::{
    BreakerMode, OwnersError, PresentPlugin, QuarantineEntry, QuarantineError, QuarantineStore, RetryPolicy,
    StateReadError, StateReader, StateVersion, TypeOwner, TypeOwners,
};
use outbox::runtime::{PluginSettings, SystemResolver, inspect};
use tempfile::TempDir;
use tokio::runtime::Runtime;

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

/// The smallest handler, made from the same WAT as in the host's tests.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let blank = ["{imports}", "{core}", "{with}"].map(|word| (word, ""));
    let words = [
        ("{types}", r"\08\02\00\00\01\00\00\00t"),
        ("{count}", r"\01"),
        ("{memory}", "1"),
        ("{version}", "0.1.0"),
        ("{describe}", "(i32.const 8)"),
        ("{handle}", "(i32.const 1024)"),
    ];
    let source = include_str!("../../tests/wat/handler.wat").to_owned();
    let text = words.into_iter().chain(blank).fold(source, |text, (word, with)| text.replace(word, with));
    wat::parse_str(text).unwrap()
});

static HOME: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());

#[async_trait]
impl TypeOwners for Nothing {
    async fn exchange(&self, _: &[PresentPlugin]) -> Result<Vec<TypeOwner>, OwnersError> {
        Ok(Vec::new())
    }
}

fn settings() -> PluginSettings {
    PluginSettings {
        dirs: vec![HOME.path().to_owned()],
        role: None,
        cache_dir: HOME.path().join("cache"),
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

/// The good component with damage: each three bytes of the input are a position and the new byte at this position. An
/// input that begins like WebAssembly is used unchanged.
fn harmed(input: &[u8]) -> Vec<u8> {
    if input.starts_with(b"\0asm") {
        return input.to_vec();
    }
    let mut bytes = GOOD.clone();
    for harm in input.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([harm[0], harm[1]])) % bytes.len();
        bytes[place] = harm[2];
    }
    // A single remaining byte truncates the component.
    if let [rest] = input.chunks_exact(3).remainder() {
        bytes.truncate(bytes.len() * usize::from(*rest) / 255);
    }
    bytes
}

fuzz_target!(|input: &[u8]| {
    let file = HOME.path().join("harmed.wasm");
    std::fs::write(&file, harmed(input)).unwrap();
    let inspection = RUNTIME.block_on(inspect(&file, settings())).unwrap();
    assert!(!inspection.types.is_empty() || !inspection.errors.is_empty(), "{inspection:?}");
    assert!(inspection.errors.iter().all(|error| !error.is_empty()), "{inspection:?}");
});
