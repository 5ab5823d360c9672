//! What an operator does to an installation: settings, backups, migrations by hand, and the help.

use serde_json::{Value, json};

use super::{CliFixture, CommandOutput};

fn with(fixture: &CliFixture, settings: &[(&str, &str)], args: &[&str]) -> CommandOutput {
    let plan = settings.iter().fold(fixture.plan.clone(), |plan, (name, value)| plan.set(name, value));
    plan.run(args).into()
}

#[test]
fn the_settings_are_shown_with_their_origin_and_the_example_changes_nothing() {
    let fixture = CliFixture::empty();
    let example = fixture.run(&["config", "--example"]);
    assert_eq!(example.code, Some(0));
    std::fs::write(fixture.dir.path().join("outbox.toml"), &example.stdout).unwrap();
    let told = with(&fixture, &[("OUTBOX_TOKEN", "hunter2")], &["config", "show", "--json", "--db", "a.sqlite"]);
    let settings: Value = serde_json::from_str(&told.stdout).unwrap();
    let of = |key: &str| settings.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap().clone();
    assert_eq!(of("db"), json!({"key": "db", "value": "a.sqlite", "origin": "--db"}));
    assert_eq!(of("token"), json!({"key": "token", "value": "(not shown)", "origin": "OUTBOX_TOKEN"}));
    assert_eq!(of("concurrency"), json!({"key": "concurrency", "value": "64", "origin": "default"}));
    assert!(fixture.run(&["config"]).stdout.contains("OUTBOX_PLUGINS"));
    with(&fixture, &[("OUTBOX_MAX_RETRIES", "x")], &["config", "show"]).fails(2, &["OUTBOX_MAX_RETRIES is \"x\""]);
}

#[tokio::test]
async fn with_migrations_left_to_operators_no_host_and_no_enqueue_creates_a_schema() {
    let fixture = CliFixture::empty();
    let settings = [("OUTBOX_MIGRATE", "never")];
    let enqueue = ["enqueue", "--type", "t", "--key", "k", "--payload", "1"];
    for args in [&["serve"][..], &["worker"], &enqueue] {
        with(&fixture, &settings, args).fails(1, &["there is no database", "outbox migrate"]);
    }
    assert_eq!(with(&fixture, &settings, &["migrate"]).code, Some(0));
    assert_eq!(with(&fixture, &settings, &enqueue).code, Some(0));
    std::fs::create_dir(fixture.dir.path().join("plugins.d")).unwrap();
    let pods = [0, 1].map(|_| fixture.plan.clone().set("OUTBOX_MIGRATE", "never"));
    let first = pods[0].start("worker").await;
    let second = pods[1].start("worker").await;
    assert_eq!((first.terminate(), second.terminate()), (Some(0), Some(0)));
}

