//! The README's commands, run as a new user would run them: in order, in one shell, in an empty folder.

use std::process::{Command, Stdio};

use crate::support::blocks;
use crate::support::guests::root;
use crate::support::host::free_port;

#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (first, rest) = blocks(&readme, "sh").split_first().map(|(first, rest)| (*first, rest.join("\n"))).unwrap();
    let script = format!(
        "set -euo pipefail\ncd '{}'\n{first}\ncd '{}'\n{rest}\nwait\n",
        root().display(),
        folder.path().display()
    );
    let output = Command::new("timeout")
        .args(["1200", "bash", "-c", &script])
        .env("OUTBOX_LISTEN", format!("127.0.0.1:{}", free_port()))
        .env("OUTBOX_CACHE_DIR", folder.path().join("cache"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("Hello, Ada!"), "{stdout}");
    assert!(stdout.contains("nobody to greet"), "{stdout}");
}

#[test]
fn every_setting_is_in_the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let help = Command::new(env!("CARGO_BIN_EXE_outbox")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    for variable in words.filter(|word| word.starts_with("OUTBOX_")) {
        let short = variable.trim_start_matches("OUTBOX");
        assert!(readme.contains(variable) || readme.contains(&format!("`{short}`")), "{variable} is not in the README");
    }
}
