//! The operators' verbs.

use serde_json::{Value, json};

use super::Place;
use crate::support::{dead, request};

fn enqueue(place: &Place, key: &str, ordering_key: &str) -> String {
    let args = ["enqueue", "--type", "mail", "--key", key, "--payload", "{}", "--ordering-key", ordering_key];
    place.json(&args)["ids"][0].to_string()
}

fn status(place: &Place, id: &str) -> Value {
    place.json(&["show", id])["status"].clone()
}

#[tokio::test]
async fn an_item_is_dead_lettered_restored_rescheduled_and_released() {
    let place = Place::migrated();
    let id = enqueue(&place, "k", "o");
    place.json(&["dead", &id, "--reason", "wrong", "--actor", "ann"]);
    assert_eq!(status(&place, &id), "DLQ");
    place.json(&["restore", &id]);
    place.json(&["reschedule", &id, "--in", "1h"]);
    let item = place.json(&["show", &id]);
    assert!(item["available_at"].as_i64().unwrap() > item["created_at"].as_i64().unwrap() + 3_000_000);
    place.json(&["reschedule", &id, "--in", "0s"]);
    place.store().claim(&request(&["mail"], 1)).await.unwrap();
    place.run(&["release", &id]).fails(1, &["lease has not ended"]);
    let told = place.run(&["release", &id, "--force"]);
    assert!(told.stderr.contains("may still be acting"), "{told:?}");
    assert_eq!(status(&place, &id), "PENDING");
    let trail = place.json(&["audit", "--item", &id]);
    let actions: Vec<_> = trail.as_array().unwrap().iter().rev().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["dead", "restore", "reschedule", "reschedule", "release"]);
    assert_eq!((&trail[4]["actor"], &trail[4]["reason"]), (&json!("ann"), &json!("wrong")));
}

#[tokio::test]
async fn a_blocked_key_is_found_explained_and_unblocked() {
    let place = Place::migrated();
    let (head, behind) = (enqueue(&place, "1", "order 7"), enqueue(&place, "2", "order 7"));
    place.json(&["dead", &head]);
    let stuck = place.json(&["stuck"]);
    assert_eq!((&stuck[0]["kind"], &stuck[0]["waiting"]), (&json!("blocked_key"), &json!(1)));
    assert!(place.run(&["stuck"]).stdout.contains("outbox unblock 'order 7'"));
    assert_eq!(place.json(&["unblock", "order 7", "--dry-run"])["changed"], true);
    assert_eq!(place.json(&["unblock", "order 7"]), json!({ "changed": true, "items": [1] }));
    assert_eq!(place.json(&["unblock", "order 7"]), json!({ "changed": false }));
    let claims = place.store().claim(&request(&["mail"], 9)).await.unwrap().claims;
    assert_eq!(claims[0].item.id.to_string(), behind);
}

#[tokio::test]
async fn a_paused_type_waits_until_it_is_resumed() {
    let place = Place::migrated();
    enqueue(&place, "k", "o");
    place.json(&["pause", "mail", "--reason", "deploy"]);
    assert!(place.store().claim(&request(&["mail"], 1)).await.unwrap().claims.is_empty());
    assert!(place.run(&["stuck"]).stdout.contains("outbox resume mail"));
    place.json(&["resume", "mail"]);
    assert_eq!(place.store().claim(&request(&["mail"], 1)).await.unwrap().claims.len(), 1);
}

#[tokio::test]
async fn a_group_of_failures_is_replayed_as_a_job() {
    let place = Place::migrated();
    for key in ["a", "b", "c"] {
        place.settled(key, dead()).await;
    }
    let groups = place.json(&["failures"]);
    assert_eq!((&groups[0]["count"], &groups[0]["code"]), (&json!(3), &json!("upstream.503")));
    let fingerprint = groups[0]["fingerprint"].as_str().unwrap();
    let replay = ["replay", "--status", "DLQ", "--fingerprint", fingerprint, "--rate", "100"];
    let report = place.json(&replay);
    assert_eq!((&report["changed"], &report["job"]), (&json!(3), &json!(1)));
    let job = place.json(&["jobs", "show", "1"]);
    assert_eq!((&job["state"], &job["changed"], &job["per_second"]), (&json!("DONE"), &json!(3), &json!(100)));
    assert_eq!(place.json(&["jobs"]).as_array().unwrap().len(), 1);
    assert_eq!(place.json(&["jobs", "cancel", "1"])["changed"], false);
    assert_eq!(place.json(&["jobs", "resume", "1"])["state"], "DONE");
    place.run(&["jobs", "show", "9"]).fails(1, &["no job 9"]);
}

#[test]
fn what_an_action_is_not_for_is_a_usage_error() {
    let place = Place::migrated();
    place.run(&["dead", "--status", "DONE"]).fails(2, &["PENDING or CLAIMED"]);
    place.run(&["restore", "--status", "PENDING"]).fails(2, &["use DLQ"]);
    place.run(&["reschedule", "1"]).fails(2, &["--in"]);
    place.run(&["replay", "1", "--rate", "5"]).fails(2, &["--rate"]);
    place.run(&["pause", "Mail"]).fails(1, &["type is \"Mail\""]);
    for verb in ["dead", "restore", "release"] {
        place.run(&[verb]).fails(2, &["--status"]);
        place.run(&[verb, "99"]).fails(1, &["no such item"]);
    }
}

#[tokio::test]
async fn a_store_is_handed_over_through_a_file() {
    let (source, target) = (Place::migrated(), Place::migrated());
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
    assert_eq!(target.store().claim(&request(&["mail"], 9)).await.unwrap().claims.len(), 1, "mail is resumed");

    let other = Place::migrated();
    enqueue(&other, "in the way", "o");
    other.run(&["import", name]).fails(1, &["item 1", "--reserve"]);
    assert_eq!(other.json(&["list"]).as_array().unwrap().len(), 1);
    let reserved = Place::migrated();
    reserved.json(&["import", "--reserve", "100"]);
    assert_eq!(enqueue(&reserved, "mine", "o"), "101");
    reserved.json(&["import", name]);
    assert_eq!(reserved.json(&["list"]).as_array().unwrap().len(), 3);
}

#[test]
fn a_file_that_was_cut_or_changed_is_not_imported() {
    let (source, target) = (Place::migrated(), Place::migrated());
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