#[tokio::test]
async fn a_backup_is_made_while_a_host_runs_and_restores_the_moment() {
    let fixture = CliFixture::migrated();
    let host = fixture.plan.start("worker").await;
    fixture.enqueue("before");
    let told = fixture.json(&["backup", "yesterday.sqlite"]);
    assert_eq!((&told["items"], &told["file"]), (&json!(1), &json!("yesterday.sqlite")));
    fixture.enqueue("after");
    fixture.run(&["backup", "yesterday.sqlite"]).fails(1, &["yesterday.sqlite is there already"]);
    assert_eq!(host.terminate(), Some(0));

    let keys =
        |args: &[&str]| fixture.json(args).as_array().unwrap().iter().map(|item| item["idem_key"].clone()).collect();
    let kept: Vec<Value> = keys(&["list", "--db", "yesterday.sqlite"]);
    assert_eq!(kept, ["before"]);
    let checks = fixture.run(&["doctor", "--db", "yesterday.sqlite"]);
    assert_eq!(checks.code, Some(0), "{}", checks.stdout);
    let mode = std::fs::metadata(fixture.dir.path().join("yesterday.sqlite")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    fixture.run(&["backup", "none/b.sqlite"]).fails(1, &["copying the database"]);
    with(&fixture, &[("OUTBOX_DB", "postgres://db/app")], &["backup", "b"]).fails(2, &["pg_dump", "--file=b"]);
}

#[test]
fn every_type_can_be_paused_at_once() {
    let fixture = CliFixture::migrated();
    for (item_type, key) in [("mail", "a"), ("sms", "b")] {
        fixture.json(&["enqueue", "--type", item_type, "--key", key, "--payload", "1"]);
    }
    let told = fixture.run(&["pause", "--all", "--reason", "a restore"]);
    assert_eq!((told.code, told.stdout.as_str()), (Some(0), "pause mail: done\npause sms: done\n"));
    assert_eq!(fixture.run(&["resume", "--all"]).stdout, "resume mail: done\nresume sms: done\n");
    fixture.run(&["pause"]).fails(2, &["TYPE"]);
    fixture.run(&["pause", "mail", "--all"]).fails(2, &["--all"]);
}

#[test]
fn times_are_shown_as_distances_or_in_utc_and_of_one_item_in_both_forms() {
    let fixture = CliFixture::migrated();
    fixture.enqueue("k");
    let created = fixture.json(&["list"])[0]["created_at"].as_i64().unwrap();
    let utc = |text: &str| text.lines().any(|line| line.contains('T') && line.contains("Z "));
    let listed = fixture.run(&["list"]).stdout;
    assert!(listed.contains(" ago") && !utc(&listed), "{listed}");
    let listed = fixture.run(&["list", "--utc"]).stdout;
    assert!(!listed.contains(" ago") && utc(&listed), "{listed}");
    let shown = fixture.run(&["show", "k"]).stdout;
    let line = shown.lines().find(|line| line.starts_with("created")).unwrap();
    let millis = format!(".{:03}Z", created % 1_000);
    assert!(line.contains(" ago, 20") && line.ends_with(&millis), "{line}");
}

#[test]
fn the_help_lists_commands_by_what_they_are_for_and_common_options_apart() {
    let fixture = CliFixture::empty();
    let help = fixture.run(&["--help"]).stdout;
    for words in ["Run a host:", "Look for trouble:", "  serve ", "Global options:", "--utc"] {
        assert!(help.contains(words), "{words:?} is missing in\n{help}");
    }
    let list = fixture.run(&["list", "--help"]).stdout;
    let (own, global) = list.split_once("Global options:").unwrap();
    assert!(own.contains("--limit") && !own.contains("--json") && global.contains("--json"), "{list}");
}

#[test]
fn what_an_operator_hides_of_payloads_is_not_shown() {
    let fixture = CliFixture::migrated();
    fixture.json(&["enqueue", "--type", "t", "--key", "k", "--payload", r#"{"mail":"ada@example.org","n":1}"#]);
    let settings = [("OUTBOX_REDACT", "mail")];
    let shown = with(&fixture, &settings, &["show", "k", "--json"]).stdout;
    assert!(shown.contains("[redacted]") && !shown.contains("ada@"), "{shown}");
    assert!(!with(&fixture, &settings, &["show", "k"]).stdout.contains("ada@"));
    assert!(fixture.run(&["show", "k"]).stdout.contains("ada@"));
}

#[test]
fn a_token_is_made_with_the_lines_that_the_configuration_takes() {
    let fixture = CliFixture::empty();
    let args = ["token", "new", "ada", "--role", "operate", "--right", "read-payload", "--expires", "90d"];
    let told = fixture.run(&args);
    assert_eq!(told.code, Some(0));
    let lines = told.stdout.split_once("[[tokens]]").unwrap().1;
    std::fs::write(fixture.dir.path().join("outbox.toml"), format!("[[tokens]]{lines}")).unwrap();
    assert_eq!(fixture.run(&["config"]).code, Some(0), "{}", told.stdout);
    fixture.run(&["token", "new", "ada", "--role", "root"]).fails(2, &["enqueue, read, operate, admin, scrape"]);
    fixture.run(&["token", "new", "a b", "--role", "read"]).fails(2, &["\"a b\""]);
    fixture.run(&["token", "new", "Admin", "--role", "read"]).fails(2, &["\"Admin\"", "none of admin, host, http"]);
    fixture.run(&["token", "new", "ada", "--role", "read", "--expires", "2020-01-01T00:00:00Z"]).fails(2, &["passed"]);
    std::fs::write(fixture.dir.path().join("outbox.toml"), "[[tokens]]\nname = 'ada'\nrole = 'root'\nsha256 = ''")
        .unwrap();
    fixture.run(&["serve"]).fails(2, &["\"ada\"", "\"root\"", "use one of enqueue"]);
}

#[test]
fn doctor_says_before_the_first_start_that_a_host_creates_the_database_if_it_may() {
    let fixture = CliFixture::empty();
    std::fs::create_dir(fixture.dir.path().join("plugins.d")).unwrap();
    let first = fixture.run(&["doctor"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.stdout.contains("`outbox serve` creates it"), "{}", first.stdout);
    let never = CommandOutput::from(fixture.plan.clone().set("OUTBOX_MIGRATE", "never").run(&["doctor"]));
    never.fails(1, &[]);
    assert!(never.stdout.contains("create it with `outbox migrate`"), "{}", never.stdout);
    assert!(!fixture.dir.path().join("outbox.sqlite").exists());
}

#[test]
fn the_lines_of_a_new_token_can_be_appended_to_the_file_and_have_no_secret() {
    let fixture = CliFixture::migrated();
    let new = |name: &str| fixture.run(&["token", "new", name, "--role", "read"]);
    let [one, other] = ["ada", "bob"].map(new);
    let secret = one.stderr.lines().find(|line| line.starts_with("outbox_")).unwrap();
    assert!(!one.stdout.contains(secret), "{}", one.stdout);
    std::fs::write(fixture.dir.path().join("outbox.toml"), format!("{}{}", one.stdout, other.stdout)).unwrap();
    fixture.run(&["stats"]).fails(0, &[]);
}

/// The names of the pages that `outbox man` writes, and their folder.
fn pages(fixture: &CliFixture) -> (std::path::PathBuf, Vec<String>) {
    let folder = fixture.dir.path().join("man/man1");
    fixture.run(&["man", "--to", folder.to_str().unwrap()]).fails(0, &["manual pages"]);
    let entries = std::fs::read_dir(&folder).unwrap();
    (folder, entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
}

#[test]
fn each_command_has_a_manual_page_with_its_exit_codes_variables_and_files() {
    let fixture = CliFixture::empty();
    let (folder, names) = pages(&fixture);
    for name in ["outbox.1", "outbox-serve.1", "outbox-plugin-check.1", "outbox-token-new.1", "outbox-man.1"] {
        assert!(names.iter().any(|known| known == name), "{name} is missing in {names:?}");
    }
    for name in &names {
        let page = std::fs::read_to_string(folder.join(name)).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "\"EXIT STATUS\"", "ENVIRONMENT", "FILES"] {
            assert!(page.contains(&format!(".SH {section}\n")), "{name} has no {section}:\n{page}");
        }
    }
    let whole = std::fs::read_to_string(folder.join("outbox.1")).unwrap();
    let settings = fixture.json(&["config", "show"]);
    assert!(whole.contains("OUTBOX_RETAIN_HISTORY") && whole.contains("OUTBOX_CONFIG"), "{whole}");
    assert!(whole.matches(".TP").count() > settings.as_array().unwrap().len(), "{whole}");
}

#[test]
fn groff_renders_every_manual_page_without_a_warning() {
    let Ok(version) = std::process::Command::new("groff").arg("--version").output() else { return };
    assert!(version.status.success(), "{version:?}");
    let fixture = CliFixture::empty();
    let (folder, names) = pages(&fixture);
    for name in names {
        let groff = ["-man", "-ww", "-z", "-k", "-Tutf8"];
        let output = std::process::Command::new("groff").args(groff).arg(folder.join(&name)).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.is_empty(), "{name}: {told}");
    }
}
