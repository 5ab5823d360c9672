//! The parts of `plugin new` and `plugin build` that need no external tools: what they create and what they refuse.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use super::{CliFixture, CommandOutput};

#[test]
fn a_new_project_is_whole_and_never_written_over_another() {
    let fixture = CliFixture::empty();
    for (lang, handler) in [("rust", "src/lib.rs"), ("js", "handler.js"), ("python", "handler.py")] {
        let name = format!("charge-{lang}");
        let made = fixture.json(&["plugin", "new", &name, "--lang", lang]);
        assert_eq!((&made["name"], &made["type"]), (&json!(name), &json!(name.replace('-', "_"))));
        let project = fixture.dir.path().join(&name);
        for file in [handler, &format!("{name}.toml"), "cases/greets.toml", "README.md", ".gitignore"] {
            let text = std::fs::read_to_string(project.join(file)).unwrap();
            assert!(!text.contains("{{"), "{file}: {text}");
        }
        let readme = std::fs::read_to_string(project.join("README.md")).unwrap();
        assert_eq!(readme.lines().count(), 5, "{readme}");
        fixture.run(&["plugin", "new", &name, "--lang", lang]).fails(1, &["exists already", &name]);
    }
    let entries = std::fs::read_dir(fixture.dir.path()).unwrap().count();
    assert_eq!(entries, 3, "nothing else is left behind");
}

#[test]
fn names_types_and_languages_that_cannot_be_are_refused() {
    let fixture = CliFixture::empty();
    let new = |args: &[&str]| fixture.run(&[&["plugin", "new"], args].concat());
    new(&["Charge", "--lang", "js"]).fails(2, &["\"Charge\"", "lower-case letters"]);
    new(&["../charge", "--lang", "js"]).fails(2, &["\"../charge\""]);
    new(&["std", "--lang", "rust"]).fails(2, &["Rust has a crate"]);
    new(&["charge", "--lang", "js", "--type", "Charge!"]).fails(2, &["--type", "Charge!"]);
    new(&["charge", "--lang", "cobol"]).fails(2, &["rust", "js", "python"]);
    assert_eq!(std::fs::read_dir(fixture.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_build_without_its_tools_says_which_and_how_to_get_them() {
    let fixture = CliFixture::empty();
    for (lang, tool, how) in
        [("rust", "cargo", "rustup.rs"), ("js", "node", "nodejs.org"), ("python", "python3", "package python3")]
    {
        fixture.json(&["plugin", "new", "charge", "--lang", lang]);
        let mut build = fixture.plan.command(&["plugin", "build", "charge"]);
        let told = CommandOutput::from(build.env("PATH", "/nowhere").stdin(Stdio::null()).output().unwrap());
        told.fails(1, &[tool, how]);
        std::fs::remove_dir_all(fixture.dir.path().join("charge")).unwrap();
    }
    fixture.run(&["plugin", "build"]).fails(1, &["has no manifest"]);
}

#[test]
fn the_tutorials_show_the_code_that_projects_begin_with() {
    let root = crate::support::guests::root();
    let tutorials = std::fs::read_to_string(root.join("docs/handlers.md")).unwrap();
    let templates = [("rust", "rust/src/lib.rs"), ("js", "js/handler.js"), ("python", "python/handler.py")];
    for (language, template) in templates {
        let template = std::fs::read_to_string(root.join("plugins/templates").join(Path::new(template))).unwrap();
        let template = template.replace("{{name}}", "hello").replace("{{type}}", "greet");
        for block in crate::support::blocks(&tutorials, language) {
            assert!(template.contains(block.trim_end()), "{block}\nis not in\n{template}");
        }
    }
}
