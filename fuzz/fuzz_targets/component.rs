//! The host refuses a damaged component with a reason, or the component passes every check.

#![no_main]

mod plugin_settings;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outbox::runtime::inspect;
use tempfile::TempDir;
use tokio::runtime::Runtime;

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
    let inspection = RUNTIME.block_on(inspect(&file, plugin_settings::of(HOME.path()))).unwrap();
    assert!(!inspection.types.is_empty() || !inspection.errors.is_empty(), "{inspection:?}");
    assert!(inspection.errors.iter().all(|error| !error.is_empty()), "{inspection:?}");
});
