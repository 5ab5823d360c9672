//! Actions by forms: a preview that says what may follow, a reason, a job with its progress, and the audit trail.

use outbox::http::{Right, Role};
use outbox::item::{NewItem, Status};
use outbox::store::{AuditQuery, JobState};

use super::{Desk, Page};
use crate::support::{Backend, dead, done, item, on_each_backend, ordered};

/// Items that are dead for one reason.
async fn dead_items(desk: &Desk, number: usize) -> Vec<outbox::item::ItemId> {
    let mut ids = Vec::new();
    for index in 0..number {
        ids.push(desk.fixture.enqueue(item(&format!("dead-{index}"))).await);
        let claim = desk.fixture.claim_one("mail").await;
        desk.fixture.store.settle(&claim.reference(), dead()).await.unwrap();
    }
    ids
}

/// Sends the form of the page with these fields besides its hidden ones.
async fn confirm(desk: &Desk, path: &str, page: &Page, fields: &[(&str, &str)]) -> Page {
    let path = path.split('?').next().unwrap();
    let hidden = page.hidden_fields();
    let hidden = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let all: Vec<_> = hidden.chain(fields.iter().copied()).collect();
    desk.post(path, &all).await
}

mod on_each {
    use super::*;

    pub(super) async fn one_item_is_replayed_with_a_reason_and_audited(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        let id = dead_items(&desk, 1).await[0];
        let path = format!("/cockpit/act/replay?ids={id}");
        let asked = desk.get(&path).await;
        let text = asked.text();
        assert!(text.contains("Replay 1 item?") && text.contains("Duplicates may follow"), "{text}");
        let refused = confirm(&desk, &path, &asked, &[("actor", "ada"), ("reason", " ")]).await;
        assert!(refused.status == 400 && refused.text().contains("Nothing was changed: say why"), "{}", refused.text());
        assert!(refused.html().contains("value=\"ada\"") && refused.text().contains("Replay 1 item?"), "{refused:?}");
        assert_eq!(desk.fixture.status(id).await, Status::Dlq);
        let ticked = confirm(&desk, &path, &asked, &[("reason", "x"), ("new_effects", "yes")]).await;
        let again = format!("replay?ids={id}&new_effects=yes&reason=x");
        assert_eq!(
            (ticked.status, ticked.header("location")),
            (303, again.as_str()),
            "options lead to their own preview"
        );
        assert_eq!(desk.fixture.status(id).await, Status::Dlq);
        let preview = desk.get(&format!("/cockpit/act/{again}")).await.text();
        assert!(preview.contains("Duplicates follow: outgoing requests carry new"), "{preview}");
        let acted = confirm(&desk, &path, &asked, &[("reason", "the receiver is back"), ("actor", "ada")]).await;
        assert_eq!((acted.status, acted.header("location")), (303, format!("../items/{id}").as_str()), "{acted:?}");
        assert_eq!(desk.fixture.status(id).await, Status::Pending);
        let text = desk.get(&format!("/cockpit/items/{id}")).await.text();
        assert!(text.contains("Replay by ada (claimed) the receiver is back"), "{text}");
        let again = confirm(&desk, &path, &asked, &[("reason", "twice")]).await;
        assert!(again.status == 409 && again.text().contains("it is PENDING now"), "{}", again.text());
        assert!(again.text().contains("Nothing would change") && again.text().contains("What cannot take it"));
        let claim = desk.fixture.claim_one("mail").await;
        desk.fixture.store.settle(&claim.reference(), done()).await.unwrap();
        let of_done = confirm(&desk, &path, &asked, &[("reason", "not what was shown")]).await;
        assert!(of_done.status == 409 && of_done.text().contains("it is DONE now"), "{}", of_done.text());
        assert_eq!(desk.fixture.status(id).await, Status::Done);
    }

