//! The overview: whether anything needs a person, with the cause and the next click.

use std::time::Duration;

use outbox::core::{BreakerState, BreakerStatus, PluginLimits, PluginRuns, PluginState, PluginStatus};
use outbox::http::Role;
use outbox::item::NewItem;
use outbox::store::{Control, ControlRequest, Execution, Pod};

use super::Desk;
use crate::support::{Backend, dead, done, item, on_each_backend, ordered, pod, request};

/// Reports a process with this plugin.
async fn heartbeat(desk: &Desk, plugin: PluginStatus) {
    desk.fixture.store.heartbeat(&Pod { plugins: vec![plugin], ..pod("pod-1") }).await.unwrap();
}

fn mail(state: PluginState, error: Option<&str>) -> PluginStatus {
    PluginStatus {
        name: "mailer".into(),
        types: vec!["mail".into()],
        state,
        error: error.map(str::to_owned),
        digest: Some("9f2c41d0aa".into()),
        ..PluginStatus::default()
    }
}

mod on_each {
    use super::*;

    pub(super) async fn a_calm_outbox_says_so_in_its_first_sentence(backend: Backend) {
        let desk = Desk::open(backend).await;
        heartbeat(&desk, mail(PluginState::Active, None)).await;
        desk.fixture.enqueue(item("a")).await;
        let claim = desk.fixture.claim_one("mail").await;
        desk.fixture.store.settle(&claim.reference(), done()).await.unwrap();
        let page = desk.get("/cockpit").await;
        assert_eq!(page.status, 200, "{}", page.text());
        let text = page.text();
        assert!(text.contains("Nothing needs you") && text.contains("Nothing is stuck"), "{text}");
        assert!(text.contains("mail serving") && text.contains("mailer active 9f2c41d0"), "{text}");
        assert!(text.contains("Retries ahead 0 due in the next hour"), "{text}");
        assert!(page.html().contains("<svg class=\"chart\"") && page.html().contains("<desc>"), "{}", page.html());
    }

    pub(super) async fn what_a_breaker_holds_back_is_not_called_due(backend: Backend) {
        for (state, is_due) in [(BreakerState::Open, false), (BreakerState::Unknown, true)] {
            let desk = Desk::open(backend).await;
            desk.fixture.enqueue(item("a")).await;
            desk.fixture.clock.advance(Duration::from_secs(90));
            let breaker = BreakerStatus { state, types: vec!["mail".into()], ..BreakerStatus::default() };
            let plugins = vec![mail(PluginState::Active, None)];
            let pod = Pod { plugins, breakers: vec![breaker], ..pod("pod-1") };
            desk.fixture.store.heartbeat(&pod).await.unwrap();
            let text = desk.get("/cockpit").await.text();
            assert_eq!(text.contains("The oldest that is due waits 1 min"), is_due, "{state:?}: {text}");
        }
    }

    pub(super) async fn a_plugin_is_shown_with_what_it_may_do_and_what_its_attempts_came_to(backend: Backend) {
        let desk = Desk::open(backend).await;
        let limits = PluginLimits {
            concurrency: Some(5),
            cpu_ms: 2_000,
            memory: 64 << 20,
            rate: Some(5.0 / 3_600.0),
            concurrency_per_key: Some(2),
            rate_per_key: None,
        };
        let runs = PluginRuns { attempts: 4_000, cpu_ms: 1_000, faults: 2 };
        let grants = vec!["POST https://mail.example".to_owned(), "state".to_owned()];
        heartbeat(&desk, PluginStatus { grants, limits: Some(limits), runs, ..mail(PluginState::Active, None) }).await;
        let text = desk.get("/cockpit/plugins").await.text();
        for told in [
            "may: POST https://mail.example; state",
            "limits: 2.0 s of CPU and 64.0 MiB of memory for an attempt, 5 at a time, 5 an hour, 2 at a time for each key",
            "attempts: 4,000, 0.2 ms of CPU each, 2 faults of the component",
        ] {
            assert!(text.contains(told), "{told}: {text}");
        }
    }

