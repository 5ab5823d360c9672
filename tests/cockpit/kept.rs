//! Forms that come after their session has ended: what was typed comes back after a log-in, and nothing is done before it
//! is sent again.

use std::time::Duration;

use outbox::http::{AccessSettings, HostStatus, HttpSettings, Role, SessionKey};
use outbox::item::{ItemId, Status};
use outbox::store::{AuditQuery, Filter, Page as StorePage};

use super::{Desk, Page};
use crate::support::{Backend, dead, item};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// A host with a dead item.
async fn desk() -> (Desk, ItemId) {
    let desk = Desk::closed(Backend::Sqlite).await;
    let id = desk.fixture.enqueue(item("a")).await;
    desk.fixture.store.settle(&desk.fixture.claim_one("mail").await.reference(), dead()).await.unwrap();
    (desk, id)
}

/// Sends the form of the log-in page with the token of the role.
async fn log_in(desk: &mut Desk, page: &Page, role: Role) -> Page {
    let token = format!("{role}-token");
    let hidden = page.hidden_fields();
    let fields = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain([("token", token.as_str())]);
    let answer = desk.post("/cockpit/login", &fields.collect::<Vec<_>>()).await;
    if !answer.header("set-cookie").is_empty() {
        desk.cookie = Some(answer.header("set-cookie").split(';').next().unwrap().to_owned());
    }
    answer
}

