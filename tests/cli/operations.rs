//! The commands for operators.

use serde_json::{Value, json};

use super::{CliFixture, CommandOutput};
use crate::support::{dead, done, request};

fn enqueue(fixture: &CliFixture, key: &str, ordering_key: &str) -> String {
    let args = ["enqueue", "--type", "mail", "--key", key, "--payload", "{}", "--ordering-key", ordering_key];
    fixture.json(&args)["ids"][0].to_string()
}

fn status(fixture: &CliFixture, id: &str) -> Value {
    fixture.json(&["show", id])["status"].clone()
}

#[tokio::test]
async fn an_item_is_dead_lettered_restored_rescheduled_and_released() {
    let fixture = CliFixture::migrated();
    let id = enqueue(&fixture, "k", "o");
    fixture.json(&["dead", &id, "--reason", "wrong", "--actor", "ann"]);
    assert_eq!(status(&fixture, &id), "DLQ");
    fixture.json(&["restore", &id]);
    fixture.json(&["reschedule", &id, "--in", "1h"]);
    let item = fixture.json(&["show", &id]);
    assert!(item["available_at"].as_i64().unwrap() > item["created_at"].as_i64().unwrap() + 3_000_000);
    fixture.json(&["reschedule", &id, "--in", "0s"]);
    fixture.store().claim(&request(&["mail"], 1)).await.unwrap();
    fixture.run(&["release", &id]).fails(1, &["lease has not ended"]);
    let told = fixture.run(&["release", &id, "--force"]);
    assert!(told.stderr.contains("may still be acting"), "{told:?}");
    assert_eq!(status(&fixture, &id), "PENDING");
    let trail = fixture.json(&["audit", "--item", &id]);
    let actions: Vec<_> = trail.as_array().unwrap().iter().rev().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["dead", "restore", "reschedule", "reschedule", "release"]);
    assert_eq!((&trail[4]["actor"], &trail[4]["reason"]), (&json!("ann"), &json!("wrong")));
}

#[tokio::test]
async fn a_blocked_key_is_found_explained_and_unblocked() {
    let fixture = CliFixture::migrated();
    let (head, behind) = (enqueue(&fixture, "1", "order 7"), enqueue(&fixture, "2", "order 7"));
    fixture.json(&["dead", &head]);
    let stuck = fixture.json(&["stuck"]);
    assert_eq!((&stuck[0]["kind"], &stuck[0]["waiting"]), (&json!("blocked_key"), &json!(1)));
    assert!(fixture.run(&["stuck"]).stdout.contains("outbox unblock 'order 7'"));
    assert_eq!(fixture.json(&["unblock", "order 7", "--dry-run"])["changed"], true);
    assert_eq!(fixture.json(&["unblock", "order 7"]), json!({ "changed": true, "items": [1] }));
    assert_eq!(fixture.json(&["unblock", "order 7"]), json!({ "changed": false }));
    let claims = fixture.store().claim(&request(&["mail"], 9)).await.unwrap().claims;
    assert_eq!(claims[0].item.id.to_string(), behind);
}

#[tokio::test]
async fn a_paused_type_waits_until_it_is_resumed() {
    let fixture = CliFixture::migrated();
    enqueue(&fixture, "k", "o");
    fixture.json(&["pause", "mail", "--reason", "deploy"]);
    assert!(fixture.store().claim(&request(&["mail"], 1)).await.unwrap().claims.is_empty());
    assert!(fixture.run(&["stuck"]).stdout.contains("outbox resume mail"));
    fixture.json(&["resume", "mail"]);
    assert_eq!(fixture.store().claim(&request(&["mail"], 1)).await.unwrap().claims.len(), 1);
}