    pub(super) async fn everything_that_matches_becomes_a_job_of_those_that_were_shown(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        dead_items(&desk, 3).await;
        let path = "/cockpit/act/replay?type=mail";
        let asked = desk.get(path).await;
        assert!(asked.text().contains("Replay 3 items?") && asked.text().contains("mail DLQ 3"), "{}", asked.text());
        let acted = confirm(&desk, path, &asked, &[("reason", "the receiver is back")]).await;
        let job = acted.header("location").strip_prefix("../jobs/").unwrap_or_else(|| panic!("{acted:?}")).to_owned();
        let running = desk.get(&format!("/cockpit/jobs/{job}")).await.text();
        assert!(running.contains("replay 3 items RUNNING") && running.contains("Cancel the job"), "{running}");
        desk.fixture.store.run_job_batch(job.parse().unwrap()).await.unwrap();
        let ended = desk.get(&format!("/cockpit/jobs/{job}")).await.text();
        assert!(ended.contains("3 of 3 changed") && ended.contains("3 waiting"), "{ended}");
        let operations = desk.get("/cockpit/operations").await.text();
        assert!(operations.contains("replay 3 items") && operations.contains("the receiver is back"), "{operations}");
        let trail = desk.get("/cockpit/operations").await;
        assert!(
            trail.html().contains("<datalist id=\"actors\"><option value=\"http (no name)\"></datalist>"),
            "{}",
            trail.html()
        );
        let missing = desk.get("/cockpit/jobs/999").await;
        assert!(missing.status == 404 && missing.text().contains("there is no job 999"), "{}", missing.text());
    }

    pub(super) async fn a_group_of_failures_is_replayed_as_a_whole(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        dead_items(&desk, 2).await;
        let groups = desk.get("/cockpit/failures").await;
        assert!(groups.text().contains("2 dead letters in 1 group"), "{}", groups.text());
        let start = groups.html().find("href=\"failures/").unwrap() + "href=\"".len();
        let path = groups.html()[start..].split('"').next().unwrap();
        let group = desk.get(&format!("/cockpit/{path}")).await;
        assert!(group.text().contains("2 dead letters of mail upstream.503 the receiver is down"), "{}", group.text());
        let start = group.html().find("cockpit/act/replay?").unwrap();
        let act = group.html()[start..].split('"').next().unwrap().replace("&#38;", "&");
        let asked = desk.get(&format!("/{act}")).await;
        assert!(asked.text().contains("Replay 2 items?"), "{}", asked.text());
        let gone = desk.get("/cockpit/failures/0000000000000000").await;
        assert!(gone.status == 404 && gone.text().contains("No item is in this group any more"), "{}", gone.text());
        assert!(!group.text().contains("Restore the group"), "no operator dead-lettered them: {}", group.text());
        let searched = desk.get("/cockpit/failures?error=down").await;
        assert!(
            searched.text().contains("does not refresh") && !searched.html().contains("data-live"),
            "it reads much"
        );
        assert!(groups.html().contains("data-live") && !groups.text().contains("does not refresh"));
        let other = desk.get("/cockpit/failures?status=DONE").await;
        assert!(other.status == 400 && other.text().contains("choose one of the two"), "{}", other.text());
    }

    pub(super) async fn types_and_keys_are_controlled_with_a_reason(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        let id = desk.fixture.enqueue(ordered("a")).await;
        desk.fixture.enqueue(ordered("b")).await;
        desk.fixture.store.settle(&desk.fixture.claim_one("mail").await.reference(), dead()).await.unwrap();
        let held = desk.get("/cockpit/operations").await.text();
        assert!(held.contains(&format!("blocked key k item {id} is dead, 1 item behind it")), "{held}");
        let blocked = format!("The key is blocked by item {id}; one item waits behind it");
        for (path, question, now, seen) in [
            (
                "/cockpit/control/pause?type=mail",
                "Pause mail?",
                "1 item of the type wait",
                "paused mail by http (no name): calm",
            ),
            ("/cockpit/control/resume?type=mail", "Resume mail?", "0 are being handled", "resume type mail calm"),
            ("/cockpit/control/unblock?ordering_key=k", "Unblock the key k?", &blocked, "unblock"),
        ] {
            let asked = desk.get(path).await;
            assert!(asked.text().contains(question) && asked.text().contains(now), "{path}: {}", asked.text());
            let done = confirm(&desk, path, &asked, &[("reason", "calm")]).await;
            assert_eq!((done.status, done.header("location")), (303, "../operations"), "{done:?}");
            let text = desk.get("/cockpit/operations").await.text();
            assert!(text.contains(seen), "{path}: {text}");
        }
        assert_eq!(desk.fixture.status(id).await, Status::Dlq);
        let again = desk.get("/cockpit/control/unblock?ordering_key=k").await.text();
        assert!(again.contains("Nothing would change") && !again.contains("Reason"), "{again}");
        let blank =
            confirm(&desk, "/cockpit/control/pause", &desk.get("/cockpit/control/pause?type=mail").await, &[]).await;
        assert!(blank.status == 400 && blank.text().contains("Nothing was changed: say why"), "{}", blank.text());
        assert!(blank.text().contains("Pause mail?"), "{}", blank.text());
        for (path, told) in
            [("/cockpit/control/pause?type=mial", "known are mail"), ("/cockpit/control/unblock?ordering_key=zz", "zz")]
        {
            let unknown = desk.get(path).await;
            assert!(unknown.status == 404 && unknown.text().contains(told), "{path}: {}", unknown.text());
            assert!(unknown.text().contains("Nothing has this name") && unknown.text().contains("Operations"));
        }
        let path = "/cockpit/control/pause?type=fax&force=yes";
        let forced = confirm(&desk, path, &desk.get(path).await, &[("reason", "early")]).await;
        assert_eq!(forced.status, 303, "{}", forced.text());
    }
}

