//! Try one first: who may try items, what the page says of a trial, and where there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use outbox::core::FailureClass;
use outbox::http::{
    AccessSettings, HostStatus, HttpSettings, Right, Role, TrialEnd, TrialOrder, TrialReport, TrialRequest, Trials,
};
use outbox::item::{ItemId, NewItem};

use super::{Desk, Page, token};
use crate::support::{Backend, dead, item};

const DIGEST: &str = "9f2c41d0aa";

fn report(ending: TrialEnd) -> TrialReport {
    let request = |url: &str, answer: &str, is_recorded| TrialRequest {
        method: "POST".into(),
        url: url.into(),
        answer: answer.into(),
        is_recorded,
    };
    TrialReport {
        plugin: "mailer".into(),
        digest: DIGEST.into(),
        ending,
        requests: vec![request("http://mail/<b>send", "503", true), request("http://mail/4111-1111", "204", false)],
        differences: vec!["POST http://mail/4111-1111 was not recorded: \u{202e}its body differs".into()],
        state: vec![json!({ "key": "sent", "put": { "card": "66666" } })],
        followups: vec![json!({ "type": "note", "idem_key": "n", "payload": { "card": "88888", "of": "4111-1111" } })],
        stderr: Some("card 4111-1111".into()),
    }
}

/// Trials that all end so, and answer requests that were not recorded with a status only when they are told one.
fn trials(ending: TrialEnd) -> Trials {
    Arc::new(move |order: TrialOrder| {
        let ending = if order.otherwise.is_none() { ending.clone() } else { TrialEnd::Done { result: None } };
        Box::pin(async move { Ok(report(ending)) })
    })
}

async fn desk(settings: HttpSettings, trials: Option<Trials>) -> Desk {
    Desk::with_trials(Backend::Sqlite, settings, HostStatus::default(), trials).await
}