async fn is_unchanged(desk: &Desk, id: ItemId) {
    let items = desk.fixture.store.list(&Filter::default(), &StorePage { limit: 9, before: None }).await.unwrap().items;
    let found: Vec<_> = items.iter().map(|summary| (summary.item.id, summary.item.status)).collect();
    assert_eq!(found, [(id, Status::Dlq)]);
    assert!(desk.fixture.store.audit(&AuditQuery::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_edit_comes_back_after_a_log_in_and_is_enqueued_when_it_is_sent_again() {
    let (mut desk, id) = desk().await;
    let path = format!("/cockpit/items/{id}/anew");
    let payload = "{\n  \"to\": \"b & <c> \u{202e}ü\"\n}";
    let typed = [("payload", payload), ("key", "k2"), ("reason", "a typo"), ("form_token", "of a session before")];
    let asked = desk.post(&path, &typed).await;
    assert!(asked.status == 401 && asked.text().contains("It comes back after the log-in"), "{}", asked.text());
    let (kept, kept_path) = (asked.hidden("kept"), asked.hidden("kept_path"));
    let guess = [("token", "guess"), ("kept", kept.as_str()), ("kept_path", &kept_path)];
    let wrong = desk.post("/cockpit/login", &guess).await;
    assert!(wrong.status == 401 && wrong.html().contains("role=\"alert\""), "{}", wrong.text());
    let back = log_in(&mut desk, &wrong, Role::Admin).await;
    assert!(
        back.status == 200 && back.text().contains("Nothing was enqueued: the session had ended"),
        "{}",
        back.text()
    );
    assert!(back.html().contains("value=\"k2\"") && back.html().contains("value=\"a typo\""), "{}", back.html());
    assert!(back.text().contains("\"to\": \"b & <c> \\u{202e}ü\""), "{}", back.text());
    assert!(back.html().contains(&format!("action=\"../cockpit/items/{id}/anew\"")), "{}", back.html());
    is_unchanged(&desk, id).await;
    let token = back.hidden("form_token");
    let fields = [("payload", "{\"to\":\"b\"}"), ("key", "k2"), ("reason", "a typo"), ("form_token", token.as_str())];
    assert_eq!(desk.post(&path, &fields).await.status, 303);
}

#[tokio::test]
async fn who_logs_in_without_the_right_gets_no_form_back() {
    let (mut desk, id) = desk().await;
    let asked = desk.post(&format!("/cockpit/items/{id}/anew"), &[("payload", "{}"), ("reason", "x")]).await;
    let back = log_in(&mut desk, &asked, Role::Operate).await;
    assert!(back.status == 403 && back.text().contains("needs the right `enqueue`"), "{}", back.text());
    assert!(!back.html().contains("<textarea") && desk.get("/cockpit").await.status == 200);
}

#[tokio::test]
async fn an_action_and_a_control_come_back_to_their_pages_with_the_reason() {
    let (mut desk, id) = desk().await;
    let asked = format!("ids={id}");
    let fields = [("asked", asked.as_str()), ("ids", "7"), ("reason", "it is back"), ("new_effects", "yes")];
    let refused = desk.post("/cockpit/act/replay", &fields).await;
    let back = log_in(&mut desk, &refused, Role::Operate).await;
    let address = format!("act/replay?ids={id}&new_effects=yes&reason=it+is+back");
    assert_eq!((back.status, back.header("location")), (303, address.as_str()), "{back:?}");
    let page = desk.get(&format!("/cockpit/{address}")).await;
    assert!(
        page.html().contains("value=\"it is back\"") && page.text().contains("Duplicates follow"),
        "{}",
        page.text()
    );
    desk.cookie = None;
    let refused = desk.post("/cockpit/control/pause", &[("type", "mail"), ("reason", "calm")]).await;
    let back = log_in(&mut desk, &refused, Role::Operate).await;
    assert_eq!(back.header("location"), "control/pause?type=mail&reason=calm");
    let page = desk.get("/cockpit/control/pause?type=mail&reason=calm").await;
    assert!(page.html().contains("value=\"calm\"") && page.text().contains("Pause mail?"), "{}", page.text());
    desk.cookie = None;
    let refused = desk.post(&format!("/cockpit/items/{id}/try"), &[("otherwise", "200")]).await;
    assert_eq!(log_in(&mut desk, &refused, Role::Operate).await.header("location"), format!("items/{id}"));
    is_unchanged(&desk, id).await;
}

#[tokio::test]
async fn a_form_of_another_site_and_one_that_is_too_large_are_not_kept() {
    let (desk, id) = desk().await;
    let path = format!("/cockpit/items/{id}/anew");
    let body = "payload=%7B%7D&reason=x";
    let foreign = desk.send("POST", &path, &[FORM, ("sec-fetch-site", "cross-site")], body).await;
    let large = desk.send("POST", &path, &[FORM], &format!("payload={}", "x".repeat(300_000))).await;
    for refused in [foreign, large] {
        assert!(refused.status == 401 && !refused.html().contains("name=\"kept\""), "{}", refused.html());
        assert!(refused.text().contains("the form was not carried out. The Back button"), "{}", refused.text());
    }
    let most = desk.send("POST", &path, &[FORM], &format!("payload={}", "x".repeat(250_000))).await;
    assert!(most.html().contains("name=\"kept\""), "the longest payload that a page offers has room");
    let other = desk.post("/cockpit/login", &[("token", "read-token"), ("kept", "%%%"), ("kept_path", "//evil")]).await;
    assert_eq!((other.status, other.header("location")), (303, "../cockpit"));
}

/// The page of a form, where the form goes, and what is typed into it.
type SentForm<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>);

/// The forms of a host that asks nobody for a name, whose pages were opened more than twelve hours ago.
#[tokio::test]
async fn a_form_of_a_page_that_was_open_for_too_long_comes_back_and_changes_nothing() {
    let access = || AccessSettings { session_key: Some(SessionKey::new("k".repeat(32))), ..AccessSettings::default() };
    let settings = || HttpSettings { access: access(), ..HttpSettings::default() };
    let mut desk = Desk::with(Backend::Sqlite, settings(), HostStatus::default()).await;
    let id = desk.fixture.enqueue(item("a")).await;
    desk.fixture.store.settle(&desk.fixture.claim_one("mail").await.reference(), dead()).await.unwrap();
    let ids = id.to_string();
    let (anew, attempt) = (format!("/cockpit/items/{id}/anew"), format!("/cockpit/items/{id}/try"));
    let forms: [SentForm<'_>; 4] = [
        (&anew, &anew, vec![("payload", "{\"to\":\"b\"}"), ("key", "k2"), ("reason", "a typo")]),
        (&format!("/cockpit/act/purge?ids={id}"), "/cockpit/act/purge", vec![("ids", &ids), ("reason", "a typo")]),
        ("/cockpit/control/pause?type=mail", "/cockpit/control/pause", vec![("type", "mail"), ("reason", "a typo")]),
        (&format!("/cockpit/items/{id}"), &attempt, vec![("otherwise", "200")]),
    ];
    let mut opened = Vec::new();
    for (page, _, _) in &forms {
        opened.push(desk.get(page).await.hidden_fields());
    }
    desk.fixture.clock.advance(Duration::from_hours(13));
    desk.restart(settings());
    for ((page, path, typed), hidden) in forms.iter().zip(opened) {
        let hidden = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let sent: Vec<_> = hidden.filter(|(name, _)| typed.iter().all(|(other, _)| other != name)).collect();
        let late = desk.post(path, &[&sent[..], typed].concat()).await;
        let text = late.text();
        assert!(late.status == 403 && text.contains("was open for more than 12 hours"), "{page}: {text}");
        if *path == attempt {
            assert!(text.contains("Open the page again, and send the form from there"), "{text}");
            continue;
        }
        let is_kept = |(name, value): &(&str, &str)| match *name {
            "payload" => text.contains(value),
            "ids" => late.hidden("ids") == *value,
            _ => late.html().contains(&format!("value=\"{value}\"")),
        };
        assert!(typed.iter().all(is_kept), "{page}: {}", late.html());
    }
    is_unchanged(&desk, id).await;
    let again = desk.get("/cockpit/control/pause?type=mail").await.hidden("form_token");
    let sent = desk.post("/cockpit/control/pause", &[("type", "mail"), ("reason", "x"), ("form_token", &again)]).await;
    assert_eq!(sent.status, 303, "{}", sent.text());
}
