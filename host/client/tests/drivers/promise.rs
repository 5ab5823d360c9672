//! The promise, step by step. Each step leaves the database as the next one needs it.

use std::time::Duration;

use outbox_client::{EnqueueError, ItemId, NewItem};

use crate::applications::{Application, End, Step, StepResult};

pub(crate) async fn keep<A: Application>(application: &mut A) {
    application.transact(&[Step::Sql("CREATE TABLE orders (id integer PRIMARY KEY)")], End::Commit).await;
    it_is_committed_and_rolled_back_with_the_applications_row(application).await;
    the_same_content_has_the_first_id_and_other_content_is_a_conflict(application).await;
    an_invalid_item_changes_nothing(application).await;
    every_field_is_stored(application).await;
    what_the_database_refuses_is_the_drivers_error(application).await;
}

fn id(result: &StepResult) -> ItemId {
    result.as_ref().unwrap().unwrap()
}

async fn stored<A: Application>(application: &mut A) -> (Vec<String>, Vec<String>) {
    let keys = application.read(&format!("SELECT idem_key FROM {} ORDER BY id", A::ITEMS)).await;
    (keys, application.read("SELECT CAST(id AS text) FROM orders ORDER BY id").await)
}

async fn it_is_committed_and_rolled_back_with_the_applications_row<A: Application>(application: &mut A) {
    let item = NewItem::new("mail", "k", "{}");
    let steps = [Step::Sql("INSERT INTO orders VALUES (1)"), Step::Enqueue(&item)];
    let results = application.transact(&steps, End::Rollback).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(stored(application).await, (vec![], vec![]));
    let results = application.transact(&steps, End::Commit).await;
    assert!(id(&results[1]) > ItemId::new(0));
    assert_eq!(stored(application).await, (vec!["k".into()], vec!["1".into()]));
}

async fn the_same_content_has_the_first_id_and_other_content_is_a_conflict<A: Application>(application: &mut A) {
    let item = NewItem::new("mail", "k", "{}");
    let first = id(&application.transact(&[Step::Enqueue(&item)], End::Commit).await[0]);
    let other = |change: fn(&mut NewItem)| {
        let mut item = item.clone();
        change(&mut item);
        item
    };
    let others = [
        other(|item| item.item_type = "sms".into()),
        other(|item| item.payload = b"[]".into()),
        other(|item| item.content_type = "text/plain".into()),
        other(|item| item.saga = Some("s".into())),
        other(|item| item.ordering_key = Some("o".into())),
    ];
    let same = other(|item| item.cid = Some("another-request".into()));
    let mut steps: Vec<_> = others.iter().map(Step::Enqueue).collect();
    let (fresh, twice) = (NewItem::new("mail", "l", "{}"), NewItem::new("mail", "m", "{}"));
    steps.extend([&same, &fresh, &twice, &twice].map(Step::Enqueue));
    steps.push(Step::Sql("INSERT INTO orders VALUES (2)"));
    let results = application.transact(&steps, End::Commit).await;
    for refused in &results[..others.len()] {
        let Err(EnqueueError::Conflict { idem_key, first: named }) = refused else { panic!("{refused:?}") };
        assert_eq!((idem_key.as_str(), *named), ("k", first));
    }
    let ids: Vec<_> = results[others.len()..].iter().take(4).map(id).collect();
    assert!(ids[0] == first && ids[1] > first && ids[2] > ids[1] && ids[3] == ids[2], "{ids:?}");
    assert!(matches!(results.last(), Some(Ok(None))), "the transaction went on: {results:?}");
    assert_eq!(stored(application).await, (["k", "l", "m"].map(Into::into).into(), ["1", "2"].map(Into::into).into()));
}

async fn an_invalid_item_changes_nothing<A: Application>(application: &mut A) {
    let before = stored(application).await;
    let (invalid, valid) = (NewItem::new("Mail", "n", "{}"), NewItem::new("mail", "n", "{}"));
    let steps = [Step::Enqueue(&invalid), Step::Sql("INSERT INTO orders VALUES (3)"), Step::Enqueue(&valid)];
    let results = application.transact(&steps, End::Rollback).await;
    assert!(matches!(&results[0], Err(EnqueueError::Invalid(invalid)) if invalid.field == "type"), "{results:?}");
    assert!(results[1..].iter().all(Result::is_ok), "the transaction went on: {results:?}");
    application.transact(&steps[..1], End::Commit).await;
    assert_eq!(stored(application).await, before);
}