async fn dead_item(desk: &Desk) -> ItemId {
    let new = NewItem { payload: r#"{"card":"4111-1111"}"#.into(), ..item("a") };
    let id = desk.fixture.enqueue(new).await;
    desk.fixture.store.settle(&desk.fixture.claim_one("mail").await.reference(), dead()).await.unwrap();
    id
}

/// Sends the form that tries the item, with these fields besides its token.
async fn tried(desk: &Desk, id: ItemId, fields: &[(&str, &str)]) -> Page {
    let token = desk.get(&format!("/cockpit/items/{id}")).await.hidden("form_token");
    let fields: Vec<_> = fields.iter().copied().chain([("form_token", token.as_str())]).collect();
    desk.post(&format!("/cockpit/items/{id}/try"), &fields).await
}

#[tokio::test]
async fn a_trial_says_what_came_of_it_and_that_nothing_was_sent_or_stored() {
    let failed = TrialEnd::Failed { class: FailureClass::Permanent, code: "bad.card".into(), message: "no".into() };
    for (ending, outcome, now) in [
        (TrialEnd::Done { result: Some(br#"{"ok":1}"#.into()) }, "would be done", "now done"),
        (failed, "would fail again", "now failed, bad.card (permanent): no"),
        (TrialEnd::Stopped, "stopped at a request that was not recorded", "now stopped"),
    ] {
        let desk = desk(HttpSettings::default(), Some(trials(ending))).await;
        let id = dead_item(&desk).await;
        let before = desk.fixture.item(id).await;
        let page = tried(&desk, id, &[]).await;
        let text = page.text();
        assert_eq!(page.status, 200, "{text}");
        assert!(text.contains(outcome) && text.contains(now), "{text}");
        assert!(text.contains("Nothing was sent, and nothing was stored"), "{text}");
        assert!(text.contains("then failed, upstream.503 (retryable): the receiver is down"), "{text}");
        assert!(text.contains("9f2c41d0 of the plugin mailer, which this process runs now"), "{text}");
        assert!(text.contains("POST http://mail/<b>send 503 the recording"), "{text}");
        assert!(text.contains("POST http://mail/4111-1111 204 not recorded"), "{text}");
        assert!(text.contains(r"\u{202e}its body differs"), "{text}");
        assert_eq!(desk.fixture.item(id).await, before);
    }
    let desk = desk(HttpSettings::default(), Some(trials(TrialEnd::Stopped))).await;
    let id = dead_item(&desk).await;
    let answered = tried(&desk, id, &[("otherwise", "204")]).await;
    assert!(
        answered.text().contains("would be done") && answered.html().contains("value=\"204\""),
        "{}",
        answered.text()
    );
    let wrong = tried(&desk, id, &[("otherwise", "99")]).await;
    assert!(wrong.status == 400 && wrong.text().contains("from 100 to 599"), "{}", wrong.text());
}

#[tokio::test]
async fn a_trial_hides_what_the_operator_hides_from_everybody() {
    let settings = HttpSettings { redaction: "card".parse().unwrap(), ..HttpSettings::default() };
    let result = Some(br#"{"card":"77777","of":"4111-1111"}"#.to_vec());
    let desk = desk(settings, Some(trials(TrialEnd::Done { result }))).await;
    let id = dead_item(&desk).await;
    let page = tried(&desk, id, &[]).await;
    assert!(page.status == 200 && page.text().contains("[redacted]"), "{}", page.text());
    for hidden in ["4111-1111", "66666", "77777", "88888"] {
        assert!(!page.html().contains(hidden), "{hidden}: {}", page.html());
    }
}

#[tokio::test]
async fn items_are_tried_by_who_may_operate_and_read_payloads_and_not_by_other_sites() {
    let ending = || TrialEnd::Done { result: None };
    let closed = |role: Role, more: &[Right]| {
        let tokens = vec![token(role, more.iter().copied().collect())];
        let access = AccessSettings { tokens, ..AccessSettings::default() };
        HttpSettings { access, ..HttpSettings::default() }
    };
    for (role, more, expected) in [
        (Role::Operate, &[Right::ReadPayload][..], 200),
        (Role::Operate, &[], 403),
        (Role::Read, &[Right::ReadPayload], 403),
        (Role::Admin, &[], 200),
    ] {
        let mut desk = desk(closed(role, more), Some(trials(ending()))).await;
        let id = dead_item(&desk).await;
        desk.log_in(role).await;
        let is_offered = desk.get(&format!("/cockpit/items/{id}")).await.text().contains("Try it with today's handler");
        assert_eq!(is_offered, expected == 200, "{role} {more:?}");
        let forged = desk.post(&format!("/cockpit/items/{id}/try"), &[]).await;
        assert_eq!(forged.status, 403, "without the token of a form");
        if expected == 200 {
            assert_eq!(tried(&desk, id, &[]).await.status, 200, "{role}");
        }
    }
}

#[tokio::test]
async fn a_process_without_the_handler_says_so_and_an_item_that_failed_in_none_is_refused() {
    let desk_without = desk(HttpSettings::default(), None).await;
    let id = dead_item(&desk_without).await;
    let page = tried(&desk_without, id, &[]).await;
    assert!(page.status == 409 && page.text().contains("this process runs no handlers"), "{}", page.text());
    let refusing: Option<Trials> =
        Some(Arc::new(|_| Box::pin(async { Err("this process has no handler for mail: use another".to_owned()) })));
    let desk_refusing = desk(HttpSettings::default(), refusing).await;
    let id = dead_item(&desk_refusing).await;
    let page = tried(&desk_refusing, id, &[]).await;
    assert!(page.status == 409 && page.text().contains("has no handler for mail"), "{}", page.text());
    let waiting = desk_refusing.fixture.enqueue(item("b")).await;
    let token = desk_refusing.get(&format!("/cockpit/items/{id}")).await.hidden("form_token");
    let page = desk_refusing.post(&format!("/cockpit/items/{waiting}/try"), &[("form_token", &token)]).await;
    assert!(page.status == 409 && page.text().contains("no answers were recorded"), "{}", page.text());
}

#[tokio::test(start_paused = true)]
async fn a_trial_without_an_end_is_given_up_and_keeps_nobody_from_the_next() {
    let endless: Trials = Arc::new(|order: TrialOrder| {
        Box::pin(async move {
            if order.otherwise.is_none() {
                std::future::pending::<()>().await;
            }
            Ok(report(TrialEnd::Stopped))
        })
    });
    let desk = desk(HttpSettings::default(), Some(endless)).await;
    let id = dead_item(&desk).await;
    let given_up = tried(&desk, id, &[]).await;
    assert!(given_up.status == 409 && given_up.text().contains("did not end within 30 seconds"), "{}", given_up.text());
    assert_eq!(tried(&desk, id, &[("otherwise", "200")]).await.status, 200);
}

#[tokio::test]
async fn one_trial_runs_at_a_time() {
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (now, seen) = (Arc::clone(&running), Arc::clone(&most));
    let counting: Trials = Arc::new(move |_| {
        let (now, seen) = (Arc::clone(&now), Arc::clone(&seen));
        Box::pin(async move {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(report(TrialEnd::Stopped))
        })
    });
    let desk = desk(HttpSettings::default(), Some(counting)).await;
    let id = dead_item(&desk).await;
    let all = futures_util::future::join_all((0..4).map(|_| tried(&desk, id, &[]))).await;
    assert!(all.iter().all(|page| page.status == 200));
    assert_eq!(most.load(Ordering::SeqCst), 1);
}