    pub(super) async fn what_several_processes_say_alike_of_a_plugin_is_told_once(backend: Backend) {
        let desk = Desk::open(backend).await;
        let broken = || mail(PluginState::Active, Some("imports wasi:http without a grant"));
        let other = mail(PluginState::Active, Some("is no component"));
        for (name, plugin) in [("pod-1", broken()), ("pod-2", broken()), ("pod-3", other), ("pod-4", broken())] {
            desk.fixture.store.heartbeat(&Pod { plugins: vec![plugin], ..pod(name) }).await.unwrap();
        }
        let text = desk.get("/cockpit").await.text();
        let told = ["does not run in 3 processes Imports wasi:http", "does not run Is no component"];
        let told = told.map(|words| text.to_lowercase().matches(&words.to_lowercase()).count());
        assert!(told == [1, 1] && text.contains("Two things need you"), "{text}");
        let text = desk.get("/cockpit/plugins").await.text();
        assert!(text.contains("One plugin in 4 processes, one not as its file says"), "{text}");
        for told in ["in 3 processes: pod-1, pod-2, pod-4 imports wasi:http", "in pod-3 is no component"] {
            assert_eq!(text.matches(told).count(), 1, "{told}: {text}");
        }
    }

    pub(super) async fn a_rollback_of_which_each_process_reports_two_versions_is_told_once(backend: Backend) {
        let desk = Desk::open(backend).await;
        let why = "its component is quarantined: 3 of the first 9 items failed for good";
        let live = || PluginStatus { digest: Some("1111".into()), ..mail(PluginState::Active, Some(why)) };
        for name in ["pod-1", "pod-2"] {
            let plugins = vec![live(), mail(PluginState::Quarantined, Some(why))];
            desk.fixture.store.heartbeat(&Pod { plugins, ..pod(name) }).await.unwrap();
        }
        let text = desk.get("/cockpit").await.text();
        assert!(text.contains("A version of the plugin mailer is quarantined in 2 processes"), "{text}");
        assert!(text.contains("One thing needs you") && !text.contains("The newest file"), "{text}");
        let text = desk.get("/cockpit/plugins").await.text();
        assert_eq!(text.matches(&format!("in 2 processes: pod-1, pod-2 {why}")).count(), 1, "{text}");
    }

    pub(super) async fn the_rate_that_is_shown_of_two_versions_is_the_one_that_is_judged(backend: Backend) {
        let desk = Desk::open(backend).await;
        let mut terms = request(&["mail"], 10);
        terms.types[0].per_key.rate = Some(5.0 / 3_600.0);
        for name in ["a", "b"] {
            desk.fixture.enqueue(NewItem { fairness_key: Some("acme".into()), ..item(name) }).await;
        }
        assert_eq!(desk.fixture.store.claim(&terms).await.unwrap().claims.len(), 1);
        // By now the other rate would have given the key a token.
        desk.fixture.clock.advance(Duration::from_mins(2));
        for (name, rate_per_key) in [("pod-1", terms.types[0].per_key.rate), ("pod-2", Some(100.0))] {
            let limits = Some(PluginLimits { rate_per_key, ..PluginLimits::default() });
            let plugins = vec![PluginStatus { limits, ..mail(PluginState::Active, None) }];
            desk.fixture.store.heartbeat(&Pod { plugins, ..pod(name) }).await.unwrap();
        }
        let html = desk.get("/cockpit").await.html().to_owned();
        assert!(html.contains("title=\"5 an hour for each key\">limited<"), "{html}");
    }

    pub(super) async fn a_type_of_which_no_more_may_be_claimed_is_limited(backend: Backend) {
        let desk = Desk::open(backend).await;
        for key in ["a", "b"] {
            desk.fixture.enqueue(item(key)).await;
        }
        let limits = Some(PluginLimits { concurrency: Some(1), ..PluginLimits::default() });
        heartbeat(&desk, PluginStatus { limits, ..mail(PluginState::Active, None) }).await;
        let claimed = desk.fixture.claim_one("mail").await.item.id;
        let text = desk.get("/cockpit").await.text();
        assert!(text.contains("mail limited"), "{text}");
        let waiting = if claimed.get() == 1 { 2 } else { 1 };
        let text = desk.get(&format!("/cockpit/items/{waiting}")).await.text();
        assert!(text.contains("waits for the limit of its type: 1 at a time"), "{text}");
    }

