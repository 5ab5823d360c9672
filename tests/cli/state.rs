//! `plugin state`: lists, shows and removes the state of plugins.

use outbox::core::{HostWrites, Settlement, StateChange, StateKeyChange};
use outbox::store::SettleRequest;
use serde_json::json;

use super::{CliFixture, has_keys};
use crate::support::settled;

/// A settlement that stores a counter, a text and bytes in the state.
fn keeping() -> SettleRequest {
    let put = |key: &str, value: &[u8]| StateKeyChange {
        key: key.into(),
        read_version: None,
        change: StateChange::Put(value.into()),
    };
    let state = vec![put("bytes", b"\xff\x00"), put("count", b"7"), put("text", br#""ok""#)];
    let writes =
        HostWrites { plugin: "p".into(), state, state_quota: 1024, followups: Vec::new(), ..HostWrites::default() };
    settled(Settlement::Done { result: None, writes })
}

#[tokio::test]
async fn the_state_of_plugins_is_listed_and_shown_as_json_or_base64() {
    let fixture = CliFixture::migrated();
    assert_eq!(fixture.json(&["plugin", "state", "list"]), json!([]));
    fixture.settled("k", keeping()).await;
    assert_eq!(fixture.json(&["plugin", "state", "list"]), json!([{ "plugin": "p", "keys": 3, "bytes": 21 }]));
    let entries = fixture.json(&["plugin", "state", "list", "p", "--after", "bytes", "--limit", "1"]);
    has_keys(&entries[0], &["plugin", "key", "bytes", "version"]);
    assert_eq!((entries.as_array().unwrap().len(), &entries[0]["key"]), (1, &json!("count")));
    assert_eq!(fixture.json(&["plugin", "state", "list", "other"]), json!([]));

    let count = fixture.json(&["plugin", "state", "show", "p", "count"]);
    assert_eq!((&count["value"], &count["bytes"], count.get("value_encoding")), (&json!(7), &json!(1), None));
    let bytes = fixture.json(&["plugin", "state", "show", "p", "bytes"]);
    assert_eq!((&bytes["value"], &bytes["value_encoding"]), (&json!("/wA="), &json!("base64")));
    assert!(fixture.run(&["plugin", "state", "show", "p", "text"]).stdout.contains("ok"));
    fixture.run(&["plugin", "state", "show", "p", "none"]).fails(1, &["keeps no \"none\""]);
    fixture.run(&["plugin", "state", "show", "p"]).fails(2, &["<KEY>"]);
}

#[tokio::test]
async fn state_is_removed_by_key_or_whole_and_the_audit_trail_says_who_and_why() {
    let fixture = CliFixture::migrated();
    fixture.settled("k", keeping()).await;
    let clear = |more: &[&str]| fixture.json(&[&["plugin", "state", "clear", "p"], more].concat());
    assert_eq!(clear(&["--dry-run"])["keys"], 3);
    assert_eq!(
        clear(&["count", "--reason", "wrong", "--actor", "ann"]),
        json!({ "plugin": "p", "keys": 1, "bytes": 6 })
    );
    fixture.run(&["plugin", "state", "clear", "p", "count"]).fails(1, &["keeps no \"count\""]);
    fixture.run(&["plugin", "state", "clear", "p"]).fails(2, &["2 keys", "plugin state clear p --yes"]);
    assert_eq!(clear(&["--yes"])["keys"], 2);
    assert_eq!(clear(&[])["keys"], 0);
    assert_eq!(fixture.json(&["plugin", "state", "list"]), json!([]));

    let sql = "SELECT actor, action, reason, count, selection FROM outbox_audit ORDER BY seq LIMIT 1";
    let db = fixture.dir.path().join("outbox.sqlite");
    let output = std::process::Command::new("sqlite3").arg(db).arg(sql).output().unwrap();
    let entry = String::from_utf8(output.stdout).unwrap();
    assert_eq!(entry.trim(), r#"ann|clear_state|wrong|1|{"key":"count","plugin":"p"}"#);
}
