//! The command line, run through the real binary: output for programs, messages for people, and exit codes.

mod bench;
mod operations;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use outbox::item::ItemId;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::Store;
use serde_json::{Value, json};

use crate::support::host::HostConfig;
use crate::support::plugins::Wat;
use crate::support::{self, Fixture, dead, done, request};

mod author;
mod state;
mod upkeep;

/// A temporary folder and the settings to run the binary in it.
struct CliFixture {
    dir: tempfile::TempDir,
    plan: HostConfig,
}

impl CliFixture {
    /// A folder without a database and without plugins.
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plan = HostConfig::new(Path::new(env!("CARGO_BIN_EXE_outbox")), dir.path());
        Self { dir, plan }
    }

    /// A folder with a migrated database and an empty plugin folder.
    fn migrated() -> Self {
        let fixture = Self::empty();
        fixture.plan.json(&["migrate", "--json"]);
        std::fs::create_dir(fixture.dir.path().join("plugins.d")).unwrap();
        fixture
    }

    /// Opens the database as another process would.
    fn store(&self) -> Arc<dyn Store> {
        SqliteStore::open_existing(&self.dir.path().join("outbox.sqlite"), SqliteOptions::default()).unwrap()
    }

    /// Enqueues an item of the type `mail` that is a step of a saga.
    fn enqueue(&self, key: &str) -> ItemId {
        let args = ["enqueue", "--type", "mail", "--key", key, "--payload", "{}", "--saga", "Greeting", "--json"];
        self.plan.json(&args)["ids"][0].as_i64().map(ItemId::new).unwrap()
    }

    /// Enqueues an item and settles it, DONE or DLQ.
    async fn settled(&self, key: &str, settled: outbox::store::SettleRequest) -> ItemId {
        let id = self.enqueue(key);
        let store = self.store();
        let claim = store.claim(&request(&["mail"], 1)).await.unwrap().claims.remove(0);
        store.settle(&claim.reference(), settled).await.unwrap();
        id
    }

    fn run(&self, args: &[&str]) -> CommandOutput {
        CommandOutput::from(self.plan.run(args))
    }

    fn json(&self, args: &[&str]) -> Value {
        self.plan.json(&[args, &["--json"]].concat())
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> CommandOutput {
        let mut command = self.plan.command(args);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        CommandOutput::from(child.wait_with_output().unwrap())
    }
}