async fn every_field_is_stored<A: Application>(application: &mut A) {
    let mut full = NewItem::new("mail", "full", b"\xff\x00\n".to_vec());
    full.content_type = "application/octet-stream".into();
    full.headers = [("b".into(), "ü\"".into()), ("a".into(), String::new())].into();
    full.metadata = [("note".into(), 17.into())].into_iter().collect();
    full.cid = Some("request-1".into());
    full.saga = Some("checkout".into());
    full.ordering_key = Some("customer-4".into());
    full.delay = Duration::from_millis(86_400_001);
    let bare = NewItem::new("mail", "bare", "");
    let results = application.transact(&[Step::Enqueue(&full), Step::Enqueue(&bare)], End::Commit).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let columns = [
        "type",
        A::HEX,
        "content_type",
        "CAST(headers AS text)",
        "CAST(metadata AS text)",
        "cid",
        "coalesce(saga, '-')",
        "coalesce(ordering_key, '-')",
        "CAST(available_at - created_at AS text)",
    ]
    .join(" || ' ' || ");
    let read = |key: &str| format!("SELECT {columns} FROM {} WHERE idem_key = '{key}'", A::ITEMS);
    let headers = r#"{"a":"","b":"ü\""}"#;
    let expected = format!(
        r#"mail FF000A application/octet-stream {headers} {{"note":17}} request-1 checkout customer-4 86400001"#
    );
    assert_eq!(application.read(&read("full")).await, [expected]);
    assert_eq!(application.read(&read("bare")).await, ["mail  application/json {} {} bare - - 0"]);
}

async fn what_the_database_refuses_is_the_drivers_error<A: Application>(application: &mut A) {
    application.transact(&[Step::Sql(&format!("ALTER TABLE {} RENAME TO moved", A::ITEMS))], End::Commit).await;
    let results = application.transact(&[Step::Enqueue(&NewItem::new("mail", "o", "{}"))], End::Rollback).await;
    assert!(A::is_driver_error(results[0].as_ref().unwrap_err()), "{results:?}");
    let (schema, table) = A::ITEMS.split_once('.').map_or(("", A::ITEMS), |(_, table)| ("outbox.", table));
    application.transact(&[Step::Sql(&format!("ALTER TABLE {schema}moved RENAME TO {table}"))], End::Commit).await;
}

/// On PostgreSQL, where another transaction can take a key while this one looks at it.
pub(crate) async fn keep_during_a_race<A: Application>(application: &mut A, url: &str) {
    let (mut db, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // Every insert waits here before the schema's own trigger looks.
    let gate = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
                CREATE TRIGGER a_gate BEFORE INSERT ON outbox.items FOR EACH ROW EXECUTE FUNCTION gate()";
    db.batch_execute(gate).await.unwrap();
    for (key, same) in [("race", false), ("harmless-race", true)] {
        let first = db.transaction().await.unwrap();
        let item = NewItem::new("mail", key, "{}");
        let first_id = outbox_client::postgres::enqueue_in(&first, &item).await.unwrap();
        let late = NewItem::new("mail", key, if same { "{}" } else { "[]" });
        let next = NewItem::new("mail", &format!("after-{key}"), "{}");
        let by_hand = format!("INSERT INTO outbox.items (type, idem_key, payload) VALUES ('mail', '{key}', 'x')");
        let steps = [Step::Enqueue(&late), Step::Enqueue(&next), Step::Sql(&by_hand)];
        let mut inserting = Box::pin(application.transact(&steps, End::Rollback));
        let waits = tokio::time::timeout(Duration::from_millis(300), &mut inserting).await;
        assert!(waits.is_err(), "it waits at the gate");
        first.commit().await.unwrap();
        let results = inserting.await;
        match &results[0] {
            Ok(id) => assert!(same && *id == Some(first_id)),
            Err(EnqueueError::Conflict { first, .. }) => assert!(!same && *first == first_id),
            Err(err) => panic!("{err}"),
        }
        assert!(id(&results[1]) > first_id, "the transaction went on");
        let loud = results[2].as_ref().unwrap_err();
        let EnqueueError::Database(source) = loud else { panic!("{loud}") };
        let shown = format!("{source:?}");
        assert!(shown.contains("other content"), "a plain INSERT still fails: {shown}");
    }
    db.batch_execute("DROP TRIGGER a_gate ON outbox.items").await.unwrap();
}