#[tokio::test]
async fn a_paused_fairness_key_is_shown_by_stats_stuck_and_doctor_until_it_is_resumed() {
    let fixture = CliFixture::migrated();
    for (key, tenant) in [("1", "acme"), ("2", "globex")] {
        fixture.json(&["enqueue", "--type", "mail", "--key", key, "--payload", "{}", "--fairness-key", tenant]);
    }
    assert_eq!(fixture.json(&["list", "--fairness-key", "acme"]).as_array().unwrap().len(), 1);
    assert!(fixture.run(&["show", "1"]).stdout.contains("acme"));
    fixture.run(&["pause", "--key", "acmee"]).fails(1, &["acme", "--force"]);
    fixture.json(&["pause", "--key", "acme", "--reason", "it floods us"]);
    let totals = fixture.json(&["stats", "--by", "fairness_key"]);
    assert_eq!((totals.as_array().unwrap().len(), &totals[0]["pending"]), (2, &json!(1)));
    assert!(fixture.run(&["stats", "--by", "fairness_key"]).stdout.contains("yes"));
    assert!(fixture.run(&["stats"]).stdout.contains("it floods us"), "a pause is shown whatever waits");
    assert_eq!(fixture.json(&["stats"])["paused_keys"][0]["fairness_key"], "acme");
    assert!(fixture.run(&["stuck"]).stdout.contains("outbox resume --key='acme'"));
    let doctor = fixture.json(&["doctor"]);
    let pauses = doctor.as_array().unwrap().iter().find(|result| result["check"] == "pauses").unwrap();
    assert!(pauses["message"].as_str().unwrap().contains("key acme"), "{pauses}");
    let claims = fixture.store().claim(&request(&["mail"], 9)).await.unwrap().claims;
    assert_eq!(claims.len(), 1);
    let resumed = fixture.run(&["resume", "mail"]);
    assert!(resumed.stderr.contains("Still paused: 1 fairness key, such as \"acme\""), "{}", resumed.stderr);
    fixture.json(&["resume", "--key", "acme"]);
    assert_eq!(fixture.store().claim(&request(&["mail"], 9)).await.unwrap().claims.len(), 1);
    let trail = fixture.json(&["audit", "--action", "pause"]);
    assert_eq!(trail[0]["selection"], json!({ "fairness_key": "acme", "type": null }));
}

#[tokio::test]
async fn a_group_of_failures_is_replayed_as_a_job() {
    let fixture = CliFixture::migrated();
    for key in ["a", "b", "c"] {
        fixture.settled(key, dead()).await;
    }
    let groups = fixture.json(&["failures"]);
    assert_eq!((&groups[0]["count"], &groups[0]["code"]), (&json!(3), &json!("upstream.503")));
    let fingerprint = groups[0]["fingerprint"].as_str().unwrap();
    let replay = ["replay", "--status", "DLQ", "--fingerprint", fingerprint, "--rate", "100"];
    let report = fixture.json(&replay);
    assert_eq!((&report["changed"], &report["job"]), (&json!(3), &json!(1)));
    let job = fixture.json(&["jobs", "show", "1"]);
    assert_eq!((&job["state"], &job["changed"], &job["per_second"]), (&json!("DONE"), &json!(3), &json!(100)));
    assert_eq!(fixture.json(&["jobs"]).as_array().unwrap().len(), 1);
    assert_eq!(fixture.json(&["jobs", "cancel", "1"])["changed"], false);
    assert_eq!(fixture.json(&["jobs", "resume", "1"])["state"], "DONE");
    fixture.run(&["jobs", "show", "9"]).fails(1, &["no job 9"]);
    fixture.run(&["jobs", "--limit", "1001"]).fails(2, &["1..=1000"]);
}

