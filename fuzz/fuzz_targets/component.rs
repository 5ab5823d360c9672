//! A component that was harmed is refused with a reason, or is one that passes every check.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use libfuzzer_sys::fuzz_target;
use outbox::core::{QuarantineEntry, QuarantineStore, StateReader, StateVersion, RetryPolicy};
use outbox::runtime::{PluginSettings, SystemResolver};
use outbox::runtime::load::inspect;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Where there is no store.
struct Nothing;

#[async_trait]
impl StateReader for Nothing {
    async fn read(&self, _: &str, _: &str) -> anyhow::Result<(Option<Vec<u8>>, StateVersion)> {
        Ok((None, None))
    }
}

#[async_trait]
impl QuarantineStore for Nothing {
    async fn add(&self, _: &QuarantineEntry) -> anyhow::Result<()> {
        Ok(())
    }

    async fn list(&self) -> anyhow::Result<Vec<QuarantineEntry>> {
        Ok(Vec::new())
    }
}

/// The smallest handler that there is, as the host's tests make it.
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

fn settings() -> PluginSettings {
    PluginSettings {
        dir: HOME.path().to_owned(),
        role: None,
        cache_dir: HOME.path().join("cache"),
        lease: Duration::from_mins(1),
        retry: RetryPolicy::default(),
        slots: 1,
        environment: Arc::new(|_| None),
        keys: Vec::new(),
        state: Arc::new(Nothing),
        quarantine: Arc::new(Nothing),
        resolver: Arc::new(SystemResolver),
    }
}

/// The good one with three bytes of the input at a time as a place and what stands there instead; what
/// begins like WebAssembly is taken as it is.
fn harmed(input: &[u8]) -> Vec<u8> {
    if input.starts_with(b"\0asm") {
        return input.to_vec();
    }
    let mut bytes = GOOD.clone();
    for harm in input.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([harm[0], harm[1]])) % bytes.len();
        bytes[place] = harm[2];
    }
    // What is left over cuts it short.
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
