//! A host that lacks descriptors: its items wait, and none of them pays for it.

use std::time::Duration;

use crate::support::eventually;
use crate::support::stage::{Deployment, becomes};

const SOON: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_host_without_descriptors_gives_items_back_uncounted_and_handles_them_afterwards() {
    let deployment = Deployment::new().await;
    let plan = deployment.plan.clone().set("OUTBOX_MAX_RETRIES", "0").set("OUTBOX_BACKOFF_CAP_MS", "100");
    let host = plan.start("serve").await;
    // Those that are open stay open, and no other can be opened.
    host.limit_descriptors(3);
    let insert = "INSERT INTO outbox_items (type, idem_key, payload) VALUES ('webhook', 'starved', '{}')";
    deployment.test_db.sql(insert).unwrap();
    let id = deployment.test_db.sql("SELECT id FROM outbox_items WHERE idem_key = 'starved'").unwrap();
    let id = id.trim().to_owned();
    let give_backs = format!("SELECT give_backs FROM outbox_status WHERE id = {id}");
    let given_back = || deployment.test_db.sql(&give_backs).unwrap().trim().parse::<u32>().unwrap();
    eventually("the item was given back three times", SOON, async || given_back() >= 3).await;
    let item = plan.json(&["show", &id, "--json"]);
    let history = item["failed_attempts"].as_array().unwrap();
    assert_eq!((&item["attempts"], history.len()), (&0.into(), 1), "{item}");
    let (class, code) = (&history[0]["class"], &history[0]["code"]);
    assert_eq!((class.as_str(), code.as_str()), (Some("host"), Some("host.resources")), "{item}");
    assert!(history[0]["message"].as_str().unwrap().contains("Too many open files"), "{item}");
    assert_eq!(history[0]["maybe_executed"], false, "{item}");

    host.limit_descriptors(1024);
    becomes(&host, id.parse().unwrap(), "DONE").await;
    assert_eq!(deployment.vector.ledger.received().len(), 1);
}