on_each_backend! {
    one_item_is_replayed_with_a_reason_and_audited
    everything_that_matches_becomes_a_job_of_those_that_were_shown
    a_group_of_failures_is_replayed_as_a_whole
    types_and_keys_are_controlled_with_a_reason
}

#[tokio::test]
async fn a_button_for_everything_names_the_statuses_that_it_takes() {
    let desk = Desk::serving(Backend::Sqlite, &["mail"]).await;
    dead_items(&desk, 1).await;
    let all = desk.get("/cockpit/items").await.text();
    assert!(all.contains("Replay all DLQ… Reschedule all PENDING… Release all CLAIMED…"), "{all}");
    assert!(all.contains("Dead-letter all PENDING and CLAIMED… Purge all DLQ…"), "{all}");
    let some = desk.get("/cockpit/items?status=DLQ&status=DONE&type=mail").await.text();
    assert!(some.contains("Replay all DLQ and DONE…"), "{some}");
}

#[tokio::test]
async fn a_form_without_the_token_of_its_session_changes_nothing() {
    let mut desk = Desk::closed(Backend::Sqlite).await;
    let id = dead_items(&desk, 1).await[0].to_string();
    desk.log_in(Role::Operate).await;
    let path = format!("/cockpit/act/replay?ids={id}");
    let own = desk.get(&path).await.hidden("form_token");
    desk.log_in(Role::Admin).await;
    let fields =
        |token: &'static str| [("ids", id.clone()), ("reason", "x".to_owned()), ("form_token", token.to_owned())];
    let forged: [Vec<(&str, String)>; 4] = [
        fields("").into(),
        fields("0000").into(),
        vec![("ids", id.clone()), ("reason", "x".into()), ("form_token", own)],
        vec![("ids", id.clone()), ("reason", "x".into())],
    ];
    for fields in forged {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let refused = desk.post("/cockpit/act/replay", &fields).await;
        assert_eq!(refused.status, 403, "{fields:?}");
        assert!(refused.text().contains("open the page again"), "{}", refused.text());
    }
    let json = desk.send("POST", "/cockpit/act/replay", &[("content-type", "application/json")], "{}").await;
    assert_eq!(json.status, 415);
    assert_eq!(desk.fixture.status(id.parse().unwrap()).await, Status::Dlq);
    assert!(desk.fixture.store.audit(&AuditQuery::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn each_role_is_offered_and_allowed_what_its_rights_permit() {
    let mut desk = Desk::closed(Backend::Sqlite).await;
    let id = dead_items(&desk, 1).await[0];
    let offers = |page: &Page| ["replay", "dead", "purge"].map(|word| page.html().contains(&format!("act/{word}\"")));
    for (role, offered) in
        [(Role::Read, [false; 3]), (Role::Operate, [true, false, false]), (Role::Admin, [true, false, true])]
    {
        desk.log_in(role).await;
        let item = desk.get(&format!("/cockpit/items/{id}")).await;
        assert_eq!(offers(&item), offered, "{role}");
        let allowed = [role != Role::Read, role != Role::Read, role == Role::Admin];
        for (word, is_allowed) in ["replay", "dead", "purge"].iter().zip(allowed) {
            let asked = desk.get(&format!("/cockpit/act/{word}?ids={id}")).await;
            assert_eq!(asked.status, if is_allowed { 200 } else { 403 }, "{role} {word}");
            let posted = desk.post(&format!("/cockpit/act/{word}"), &[("ids", &id.to_string())]).await;
            assert_eq!(posted.status, 403, "{role} {word}: without the token of the form");
        }
        let control = desk.get("/cockpit/control/pause?type=mail").await;
        assert_eq!(control.status, if role == Role::Read { 403 } else { 200 }, "{role}");
    }
}

#[tokio::test]
async fn a_changed_payload_becomes_a_new_item_that_names_the_old_one() {
    let desk = Desk::serving(Backend::Sqlite, &["mail"]).await;
    let id = dead_items(&desk, 1).await[0];
    let before = desk.fixture.item(id).await;
    let path = format!("/cockpit/items/{id}/anew");
    let asked = desk.get(&path).await;
    assert!(
        asked.text().contains("Duplicates may follow") && asked.text().contains("\"to\": \"a\""),
        "{}",
        asked.text()
    );
    let broken = confirm(&desk, &path, &asked, &[("payload", "{"), ("key", "k2"), ("reason", "a typo")]).await;
    assert!(broken.status == 400 && broken.text().contains("the payload is not as expected"), "{}", broken.text());
    let kept = |page: &Page| page.html().contains("value=\"k2\"") && page.html().contains("value=\"a typo\"");
    assert!(kept(&broken) && broken.html().contains("\n{</textarea>"), "what was typed stays: {}", broken.html());
    assert!(desk.fixture.store.audit(&AuditQuery::default()).await.unwrap().is_empty());
    let fields = [("payload", "{\r\n\"to\": \"b\"}"), ("key", "k2"), ("reason", "a typo"), ("actor", "ada")];
    let made = confirm(&desk, &path, &asked, &fields).await;
    let new = made.header("location").strip_prefix("../").unwrap_or_else(|| panic!("{made:?}")).parse().unwrap();
    let item = desk.fixture.item(new).await;
    assert_eq!((item.payload.as_slice(), item.idem_key.as_str()), (&b"{\n\"to\": \"b\"}"[..], "k2"));
    assert_eq!(item.metadata["anew_from"], serde_json::json!(id));
    assert_eq!(item.metadata["anew_reason"], "a typo");
    assert_eq!(desk.fixture.item(id).await, before, "the old item is never changed");
    let trail = desk.fixture.store.audit(&AuditQuery::default()).await.unwrap();
    let [entry] = &trail[..] else { panic!("one entry: {trail:?}") };
    assert_eq!((entry.action.as_str(), entry.actor.as_str()), ("anew", "ada (claimed)"));
    assert_eq!(entry.selection, serde_json::json!({ "from": id, "to": new }));
    for item in [id, new] {
        let text = desk.get(&format!("/cockpit/items/{item}")).await.text();
        assert!(text.contains("Anew by ada (claimed) a typo"), "{text}");
    }
    let twice = confirm(&desk, &path, &asked, &fields).await;
    assert_eq!((twice.status, desk.fixture.store.audit(&AuditQuery::default()).await.unwrap().len()), (303, 1));
    let taken = confirm(&desk, &path, &asked, &[("payload", "{}"), ("key", "dead-0"), ("reason", "x")]).await;
    assert!(taken.status == 422 && taken.text().contains("already used by item"), "{}", taken.text());
}

#[tokio::test]
async fn a_payload_that_a_form_would_change_is_not_offered_for_editing() {
    let desk = Desk::serving(Backend::Sqlite, &["mail"]).await;
    for (key, payload, refused) in [
        ("esc", "a\u{1b}[31m", "characters that a form would change or hide"),
        ("crlf", "a\r\nb", "characters that a form would change or hide"),
        ("bytes", "", "is no text"),
    ] {
        let payload = if key == "bytes" { vec![0xff] } else { payload.as_bytes().to_vec() };
        let id = desk.fixture.enqueue(NewItem { payload, content_type: "text/plain".into(), ..item(key) }).await;
        let page = desk.get(&format!("/cockpit/items/{id}/anew")).await;
        assert!(page.status == 400 && page.text().contains(refused), "{key}: {}", page.text());
    }
}

#[tokio::test]
async fn the_batches_of_a_job_are_one_row_of_the_trail_and_an_items_replay_leads_to_its_job() {
    let desk = Desk::serving(Backend::Sqlite, &["mail"]).await;
    let id = dead_items(&desk, 450).await[0];
    let path = "/cockpit/act/replay?type=mail";
    let acted = confirm(&desk, path, &desk.get(path).await, &[("reason", "back again")]).await;
    let job = acted.header("location").strip_prefix("../jobs/").unwrap().to_owned();
    let next_batch = async || desk.fixture.store.run_job_batch(job.parse().unwrap()).await.unwrap().unwrap();
    while next_batch().await.state == JobState::Running {}
    let text = desk.get("/cockpit/operations").await.text();
    assert!(text.contains(&format!("replay, job {job} status DLQ; type mail back again 450")), "{text}");
    let item = desk.get(&format!("/cockpit/items/{id}")).await;
    assert!(item.html().contains(&format!("cockpit/jobs/{job}\">job {job}</a>")), "{}", item.html());
}

#[tokio::test]
async fn a_confirmation_is_for_the_items_that_were_shown() {
    let desk = Desk::serving(Backend::Sqlite, &["mail"]).await;
    dead_items(&desk, 2).await;
    let path = "/cockpit/act/purge?status=DLQ";
    let asked = desk.get(path).await;
    assert!(asked.text().contains("Purge 2 items?") && asked.text().contains("cannot be undone"), "{}", asked.text());
    let other = asked.hidden("filter").replace("DLQ", "DONE");
    let fields = [
        ("filter", other.as_str()),
        ("confirm", &asked.hidden("confirm")),
        ("reason", "x"),
        ("form_token", &asked.hidden("form_token")),
    ];
    let refused = desk.post("/cockpit/act/purge", &fields).await;
    assert!(refused.status == 400 && refused.text().contains("another action or filter"), "{}", refused.text());
    let unticked = desk.get("/cockpit/act/purge?selected=ids").await;
    let crafted = desk.get("/cockpit/act/purge?filter=%7B%7D").await;
    assert!(crafted.status == 400, "a filter comes from the page before only: {}", crafted.text());
    assert!(unticked.status == 400 && unticked.text().contains("no item is selected"), "{}", unticked.text());
    let bare = desk.get("/cockpit/act/purge").await;
    assert!(bare.status == 400 && bare.text().contains("names no items"), "{}", bare.text());
    let elsewhere = desk.send("GET", path, &[("sec-fetch-site", "cross-site")], "").await;
    assert_eq!(elsewhere.status, 403, "another site cannot make the host count");
    let stale = desk.get("/cockpit/control/rollback?plugin=nosuch&digest=zzz").await;
    assert!(stale.status == 400 && stale.text().contains("no running host runs a plugin"), "{}", stale.text());
    let none = desk.get("/cockpit/act/replay?status=PENDING").await;
    assert!(none.status == 400 && none.text().contains("items that are PENDING cannot be replayed"), "{}", none.text());
    desk.fixture.enqueue(NewItem::new("mail", "new", "{}")).await;
    let all = desk.get("/cockpit/act/purge?all=yes").await.text();
    assert!(all.contains("No filter is set"), "{all}");
    assert!(!desk.get("/cockpit/act/purge?type=mail").await.text().contains("No filter is set"));
    let nothing = desk.get("/cockpit/act/release?all=yes").await;
    assert!(nothing.text().contains("Nothing would change"), "{}", nothing.text());
}

#[tokio::test]
async fn a_page_about_very_many_items_looks_at_the_oldest() {
    let desk = Desk::serving(Backend::Sqlite, &["mail"]).await;
    let fill = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10001)
        INSERT INTO outbox_items (type, idem_key, payload) SELECT 'mail', 'fill-' || n, '{}' FROM numbers";
    desk.fixture.sql(fill).unwrap();
    let path = "/cockpit/act/dead?type=mail";
    let asked = desk.get(path).await;
    assert!(asked.text().contains("Dead-letter up to 10,001 items?"), "{}", asked.text());
    assert!(
        asked.text().contains("of the oldest 1,000") && asked.text().contains("mail PENDING 1,000"),
        "{}",
        asked.text()
    );
    let acted = confirm(&desk, path, &asked, &[("reason", "a flood")]).await;
    let job = acted.header("location").strip_prefix("../jobs/").unwrap_or_else(|| panic!("{acted:?}")).to_owned();
    assert!(desk.get(&format!("/cockpit/jobs/{job}")).await.text().contains("dead 10,001 items"));
}

#[tokio::test]
async fn who_may_not_read_items_enqueues_none_anew() {
    let rights = [Right::Enqueue, Right::ReadPayload];
    let mut desk = Desk::with_token(Backend::Sqlite, Role::Enqueue, rights.into_iter().collect()).await;
    let id = dead_items(&desk, 1).await[0];
    desk.log_in(Role::Enqueue).await;
    let refused = desk.get(&format!("/cockpit/items/{id}/anew")).await;
    assert!(refused.status == 403 && refused.text().contains("needs the right `read`"), "{}", refused.text());
    assert!(!refused.html().contains("\"to\""), "{}", refused.html());
}