    pub(super) async fn a_type_or_a_key_that_has_used_up_its_rate_is_limited_from_the_first_moment(backend: Backend) {
        let rate = Some(5.0 / 3_600.0);
        let of_type = PluginLimits { rate, ..PluginLimits::default() };
        let of_keys = PluginLimits { rate_per_key: rate, ..PluginLimits::default() };
        for (limits, limit, waits_for) in [
            (of_type, "5 an hour", "the limit of its type: 5 an hour"),
            (of_keys, "5 an hour for each key", "the limit of its fairness key: 5 an hour"),
        ] {
            let desk = Desk::open(backend).await;
            let mut terms = request(&["mail"], 10);
            (terms.types[0].rate, terms.types[0].per_key.rate) = (limits.rate, limits.rate_per_key);
            heartbeat(&desk, PluginStatus { limits: Some(limits), ..mail(PluginState::Active, None) }).await;
            for name in ["a", "b"] {
                desk.fixture.enqueue(NewItem { fairness_key: Some("acme".into()), ..item(name) }).await;
            }
            assert_eq!(desk.fixture.store.claim(&terms).await.unwrap().claims.len(), 1);
            let html = desk.get("/cockpit").await.html().to_owned();
            assert!(html.contains(&format!("title=\"{limit}\">limited<")), "{limit}: {html}");
            let text = desk.get("/cockpit/items?status=PENDING").await.text();
            assert!(text.contains(waits_for), "{waits_for}: {text}");
        }
    }

    pub(super) async fn a_component_in_quarantine_is_shown_with_its_reason_and_released(backend: Backend) {
        let desk = Desk::open(backend).await;
        desk.fixture.store.quarantine("9f2c41d0aa", "mailer", "rolled back by ada").await.unwrap();
        let view = desk.get("/cockpit/plugins").await;
        assert!(view.text().contains("In quarantine") && view.text().contains("mailer 9f2c41d0 rolled back by ada"));
        let unknown = desk.get("/cockpit/control/release?digest=zzz").await;
        assert!(unknown.status == 400 && unknown.text().contains("no component zzz is quarantined"), "{unknown:?}");
        let path = "/cockpit/control/release?plugin=mailer&digest=9f2c41d0aa";
        assert!(view.html().contains(&path[1..].replace('&', "&#38;")), "{}", view.html());
        let asked = desk.get(path).await;
        assert!(asked.text().contains("It is a version of mailer: rolled back by ada."), "{}", asked.text());
        let mut fields = asked.hidden_fields();
        fields.push(("reason".to_owned(), "it was the receiver".to_owned()));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let released = desk.post("/cockpit/control/release", &fields).await;
        assert_eq!((released.status, released.header("location")), (303, "../plugins"), "{released:?}");
        assert!(!desk.get("/cockpit/plugins").await.text().contains("In quarantine"));
    }

    pub(super) async fn a_saga_is_shown_from_its_begin_over_its_steps_to_its_end(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        let empty = desk.get("/cockpit/sagas").await;
        assert!(empty.status == 200 && empty.text().contains("No saga has begun yet"), "{}", empty.text());
        assert!(empty.text().contains("not begun yet: WriteMemorySaga"), "{}", empty.text());
        let desk = Desk::serving(backend, &["mail"]).await;
        for (key, cid) in [("a", "run-1"), ("b", "run-2"), ("c", "run-3")] {
            let step = NewItem { saga: Some("Orders".into()), cid: Some(cid.into()), ..item(key) };
            desk.fixture.enqueue(step).await;
        }
        for end in [done(), dead()] {
            desk.fixture.store.settle(&desk.fixture.claim_one("mail").await.reference(), end).await.unwrap();
        }
        desk.fixture.claim_one("mail").await;
        for path in ["/cockpit", "/cockpit/sagas"] {
            let page = desk.get(path).await;
            let saga = "Orders 3 runs, 1 open begin 3 → mail 1 0 retried, 1 dead → end 1 1 with a dead step";
            assert!(page.text().contains(saga), "{path}: {}", page.text());
            assert!(page.html().contains("cockpit/items?saga=Orders&#38;type=mail\""), "{path}: {}", page.html());
        }
        assert!(desk.get("/cockpit/sagas").await.text().contains("1 run of sagas is open"));
    }