/// The exit code and the output of a command.
#[derive(Debug)]
struct CommandOutput {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl CommandOutput {
    /// Asserts the exit code and that standard error contains each of these texts.
    #[track_caller]
    fn fails(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in says {
            assert!(self.stderr.contains(word), "{word:?} is not said in {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

#[track_caller]
fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "{key} is missing in {value}");
    }
}

#[test]
fn looking_at_a_database_that_is_not_there_says_how_to_create_it_and_creates_nothing() {
    let fixture = CliFixture::empty();
    for args in [&["list"][..], &["show", "1"], &["stats"], &["signals"], &["replay", "1"], &["purge", "DONE"]] {
        fixture.run(args).fails(1, &["there is no database", "outbox migrate", "OUTBOX_DB"]);
    }
    assert_eq!(fixture.dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn migrate_creates_once_and_then_finds_nothing_to_do() {
    let fixture = CliFixture::empty();
    let first = fixture.json(&["migrate"]);
    assert_eq!(first["from"], 0);
    let again = fixture.json(&["migrate"]);
    assert_eq!(again["from"], first["to"]);
    assert_eq!(again["to"], first["to"]);
}

#[test]
fn an_item_is_enqueued_once_per_key() {
    let fixture = CliFixture::migrated();
    let args = ["enqueue", "--type", "mail", "--key", "k", "--payload", r#"{"to":"a"}"#];
    assert_eq!(fixture.json(&args), json!({ "ids": [1], "created": 1 }));
    assert_eq!(fixture.json(&args), json!({ "ids": [1], "created": 0 }));
    fixture.run(&["enqueue", "--type", "mail", "--key", "k", "--payload", "{}"]).fails(1, &["\"k\"", "item 1"]);
}

#[test]
fn every_field_of_an_item_can_be_given_on_the_command_line() {
    let fixture = CliFixture::migrated();
    let args = "enqueue --type mail --key k --payload hi --content-type text/plain --cid c --saga Greeting \
                --ordering-key o --delay 1h --header a=b --header c=d=e";
    fixture.json(&args.split_whitespace().collect::<Vec<_>>());
    let listed = &fixture.json(&["list"])[0];
    assert_eq!((&listed["payload_bytes"], &listed["payload"]), (&json!(2), &Value::Null));
    let item = fixture.json(&["show", &listed["id"].to_string()]);
    let expected = json!({
        "type": "mail", "idem_key": "k", "payload": "aGk=", "payload_encoding": "base64", "cid": "c",
        "content_type": "text/plain", "saga": "Greeting", "ordering_key": "o", "headers": { "a": "b", "c": "d=e" },
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&item[key], value, "{key}");
    }
    assert_eq!(item["available_at"].as_i64().unwrap() - item["created_at"].as_i64().unwrap(), 3_600_000);
}

#[test]
fn a_payload_comes_from_an_argument_a_file_or_standard_input_and_is_checked() {
    let fixture = CliFixture::migrated();
    std::fs::write(fixture.dir.path().join("p.json"), "[1, 2]").unwrap();
    fixture.json(&["enqueue", "--type", "t", "--key", "file", "--payload-file", "p.json"]);
    assert_eq!(fixture.run_with_input(&["enqueue", "--type", "t", "--key", "stdin", "-"], "[3]").code, Some(0));
    assert_eq!(fixture.json(&["show", "2"])["payload"], json!([3]));
    assert_eq!(fixture.json(&["show", "1"])["payload"], json!([1, 2]));
    fixture.run(&["enqueue", "--type", "t", "--key", "k", "--payload", "{"]).fails(2, &["not JSON", "--content-type"]);
    fixture.run(&["enqueue", "--type", "T", "--key", "k", "--payload", "1"]).fails(2, &["type is \"T\""]);
    fixture.run(&["enqueue", "--type", "t", "--key", "k"]).fails(2, &["--payload"]);
    fixture.run(&["enqueue", "--type", "t", "--key", "k", "--payload-file", "none"]).fails(1, &["none"]);
}

#[test]
fn a_file_of_items_is_enqueued_whole_or_not_at_all_and_the_bad_line_is_named() {
    let fixture = CliFixture::migrated();
    let good =
        "{\"type\":\"t\",\"idem_key\":\"1\",\"payload\":1}\n\n{\"type\":\"t\",\"idem_key\":\"2\",\"payload\":2}\n";
    std::fs::write(fixture.dir.path().join("items.ndjson"), good).unwrap();
    assert_eq!(fixture.json(&["enqueue", "--from", "items.ndjson"]), json!({ "ids": [1, 2], "created": 2 }));
    let refused = |line: &str, says: &str| {
        let input = format!("{{\"type\":\"t\",\"idem_key\":\"new\",\"payload\":1}}\n\n{line}\n");
        fixture.run_with_input(&["enqueue", "--from", "-"], &input).fails(1, &["nothing was enqueued", "line 3", says]);
    };
    refused(r#"{"type":"t","idem_key":"1","payload":9}"#, "other content");
    refused(r#"{"type":"T","idem_key":"3","payload":9}"#, "type is \"T\"");
    refused(r#"{"type":"t","payload":9}"#, "idem_key is missing");
    refused(r#"{"type":"t","idem_kye":"3","payload":9}"#, "idem_kye");
    refused("{", "EOF");
    assert_eq!(fixture.json(&["list"]).as_array().unwrap().len(), 2);
    fixture.run_with_input(&["enqueue", "--from", "-"], "").fails(1, &["no items"]);
    fixture.run(&["enqueue", "--from", "items.ndjson", "--cid", "c"]).fails(2, &["--cid"]);
}

#[tokio::test]
async fn list_filters_by_status_in_either_vocabulary_and_by_field() {
    let fixture = CliFixture::migrated();
    let dlq = fixture.settled("dead", dead()).await;
    let pending = fixture.enqueue("pending");
    let ids = |args: &[&str]| -> Vec<ItemId> {
        let items = fixture.json(&[&["list"], args].concat());
        items.as_array().unwrap().iter().map(|item| item["id"].as_i64().map(ItemId::new).unwrap()).collect()
    };
    assert_eq!(ids(&[]), [pending, dlq]);
    assert_eq!(ids(&["DLQ"]), [dlq]);
    assert_eq!(ids(&["dead"]), [dlq]);
    assert_eq!(ids(&["PUBLISHED"]), [] as [ItemId; 0]);
    assert_eq!(ids(&["--saga", "Greeting", "--limit", "1"]), [pending]);
    assert_eq!(ids(&["--before", &pending.to_string()]), [dlq]);
    assert_eq!(ids(&["--type", "other", "--force"]), [] as [ItemId; 0]);
    assert_eq!(ids(&["--since", "1h"]), [pending, dlq]);
    assert_eq!(ids(&["--until", "1h"]), [] as [ItemId; 0]);
    fixture.run(&["list", "FAILED"]).fails(2, &["FAILED", "PENDING, CLAIMED, DONE or DLQ"]);
    fixture.run(&["stats", "--last", "2days"]).fails(2, &["--last is 2days", "1m to 24h"]);
    fixture.run(&["list", "--since", "yesterday"]).fails(2, &["2h (ago)"]);
}

#[test]
fn list_reads_as_many_pages_as_the_limit_asks_for() {
    let fixture = CliFixture::migrated();
    let line = |n: usize| format!("{{\"type\":\"t\",\"idem_key\":\"{n}\",\"payload\":{n}}}\n");
    let items: String = (1..=1203).map(line).collect();
    assert_eq!(fixture.run_with_input(&["enqueue", "--from", "-"], &items).code, Some(0));
    let length = |limit: &str| fixture.json(&["list", "--limit", limit]).as_array().unwrap().len();
    assert_eq!(length("1000"), 1000);
    assert_eq!(length("1001"), 1001);
    assert_eq!(length("9999"), 1203);
    assert_eq!(fixture.json(&["list"]).as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn show_tells_an_item_with_its_history() {
    let fixture = CliFixture::migrated();
    let id = fixture.settled("k", dead()).await.to_string();
    let item = fixture.json(&["show", &id]);
    has_keys(&item, &["id", "idem_key", "type", "status", "payload", "attempts", "last_error", "dead_at"]);
    assert_eq!(item["failed_attempts"][0]["code"], "upstream.503");
    let told = fixture.run(&["show", &id]);
    assert!(told.stdout.contains("the receiver is down"), "{}", told.stdout);
    fixture.run(&["show", "99"]).fails(1, &["no item 99"]);
}

#[tokio::test]
async fn replay_previews_by_filter_and_acts_by_id() {
    let fixture = CliFixture::migrated();
    let id = fixture.settled("k", dead()).await;
    let preview = fixture.json(&["replay", "--status", "DLQ", "--type", "mail", "--dry-run"]);
    assert_eq!((&preview["matched"], &preview["changed"], &preview["sample"]), (&json!(1), &json!(1), &json!([id])));
    assert_eq!((&preview["groups"][0]["type"], &preview["groups"][0]["count"]), (&json!("mail"), &json!(1)));
    assert_eq!(fixture.json(&["list", "DLQ"]).as_array().unwrap().len(), 1);

    let id = id.to_string();
    assert_eq!(fixture.json(&["replay", &id, "--reason", "fixed", "--actor", "ann", "--new-effects"])["changed"], 1);
    let item = fixture.json(&["show", &id]);
    assert_eq!((&item["status"], &item["replays"]), (&json!("PENDING"), &json!(1)));
    fixture.run(&["replay", &id]).fails(1, &["PENDING"]);
    fixture.run(&["replay"]).fails(2, &["--status"]);
    fixture.run(&["replay", &id, "--type", "mail"]).fails(2, &["--type"]);
    fixture.run(&["replay", "--status", "PENDING"]).fails(2, &["DONE or DLQ"]);
}

#[tokio::test]
async fn purge_deletes_finished_items_that_are_old_enough() {
    let fixture = CliFixture::migrated();
    fixture.settled("k", done()).await;
    assert_eq!(fixture.json(&["purge", "DONE", "--older-than", "7d"])["changed"], 0);
    assert_eq!(fixture.json(&["purge", "DLQ"])["changed"], 0);
    assert_eq!(fixture.json(&["purge", "DONE", "--dry-run"])["changed"], 1);
    assert_eq!(fixture.json(&["purge", "DONE", "--all", "--yes"])["changed"], 1);
    assert_eq!(fixture.json(&["list"]), json!([]));
    fixture.run(&["purge", "PENDING"]).fails(2, &["DONE or DLQ"]);
    fixture.run(&["purge"]).fails(2, &["STATUS|ID|KEY"]);
}

#[tokio::test]
async fn stats_and_signals_are_objects_for_programs() {
    let fixture = CliFixture::migrated();
    fixture.settled("k", done()).await;
    let stats = fixture.json(&["stats"]);
    has_keys(&stats, &["now", "by_status", "by_type", "oldest_pending_ms", "expired_claims", "sagas", "pods"]);
    assert_eq!(stats["by_status"], json!({ "PENDING": 0, "CLAIMED": 0, "DONE": 1, "DLQ": 0 }));
    assert_eq!(stats["sagas"]["Greeting"]["ended_ok"], 1);

    let signals = fixture.json(&["signals"]);
    let names: Vec<_> = signals.as_array().unwrap().iter().map(|signal| signal["signal"].as_str().unwrap()).collect();
    assert_eq!(names, ["saga_begin.Greeting", "saga_step.Greeting.mail", "saga_end.Greeting"]);
    has_keys(&signals[0], &["seq", "pod", "signal", "ts", "data"]);
    let first = signals[0]["seq"].to_string();
    assert_eq!(fixture.json(&["signals", "--after", &first, "--limit", "1"])[0], signals[1]);
}

#[tokio::test]
async fn followed_signals_come_one_per_line_while_they_happen() {
    use std::io::BufRead as _;
    let fixture = CliFixture::migrated();
    let mut command = fixture.plan.command(&["signals", "--follow", "--json"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    fixture.settled("k", done()).await;
    for name in ["saga_begin.Greeting", "saga_step.Greeting.mail", "saga_end.Greeting"] {
        let signal: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(signal["signal"], name);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn plugins_are_listed_from_the_folder_when_no_host_runs() {
    let fixture = CliFixture::migrated();
    assert_eq!(fixture.json(&["plugin", "list"]), json!([]));
    fixture.run(&["plugin", "inspect", "none.wasm"]).fails(1, &["none.wasm"]);
}

#[test]
fn doctor_finds_nothing_wrong_with_a_good_place_and_says_what_to_do_about_a_bad_one() {
    let fixture = CliFixture::migrated();
    let findings = fixture.json(&["doctor"]);
    let checks: Vec<_> =
        findings.as_array().unwrap().iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    for check in ["configuration", "folder", "durability", "space", "database", "journal", "clock", "plugins"] {
        assert!(checks.contains(&check), "{check} is missing in {checks:?}");
    }
    let bad = fixture.run(&["doctor", "--db", "none/outbox.sqlite"]);
    bad.fails(1, &[]);
    assert!(bad.stdout.contains("FAIL") && bad.stdout.contains("OUTBOX_DB"), "{}", bad.stdout);
    let bad = CommandOutput::from(fixture.plan.clone().set("OUTBOX_ENABLED", "maybe").run(&["doctor"]));
    bad.fails(1, &[]);
    assert!(bad.stdout.contains("OUTBOX_ENABLED is \"maybe\""), "{}", bad.stdout);
    let odd = CommandOutput::from(fixture.plan.clone().set("OUTBOX_MAX_RETRY", "1").run(&["doctor"]));
    assert_eq!(odd.code, Some(0));
    assert!(odd.stdout.contains("did you mean OUTBOX_MAX_RETRIES?"), "{}", odd.stdout);
}

#[test]
fn doctor_and_the_list_of_plugins_without_a_host_write_nothing() {
    let fixture = CliFixture::migrated();
    let (folder, cache) = (fixture.dir.path().join("plugins.d"), fixture.dir.path().join("cache"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("p.wasm"), Wat::default().bytes()).unwrap();
    assert!(fixture.run(&["doctor"]).stdout.contains("p loads"));
    assert_eq!(fixture.json(&["plugin", "list"])[0]["state"], "loads");
    assert!(!cache.exists(), "neither code nor a last good version is kept");
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(fixture.run(&["doctor"]).stdout.contains("p loads"));
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
}

#[tokio::test]
async fn doctor_notices_items_from_the_future() {
    let fixture = Fixture::sqlite().await;
    fixture.clock.advance(Duration::from_hours(100 * 365 * 24));
    fixture.enqueue(support::item("k")).await;
    let told = CliFixture::empty().run(&["doctor", "--db", &fixture.test_db.address()]);
    told.fails(1, &[]);
    assert!(told.stdout.contains("in the future"), "{}", told.stdout);
}

#[test]
fn a_setting_that_is_not_understood_is_a_usage_error_that_names_it() {
    let fixture = CliFixture::migrated();
    let with = |name: &str, value: &str| CommandOutput::from(fixture.plan.clone().set(name, value).run(&["list"]));
    with("OUTBOX_MAX_RETRIES", "many").fails(2, &["OUTBOX_MAX_RETRIES is \"many\"", "a whole number from 0"]);
    with("OUTBOX_BACKEND", "postgres").fails(2, &["OUTBOX_DB is ", "a URL such as postgres://"]);
    with("OUTBOX_BACKEND", "mysql").fails(2, &["OUTBOX_BACKEND is \"mysql\"", "sqlite or postgres"]);
    with("OUTBOX_CONFIG", "none.toml").fails(2, &["none.toml"]);
    with("RUST_LOG", "outbox=loud").fails(2, &["RUST_LOG is \"outbox=loud\""]);
    std::fs::write(fixture.dir.path().join("outbox.toml"), "databse = 1").unwrap();
    fixture.run(&["list"]).fails(2, &["outbox.toml", "databse"]);
    fixture.run(&["list", "--no-such-flag"]).fails(2, &["--no-such-flag"]);
    fixture.run(&["no-such-verb"]).fails(2, &["no-such-verb"]);
}

#[test]
fn a_database_that_is_none_and_a_folder_that_cannot_be_written_are_told_apart() {
    let fixture = CliFixture::empty();
    std::fs::write(fixture.dir.path().join("text"), "this is a text, and no database at all").unwrap();
    fixture.run(&["list", "--db", "text"]).fails(1, &["text is not a SQLite database"]);
    fixture.run(&["migrate", "--db", "text"]).fails(1, &["text is not a SQLite database"]);
    fixture.run(&["migrate", "--db", "none/outbox.sqlite"]).fails(1, &["none/outbox.sqlite", "folder"]);

    let locked = fixture.dir.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere, so this case cannot be tested as root.
    if std::fs::write(locked.join("probe"), "").is_err() {
        fixture.run(&["migrate", "--db", "locked/outbox.sqlite"]).fails(1, &["locked/outbox.sqlite", "writable"]);
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let fixture = CliFixture::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let told = fixture.run(&["completions", shell]);
        assert_eq!(told.code, Some(0), "{told:?}");
        assert!(told.stdout.contains("migrate"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let fixture = CliFixture::migrated();
    // The output is larger than a pipe's buffer, so the command cannot finish without a reader.
    std::fs::write(fixture.dir.path().join("long.json"), format!("\"{}\"", "x".repeat(500_000))).unwrap();
    fixture.json(&["enqueue", "--type", "t", "--key", "k", "--payload-file", "long.json"]);
    let mut command = fixture.plan.command(&["show", "1", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let told = CommandOutput::from(child.wait_with_output().unwrap());
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_host_shows_itself_and_ends_with_success_when_it_is_asked_to() {
    let fixture = CliFixture::migrated();
    let host = fixture.plan.start("serve").await;
    let pods = || fixture.json(&["stats"])["pods"].clone();
    let is_ready = async || pods()[0]["ready"] == true;
    support::eventually("the store knows of the host", Duration::from_secs(10), is_ready).await;
    assert_eq!(host.terminate(), Some(0));
    assert_eq!(pods(), json!([]));
}

#[tokio::test]
async fn a_host_warns_of_what_may_lose_writes_and_refuses_to_listen_to_everybody() {
    let fixture = CliFixture::migrated();
    let inline = fixture.plan.clone().set("OUTBOX_ENABLED", "false");
    assert_eq!(inline.start("serve").await.terminate(), Some(0));
    let log = std::fs::read_to_string(fixture.dir.path().join("host.log")).unwrap();
    assert!(log.contains("NOTHING IS DURABLE"), "{log}");
    assert_eq!(fixture.plan.start("worker").await.terminate(), Some(0));
    fixture.run(&["serve", "--listen", "0.0.0.0:0"]).fails(2, &["OUTBOX_TOKEN", "--allow-unauthenticated"]);
}

#[tokio::test]
async fn a_host_deletes_what_has_been_done_or_dead_for_longer_than_it_is_kept() {
    let fixture = CliFixture::migrated();
    fixture.settled("old", done()).await;
    let dlq = fixture.settled("dead", dead()).await;
    let host = fixture.plan.clone().set("OUTBOX_RETAIN_DONE", "0s").start("worker").await;
    support::eventually("the DONE item is gone", Duration::from_secs(10), async || {
        fixture.json(&["list", "DONE"]) == json!([])
    })
    .await;
    assert_eq!(fixture.json(&["list"])[0]["id"], dlq.get(), "dead items wait for an operator");
    assert_eq!(host.terminate(), Some(0));
    let host = fixture.plan.clone().set("OUTBOX_RETAIN_DLQ", "0s").start("worker").await;
    support::eventually("the dead item is gone", Duration::from_secs(10), async || {
        fixture.json(&["list"]) == json!([])
    })
    .await;
    assert_eq!(host.terminate(), Some(0));
}
