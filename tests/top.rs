//! `outbox top`: the overview of the cockpit in a terminal, of a store and of a host, on both stores.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cockpit::Desk;
use crate::support::guests::root;
use crate::support::host::HostConfig;
use crate::support::{Backend, Fixture, dead, on_each_backend, ordered};

/// The settings of a command that uses the store of the fixture.
fn plan(fixture: &Fixture, dir: &Path) -> HostConfig {
    std::fs::create_dir(dir.join("plugins.d")).unwrap();
    HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir).set("OUTBOX_DB", &fixture.test_db.address())
}

fn once(plan: &HostConfig, args: &[&str]) -> (Option<i32>, String, String) {
    let output = plan.run(&[&["top", "--once"], args].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A dead item that blocks a key with one item behind it.
async fn trouble(fixture: &Fixture) {
    fixture.enqueue(ordered("a")).await;
    fixture.enqueue(ordered("b")).await;
    let claim = fixture.claim_one("mail").await;
    fixture.store.settle(&claim.reference(), dead()).await.unwrap();
}

mod on_each {
    use super::*;

    pub(super) async fn a_store_is_shown_in_the_words_of_the_cockpit(backend: Backend) {
        let desk = Desk::open(backend).await;
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(&desk.fixture, dir.path());
        let (code, calm, _) = once(&plan, &[]);
        assert_eq!((code, calm.lines().next()), (Some(0), Some("Nothing needs you.")), "{calm}");
        trouble(&desk.fixture).await;
        let (code, text, _) = once(&plan, &[]);
        assert_eq!(code, Some(0), "{text}");
        let page = desk.get("/cockpit").await.text();
        for words in [
            "Two things need you",
            "The key k is blocked; 1 item waits behind item 1",
            "1 dead letter waits for a decision",
        ] {
            assert!(text.contains(words) && page.contains(words), "{words}:\n{text}\n{page}");
        }
        for words in ["→ outbox replay 1, or outbox unblock 'k'", "PENDING          1  oldest", "DLQ              1"]
        {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        assert!(!text.contains('\u{1b}') && text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    pub(super) async fn a_host_is_shown_like_its_store_to_who_may_read(backend: Backend) {
        let fixture = Fixture::new(backend).await;
        trouble(&fixture).await;
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(&fixture, dir.path()).set("OUTBOX_TOKEN", "a-token-that-is-long-enough");
        let host = plan.start("serve").await;
        let plan = plan.set("OUTBOX_LISTEN", host.url.trim_start_matches("http://"));
        let (code, text, told) = once(&plan, &["--url", &host.url]);
        assert_eq!(code, Some(0), "{told}");
        assert!(text.starts_with("Two things need you.") && text.contains("outbox replay 1"), "{text}");
        let (code, _, told) = once(&plan.clone().set("OUTBOX_TOKEN", ""), &["--url", &host.url]);
        assert!(code == Some(1) && told.contains("answers 401") && told.contains("--token-file"), "{told}");
        std::fs::write(dir.path().join("token"), "a-token-that-is-long-enough\n").unwrap();
        let elsewhere = plan.clone().set("OUTBOX_TOKEN", "").set("OUTBOX_LISTEN", "127.0.0.1:1");
        let (code, _, told) = once(&elsewhere, &["--url", &host.url, "--token-file", "token"]);
        assert_eq!(code, Some(0), "{told}");
        let (code, _, told) = once(&plan.set("OUTBOX_TOKEN", "another-token-of-nobody"), &["--url", &host.url]);
        assert!(code == Some(1) && told.contains("answers 401") && !told.contains("another-token"), "{told}");
    }

    pub(super) async fn the_terminal_is_as_it_was_after_a_key_a_signal_and_a_new_size(backend: Backend) {
        let fixture = Fixture::new(backend).await;
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(&fixture, dir.path()).set("TERM", "xterm-256color");
        for then in ["quit", "terminate", "resize"] {
            let ended = in_terminal(&plan, "Nothing needs you", then, &["top"]);
            assert_eq!(ended["code"], 0, "{then}: {ended}");
            assert!(ended["is_restored"] == true && has(&ended["last"], "\u{1b}[?1049l"), "{then}: {ended}");
            assert!(has(&ended["shown"], "\u{1b}[?1049h") && has(&ended["shown"], "\u{1b}[3"), "{then}: {ended}");
        }
        let colourless = in_terminal(&plan.set("NO_COLOR", "1"), "Nothing needs you", "quit", &["top"]);
        assert!(!["\u{1b}[31", "\u{1b}[38"].iter().any(|colour| has(&colourless["shown"], colour)), "{colourless}");
    }
}

on_each_backend! {
    a_store_is_shown_in_the_words_of_the_cockpit
    a_host_is_shown_like_its_store_to_who_may_read
    the_terminal_is_as_it_was_after_a_key_a_signal_and_a_new_size
}

fn has(text: &Value, part: &str) -> bool {
    text.as_str().unwrap().contains(part)
}

/// Runs a command in a terminal until it shows a text, then does something to it.
fn in_terminal(plan: &HostConfig, until: &str, then: &str, args: &[&str]) -> Value {
    let script = root().join("tests/top/terminal.py");
    let command: Command = plan.command(args);
    let mut python = Command::new("python3");
    python.arg(script).args(["80", "24", until, then]).arg(command.get_program()).args(command.get_args());
    python.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = python.current_dir(command.get_current_dir().unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_store_that_is_not_there_is_said_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path()).set("TERM", "xterm");
    let (code, _, told) = once(&plan, &[]);
    assert!(code == Some(1) && told.contains("there is no database"), "{told}");
    let ended = in_terminal(&plan, "It is not known whether anything needs you.", "quit", &["top"]);
    assert_eq!((&ended["code"], &ended["is_restored"]), (&0.into(), &true.into()), "{ended}");
}

#[test]
fn what_cannot_be_asked_is_refused_before_anything_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path());
    let (code, _, told) = once(&plan, &["--url", "127.0.0.1:7070"]);
    assert!(code == Some(2) && told.contains("http://127.0.0.1:7070"), "{told}");
    let (code, _, told) = once(&plan, &["--url", "http://127.0.0.1:1"]);
    assert!(code == Some(1) && told.contains("asking http://127.0.0.1:1"), "{told}");
}