    pub(super) async fn what_needs_a_person_has_its_cause_and_the_next_click(backend: Backend) {
        let desk = Desk::open(backend).await;
        heartbeat(&desk, mail(PluginState::Failed, Some("it imports wasi:http without a grant"))).await;
        let first = desk.fixture.enqueue(ordered("a")).await;
        desk.fixture.enqueue(ordered("b")).await;
        desk.fixture.enqueue(NewItem::new("fax", "c", "{}")).await;
        let claim = desk.fixture.claim_one("mail").await;
        desk.fixture.store.settle(&claim.reference(), dead()).await.unwrap();
        let control = Control::Pause { item_type: "fax".into() };
        let reason = Some("maintenance of <b>the fax</b>".to_owned());
        let request = ControlRequest { control, actor: "ada".into(), reason, execution: Execution::Apply };
        desk.fixture.store.control(&request).await.unwrap();
        let page = desk.get("/cockpit").await;
        let text = page.text();
        assert!(text.contains("things need you"), "{text}");
        for (what, path, click) in [
            ("The key k is blocked", format!("href=\"./cockpit/items/{first}\""), "Decide about item"),
            ("1 dead letter waits for a decision", "href=\"./cockpit/failures\"".to_owned(), "See the groups"),
            ("fax is paused", "href=\"./cockpit/operations\"".to_owned(), "See the pauses"),
            (
                "The newest file of the plugin mailer does not run",
                "href=\"./cockpit/plugins\"".to_owned(),
                "See the cure",
            ),
        ] {
            assert!(text.contains(what) && page.html().contains(&path) && text.contains(click), "{what}: {text}");
        }
        assert!(text.contains("maintenance of <b>the fax</b>") && !page.html().contains("<b>the fax"), "{text}");
        assert!(text.contains("imports wasi:http without a grant"), "{text}");
    }
}

on_each_backend! {
    what_a_breaker_holds_back_is_not_called_due
    a_plugin_is_shown_with_what_it_may_do_and_what_its_attempts_came_to
    what_several_processes_say_alike_of_a_plugin_is_told_once
    a_rollback_of_which_each_process_reports_two_versions_is_told_once
    the_rate_that_is_shown_of_two_versions_is_the_one_that_is_judged
    a_type_of_which_no_more_may_be_claimed_is_limited
    a_type_or_a_key_that_has_used_up_its_rate_is_limited_from_the_first_moment
    a_component_in_quarantine_is_shown_with_its_reason_and_released
    a_saga_is_shown_from_its_begin_over_its_steps_to_its_end
    a_calm_outbox_says_so_in_its_first_sentence
    what_needs_a_person_has_its_cause_and_the_next_click
}

#[tokio::test]
async fn a_cause_that_quotes_an_item_is_hidden_from_who_may_not_read_payloads() {
    let mut desk = Desk::closed(Backend::Sqlite).await;
    desk.fixture.enqueue(ordered("a")).await;
    desk.fixture.enqueue(ordered("b")).await;
    let claim = desk.fixture.claim_one("mail").await;
    desk.fixture.store.settle(&claim.reference(), dead()).await.unwrap();
    let message = crate::support::failure().message;
    desk.log_in(Role::Admin).await;
    assert!(desk.get("/cockpit").await.text().contains(&message));
    desk.log_in(Role::Read).await;
    let text = desk.get("/cockpit").await.text();
    assert!(!text.contains(&message) && text.contains("needs the right read-payload"), "{text}");
}