#[tokio::test]
async fn a_sample_is_replayed_and_a_replay_whose_items_die_again_stops_itself() {
    let fixture = CliFixture::migrated();
    for key in 0..30 {
        fixture.settled(&key.to_string(), dead()).await;
    }
    let tried = fixture.run(&["replay", "--status", "DLQ", "--sample", "10", "--dry-run"]);
    assert!(tried.stdout.contains("would change 10 items"), "{}", tried.stdout);
    fixture.run(&["replay", "--status", "DLQ", "--sample", "10", "--limit", "1"]).fails(2, &["--limit"]);
    fixture.run(&["replay", "--status", "DLQ", "--stop-after", "120%"]).fails(2, &["from 0% to 99%"]);
    let store = fixture.store();
    let kill = tokio::spawn(async move {
        loop {
            for claim in store.claim(&request(&["mail"], 10)).await.unwrap().claims {
                store.settle(&claim.reference(), dead()).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    });
    let plan = fixture.plan.clone();
    let run = move || plan.run(&["replay", "--status", "DLQ", "--stop-after", "20%"]);
    let stopped = CommandOutput::from(tokio::task::spawn_blocking(run).await.unwrap());
    kill.abort();
    stopped.fails(1, &["job 1 stopped after 10 items", "ended are dead again"]);
    let job = fixture.json(&["jobs", "show", "1"]);
    assert_eq!((&job["state"], &job["changed"], &job["stop_after"]), (&json!("STOPPED"), &json!(10), &json!(20)));
}

#[tokio::test]
async fn the_finished_items_of_a_person_are_purged_by_their_correlation_id() {
    let fixture = CliFixture::migrated();
    for (key, cid) in [("a", "person-7"), ("b", "person-7"), ("c", "person-8")] {
        fixture.json(&["enqueue", "--type", "mail", "--key", key, "--cid", cid, "--payload", "1"]);
    }
    fixture.json(&["dead", "a", "c"]);
    fixture.run(&["purge", "--cid", "person-7"]).fails(2, &["1 item", "--yes"]);
    let told = fixture.run(&["purge", "--cid", "person-7", "--yes"]);
    assert_eq!((told.code, told.stdout.as_str()), (Some(0), "purge: changed 1 item (1)\n"));
    assert!(told.stderr.contains("are not finished and stay, such as 2"), "{}", told.stderr);
    assert_eq!(fixture.json(&["list"]).as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn without_a_terminal_what_deletes_or_repeats_effects_is_refused_with_the_line_that_does_it() {
    let fixture = CliFixture::migrated();
    for key in ["a", "b"] {
        fixture.settled(key, dead()).await;
    }
    fixture.settled("c", done()).await;
    enqueue(&fixture, "d", "o");
    for (args, line) in [
        (&["purge", "DLQ"][..], "purge DLQ --yes"),
        (&["purge", "DONE", "--type", "mail"], "purge DONE --type mail --yes"),
        (&["purge", "DONE"], "purge DONE --all --yes"),
        (&["purge", "DONE", "--yes"], "purge DONE --yes --all"),
        (&["replay", "--status", "DONE"], "replay --status DONE --all --yes"),
        (&["replay", "--status", "DLQ", "--new-effects"], "replay --status DLQ --new-effects --yes"),
        (&["dead", "--status", "PENDING"], "dead --status PENDING --all --yes"),
        (&["reschedule", "--status", "PENDING", "--in", "0s"], "--status PENDING --in 0s --all --yes"),
    ] {
        let items = if args.contains(&"DLQ") { "2 items" } else { "1 item" };
        fixture.run(args).fails(2, &[items, "mail", line]);
    }
    let counts = fixture.json(&["stats"])["by_status"].clone();
    assert_eq!(counts, json!({ "PENDING": 1, "CLAIMED": 0, "DONE": 1, "DLQ": 2 }), "nothing was done");
    assert_eq!(fixture.json(&["jobs"]), json!([]));
    assert_eq!(fixture.json(&["replay", "--status", "DLQ"])["changed"], 2, "the playbook's replay is not asked for");
    assert_eq!(fixture.json(&["dead", "--status", "PENDING", "--type", "mail", "--yes"])["changed"], 3);
    assert_eq!(fixture.json(&["purge", "DLQ", "--yes"])["changed"], 3);
}

#[tokio::test]
async fn the_line_that_does_it_takes_no_item_that_came_to_its_status_after_it_was_printed() {
    let fixture = CliFixture::migrated();
    fixture.settled("a", dead()).await;
    let refused = fixture.run(&["purge", "DLQ"]);
    let line = refused.stderr.lines().last().unwrap().trim().to_owned();
    let bound = line.split(' ').find(|word| word.starts_with("--as-of=")).unwrap().to_owned();
    fixture.settled("b", dead()).await;
    let database = rusqlite::Connection::open(fixture.dir.path().join("outbox.sqlite")).unwrap();
    database.execute("UPDATE outbox_dead SET dead_at = dead_at + 60000 WHERE id = 2", []).unwrap();
    assert_eq!(fixture.json(&["purge", "DLQ", "--yes", &bound])["changed"], 1, "{line}");
    assert_eq!(status(&fixture, "2"), "DLQ");
    enqueue(&fixture, "c", "o");
    fixture.run(&["dead", "3", &bound]).fails(2, &["--as-of"]);
    fixture.run(&["purge", "2", &bound]).fails(2, &["--as-of"]);
}

#[tokio::test]
async fn claims_are_listed_and_released_by_the_process_that_holds_them() {
    let fixture = CliFixture::migrated();
    for key in ["a", "b"] {
        enqueue(&fixture, key, key);
        let mut claim = request(&["mail"], 1);
        claim.claimed_by = format!("pod-{key}");
        fixture.store().claim(&claim).await.unwrap();
    }
    assert_eq!(fixture.json(&["list", "CLAIMED", "--pod", "pod-b"])[0]["idem_key"], "b");
    assert!(fixture.run(&["list"]).stdout.contains("pod-a"));
    fixture.json(&["release", "--status", "CLAIMED", "--pod", "pod-a", "--force", "--yes"]);
    assert_eq!((status(&fixture, "1"), status(&fixture, "2")), (json!("PENDING"), json!("CLAIMED")));
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_refused_with_the_nearest_unless_it_is_forced() {
    let fixture = CliFixture::migrated();
    enqueue(&fixture, "k", "order 7");
    for args in [
        &["resume", "mial"][..],
        &["pause", "mial"],
        &["replay", "--status", "DLQ", "--type", "mial"],
        &["purge", "DONE", "--type", "mial", "--yes"],
        &["dead", "--status", "PENDING", "--type", "mial"],
        &["list", "--type", "mial"],
        &["failures", "--type", "mial"],
    ] {
        fixture.run(args).fails(1, &["type \"mial\"", "mail"]);
        fixture.json(&[args, &["--force"]].concat());
    }
    fixture.run(&["unblock", "order-8"]).fails(1, &["ordering key \"order-8\""]);
    assert_eq!(fixture.json(&["unblock", "order-8", "--force"])["changed"], false);
    assert_eq!(fixture.json(&["unblock", "order 7"])["changed"], false, "an item of it waits");
    fixture.run(&["reschedule", "--status", "PENDING", "--saga", "S", "--in", "0s"]).fails(1, &["saga \"S\""]);
}

#[tokio::test]
async fn items_are_named_by_their_keys_and_found_by_what_they_contain() {
    let fixture = CliFixture::migrated();
    let order = |key: &str, payload: &str| {
        fixture.json(&["enqueue", "--type", "mail", "--key", key, "--payload", payload])["ids"][0].to_string()
    };
    let (first, second) = (order("order-17", r#"{"order": 17}"#), order("order-18", r#"{"order": 18}"#));
    let number = order("4711", "{}");
    assert_eq!(fixture.json(&["show", "order-17"])["id"].to_string(), first);
    assert_eq!(fixture.json(&["show", "4711"])["id"].to_string(), number, "there is no item with this id");
    assert_eq!(fixture.json(&["reschedule", "4711", "--in", "1h"])["sample"][0].to_string(), number);
    fixture.json(&["audit", "--item", "4712"]);
    fixture.run(&["show", "order-19"]).fails(1, &["the key \"order-19\"", "--key-prefix"]);
    let ids = |args: &[&str]| -> Vec<String> {
        let items = fixture.json(&[&["list"], args].concat());
        items.as_array().unwrap().iter().map(|item| item["id"].to_string()).collect()
    };
    assert_eq!(ids(&["order-17"]), [first.as_str()]);
    assert_eq!(ids(&["--key", "4711"]), [number.as_str()]);
    assert_eq!(ids(&["--key-prefix", "order-"]), [second.as_str(), &first]);
    assert_eq!(ids(&["PENDING", "--payload", "order=17"]), [first.as_str()]);
    fixture.run(&["list", "--payload", "order"]).fails(2, &["PATH=VALUE"]);
    fixture.run(&["list", "--key-prefix", ""]).fails(1, &["key_prefix"]);
    fixture.run(&["dead", "--key-prefix", "", "--yes"]).fails(1, &["key_prefix"]);
    fixture.run(&["purge", "DLQ", "--error", "", "--yes"]).fails(1, &["error"]);
    fixture.run(&["list", "--since", "1795997861"]).fails(2, &["are before 2001"]);
    fixture.json(&["reschedule", "order-17", "--in", "1h"]);
    fixture.json(&["dead", "order-17", "order-18"]);
    assert_eq!(
        fixture.json(&["replay", "--status", "DLQ", "--limit", "1", "--dry-run"])["sample"][0].to_string(),
        first
    );
    assert_eq!(fixture.json(&["replay", "order-17"])["changed"], 1);
    assert_eq!(fixture.json(&["restore", "--key", "order-18"])["changed"], 1);
    fixture.json(&["dead", "--key", "order-18"]);
    assert_eq!(fixture.json(&["audit", "--item", "order-18"]).as_array().unwrap().len(), 3);
    fixture.run(&["purge", "order-18", "--older-than", "7d"]).fails(2, &["--older-than"]);
    fixture.run(&["purge", "DLQ", "order-18"]).fails(2, &["DLQ"]);
    assert_eq!(fixture.json(&["purge", "order-18"])["changed"], 1);
    fixture.run(&["purge", "--key-prefix", "order-"]).stdout.contains("0 items");
}

#[test]
fn what_an_action_is_not_for_is_a_usage_error() {
    let fixture = CliFixture::migrated();
    fixture.run(&["dead", "--status", "DONE"]).fails(2, &["PENDING or CLAIMED"]);
    fixture.run(&["restore", "--status", "PENDING"]).fails(2, &["use DLQ"]);
    fixture.run(&["reschedule", "1"]).fails(2, &["--in"]);
    fixture.run(&["replay", "1", "--rate", "5"]).fails(2, &["--rate"]);
    fixture.run(&["pause", "Mail"]).fails(1, &["type is \"Mail\""]);
    for verb in ["dead", "restore", "release"] {
        fixture.run(&[verb]).fails(2, &["--status"]);
        fixture.run(&[verb, "99"]).fails(1, &["no such item"]);
    }
}

#[tokio::test]
async fn a_store_is_handed_over_through_a_file() {
    let (source, target) = (CliFixture::migrated(), CliFixture::migrated());
    source.settled("dead", dead()).await;
    enqueue(&source, "waiting", "o");
    let file = source.dir.path().join("export.ndjson");
    let name = file.to_str().unwrap();
    source.run(&["export", name]).fails(1, &["mail are not paused", "--pause"]);
    let exported = source.json(&["export", name, "--pause"]);
    source.run(&["export", name]).fails(1, &["export.ndjson"]);
    assert_eq!(target.json(&["import", name, "--dry-run"])["created"], exported["records"]);
    assert_eq!(target.json(&["list"]), json!([]));
    let imported = target.json(&["import", name]);
    assert_eq!((&imported["created"], &imported["verified"]), (&exported["records"], &json!(true)));
    assert_eq!(target.json(&["list"]), source.json(&["list"]));
    assert_eq!(target.json(&["import", name])["created"], 0);
    for side in [&source, &target] {
        assert_eq!(side.json(&["export", name, "--verify"])["missing"], 0);
    }
    assert_eq!(target.store().claim(&request(&["mail"], 9)).await.unwrap().claims.len(), 1, "mail is resumed");
    let report = target.run(&["export", name, "--verify"]);
    assert!(report.stdout.contains("1 record") && report.stdout.contains("(items 2)"), "{}", report.stdout);
    enqueue(&source, "late", "o");
    let report = source.run(&["export", name, "--verify"]);
    assert!(report.stdout.contains("1 item that the file does not have (items 3)"), "{}", report.stdout);

    let other = CliFixture::migrated();
    enqueue(&other, "in the way", "o");
    other.run(&["import", name]).fails(1, &["item 1", "--reserve"]);
    assert_eq!(other.json(&["list"]).as_array().unwrap().len(), 1);
    let reserved = CliFixture::migrated();
    reserved.json(&["import", "--reserve", "100"]);
    assert_eq!(enqueue(&reserved, "mine", "o"), "101");
    reserved.json(&["import", name]);
    assert_eq!(reserved.json(&["list"]).as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_an_operator_paused_stays_paused_after_a_move() {
    let (source, target) = (CliFixture::migrated(), CliFixture::migrated());
    enqueue(&source, "one", "o");
    source.json(&["pause", "mail", "--reason", "until Monday"]);
    source.json(&["pause", "webhook", "--force"]);
    let file = source.dir.path().join("export.ndjson");
    let name = file.to_str().unwrap();
    source.json(&["export", name, "--pause", "--reason", "a larger machine"]);
    target.json(&["import", name]);
    let paused: Vec<_> = target.store().pauses().await.unwrap().into_iter().map(|pause| pause.r#type).collect();
    assert_eq!(paused, ["mail", "webhook"]);
    assert!(target.store().claim(&request(&["mail"], 9)).await.unwrap().claims.is_empty());
    assert!(target.run(&["audit"]).stdout.contains("until Monday"));
}

#[test]
fn a_file_that_was_cut_or_changed_is_not_imported() {
    let (source, target) = (CliFixture::migrated(), CliFixture::migrated());
    for key in ["a", "b"] {
        enqueue(&source, key, "o");
    }
    let file = source.dir.path().join("export.ndjson");
    let name = file.to_str().unwrap();
    source.json(&["export", name, "--pause"]);
    let whole = std::fs::read_to_string(&file).unwrap();
    let cut = whole.rsplit_once("{\"records\"").unwrap().0;
    for (text, says) in [
        (cut.to_owned(), "was cut"),
        (whole.replacen("\"a\"", "\"z\"", 1), "were changed"),
        ("{}".to_owned(), "does not begin like an export"),
    ] {
        std::fs::write(&file, text).unwrap();
        target.run(&["import", name]).fails(1, &[says]);
    }
    assert_eq!(target.json(&["list"]), json!([]));
}
