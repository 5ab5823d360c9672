//! The list of items and one item: why each is where it is, exactly what it contains, and what is hidden from whom.

use std::time::Duration;

use outbox::core::PluginStatus;
use outbox::http::Role;
use outbox::item::NewItem;
use outbox::store::{Control, ControlRequest, Execution, Pod};

use super::Desk;
use crate::support::{Backend, dead, done, item, on_each_backend, ordered, pod, retry};

async fn control(desk: &Desk, control: Control, reason: &str) {
    let request =
        ControlRequest { control, actor: "ada".into(), reason: Some(reason.into()), execution: Execution::Apply };
    desk.fixture.store.control(&request).await.unwrap();
}

mod on_each {
    use super::*;

    pub(super) async fn each_item_of_a_list_says_why_it_is_where_it_is(backend: Backend) {
        let desk = Desk::serving(backend, &["mail", "fax"]).await;
        let f = &desk.fixture;
        f.enqueue(item("finished")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), done()).await.unwrap();
        f.enqueue(item("gone")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
        f.enqueue(item("again")).await;
        f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::from_secs(90))).await.unwrap();
        f.enqueue(item("running")).await;
        f.claim_one("mail").await;
        f.enqueue(NewItem { delay: Duration::from_hours(2), ..item("later") }).await;
        f.enqueue(NewItem::new("fax", "held", "{}")).await;
        f.enqueue(NewItem::new("resize", "lonely", "{}")).await;
        control(&desk, Control::Pause { item_type: "fax".into() }, "partner maintenance").await;
        let page = desk.get("/cockpit/items").await;
        let text = page.text();
        assert!(text.contains("7 items match"), "{text}");
        for row in [
            "DONE finished done",
            "DLQ gone the receiver is down",
            "PENDING again attempt 2 in 1 min",
            "CLAIMED running claimed by pod-1 for",
            "PENDING later delayed: due in 2 h",
            "PENDING held the type is paused by ada: partner maintenance",
            "PENDING lonely no running process has a handler for resize",
        ] {
            assert!(text.contains(row), "{row}: {text}");
        }
    }

    pub(super) async fn an_item_without_a_handler_names_the_silent_process_that_had_one(backend: Backend) {
        let desk = Desk::open(backend).await;
        let mailer = PluginStatus { types: vec!["mail".into()], ..PluginStatus::default() };
        let gone = Pod { role: Some("jobs".into()), plugins: vec![mailer], ..pod("pod-7") };
        desk.fixture.store.heartbeat(&gone).await.unwrap();
        desk.fixture.enqueue(item("a")).await;
        desk.fixture.clock.advance(Duration::from_secs(70));
        let text = desk.get("/cockpit/items").await.text();
        let why =
            "no running process has a handler for mail: pod-7 of the role jobs had one, and has been silent for 1 min";
        assert!(text.contains(why), "{text}");
    }

    pub(super) async fn filters_are_in_the_address_and_pages_go_by_the_last_id(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        for number in 0..5 {
            let payload = format!(r#"{{"order":{number}}}"#);
            desk.fixture.enqueue(NewItem::new("mail", &format!("order-{number}"), payload)).await;
        }
        desk.fixture.enqueue(NewItem::new("fax", "other", "{}")).await;
        let first = desk.get("/cockpit/items?type=mail&saga=&status=PENDING&limit=2").await;
        let keys = |text: &str| (0..5).filter(|number| text.contains(&format!("order-{number} "))).collect::<Vec<_>>();
        assert_eq!(keys(&first.text()), [3, 4], "{}", first.text());
        assert!(first.text().contains("5 items match") && first.html().contains("value=\"PENDING\" checked"));
        let next = first.html().split("rel=\"next\" href=\"items?").nth(1).unwrap().split('"').next().unwrap();
        let second = desk.get(&format!("/cockpit/items?{}", next.replace("&#38;", "&"))).await;
        assert_eq!(keys(&second.text()), [1, 2], "{}", second.text());
        let one = desk.get("/cockpit/items?payload=order=3").await;
        assert!(one.text().contains("One item matches") && one.text().contains("does not refresh"), "{}", one.text());
        let text = desk.get("/cockpit/items?text=ORDER%22:3").await;
        assert!(
            text.text().contains("One item matches") && text.text().contains("--text 'ORDER\":3'"),
            "{}",
            text.text()
        );
        assert!(one.text().contains("outbox list --payload order=3"), "{}", one.text());
        let none = desk.get("/cockpit/items?key_prefix=nobody").await;
        assert!(none.text().contains("No item matches"), "{}", none.text());
        let wrong = desk.get("/cockpit/items?colour=red").await;
        assert_eq!(wrong.status, 400);
        assert!(wrong.text().contains("unknown field `colour`"), "{}", wrong.text());
    }

    pub(super) async fn one_item_says_first_why_it_waits_and_shows_what_happened(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        let f = &desk.fixture;
        let big = r#"{"big":12345678901234567890.10,"text":"<script>alert(1)</script>"}"#;
        let first = f.enqueue(NewItem { payload: big.into(), cid: Some("c-1".into()), ..ordered("a") }).await;
        let second = f.enqueue(NewItem { cid: Some("c-1".into()), ..ordered("b") }).await;
        f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
        let page = desk.get(&format!("/cockpit/items/{first}")).await;
        let text = page.text();
        assert!(
            text.contains(&format!(
                "Item {first} DLQ It failed for good after 1 attempt, and waits for a decision: the receiver is down"
            )),
            "{text}"
        );
        assert!(text.contains("\"big\": 12345678901234567890.10"), "{text}");
        assert!(!page.html().contains("<script>alert"), "{text}");
        for event in ["Enqueued", "Attempt 1: upstream.503 (retryable) on pod-1", "Dead-lettered"] {
            assert!(text.contains(event), "{event}: {text}");
        }
        assert!(text.contains(&format!("outbox show {first}")) && text.contains("curl \"$OUTBOX_URL/items/"));
        assert!(page.html().contains(&format!("href=\"../../cockpit/items/{second}\"")), "{}", page.html());
        let listed = format!("due; behind item {first}, which is dead and blocks the key k");
        assert!(desk.get("/cockpit/items").await.text().contains(&listed), "{listed}");
        let waiting = desk.get(&format!("/cockpit/items/{second}")).await.text();
        assert!(waiting.contains(&format!("Item {first} of its key k is dead and blocks it")), "{waiting}");
        assert!(text.contains("It blocks the key k: one item waits behind it. Unblock the key…"), "{text}");
        assert!(text.contains("No other item failed alike: see the group"), "{text}");
        assert!(page.html().contains("cockpit/control/unblock?ordering_key=k"), "{}", page.html());
        assert_eq!(desk.get("/cockpit/items/a").await.status, 200, "a key is a name too");
        let missing = desk.get("/cockpit/items/999999").await;
        assert_eq!(missing.status, 404);
        assert!(missing.text().contains("there is no item 999999"), "{}", missing.text());
    }

    pub(super) async fn nothing_in_an_item_is_hidden_from_its_reader(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        let odd = "a\u{1b}[31m\u{202e}reversed\u{2066}\u{200f}";
        let payload = NewItem { payload: odd.into(), content_type: "text/plain".into(), ..item("a") };
        let id = desk.fixture.enqueue(payload).await;
        control(&desk, Control::Pause { item_type: "mail".into() }, odd).await;
        for path in ["/cockpit", "/cockpit/items", &format!("/cockpit/items/{id}"), "/cockpit/operations"] {
            let page = desk.get(path).await;
            assert!(page.text().contains(r"a\u{1b}[31m\u{202e}reversed\u{2066}\u{200f}"), "{path}: {}", page.text());
            assert!(!page.html().contains(['\u{1b}', '\u{202e}', '\u{2066}', '\u{200f}']), "{path}");
        }
        let spaced = "  {\"a\": 1,\n\"b\":2}  ";
        let exact = NewItem { payload: spaced.into(), content_type: "text/plain".into(), ..item("b") };
        let id = desk.fixture.enqueue(exact).await;
        let page = desk.get(&format!("/cockpit/items/{id}")).await;
        assert!(page.html().contains("  {&#34;a&#34;: 1,\n&#34;b&#34;:2}  "), "{}", page.html());
    }

    pub(super) async fn a_long_look_says_how_far_it_went_and_leads_on(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        desk.fixture.enqueue(NewItem { payload: "the needle".into(), ..item("old") }).await;
        let fill = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 5005)
            INSERT INTO outbox_items (type, idem_key, payload) SELECT 'mail', 'fill-' || n, '{}' FROM numbers";
        desk.fixture.sql(fill).unwrap();
        let first = desk.get("/cockpit/items?text=needle").await;
        let text = first.text();
        assert!(text.contains("No match so far") && text.contains("Look further"), "{text}");
        assert!(text.contains("The newest 5,000 items that fit the other filters were read"), "{text}");
        assert!(!first.html().contains("data-live"), "a list that reads much does not read itself again");
        let next = first.html().split("rel=\"next\" href=\"items?").nth(1).unwrap().split('"').next().unwrap();
        let second = desk.get(&format!("/cockpit/items?{}", next.replace("&#38;", "&"))).await;
        assert!(second.text().contains("old"), "{}", second.text());
        desk.fixture.sql(&fill.replace("5005", "15005").replace("fill-", "more-")).unwrap();
        let few = desk.get("/cockpit/items?text=needle&type=fax").await.text();
        assert!(few.contains("The newest 20,000 items of each status were looked at"), "{few}");
    }

    pub(super) async fn a_dead_item_leads_to_the_group_that_it_is_in_and_to_no_other(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        let f = &desk.fixture;
        for key in ["a", "b"] {
            f.enqueue(item(key)).await;
            f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
        }
        let exhausted = f.enqueue(item("c")).await;
        for _ in 0..3 {
            f.store.settle(&f.claim_one("mail").await.reference(), retry(Duration::ZERO)).await.unwrap();
            f.clock.advance(Duration::from_secs(1));
        }
        assert!(f.claim("mail", 1).await.is_empty(), "it has no attempt left");
        let alike = desk.get("/cockpit/items/a").await.text();
        assert!(alike.contains("1 other item failed alike: see the group"), "{alike}");
        let alone = desk.get(&format!("/cockpit/items/{exhausted}")).await.text();
        assert!(alone.contains("No other item failed alike: see the group"), "{alone}");
    }

    pub(super) async fn bytes_that_are_no_text_are_shown_in_hexadecimal(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        let id = desk.fixture.enqueue(NewItem { payload: vec![0xff, b'A', 0], ..item("a") }).await;
        let text = desk.get(&format!("/cockpit/items/{id}")).await.text();
        assert!(text.contains("bytes, 3 B") && text.contains("00000000 ff 41 00 .A."), "{text}");
    }

    pub(super) async fn the_search_box_leads_to_what_a_word_names(backend: Backend) {
        let desk = Desk::serving(backend, &["mail"]).await;
        let id = desk.fixture.enqueue(NewItem { cid: Some("c-1".into()), ..item("order-7") }).await;
        desk.fixture.enqueue(NewItem { ordering_key: Some("customer-7".into()), ..item("k") }).await;
        for (word, goal) in [
            (id.to_string(), format!("items/{id}")),
            ("order-7".into(), format!("items/{id}")),
            ("mail".into(), "items?type=mail".into()),
            ("c-1".into(), "items?cid=c-1".into()),
            ("order-".into(), "items?key_prefix=order-".into()),
            ("customer-7".into(), "items?ordering_key=customer-7".into()),
            (String::new(), "items".into()),
        ] {
            let found = desk.get(&format!("/cockpit/search?q={word}")).await;
            assert_eq!((found.status, found.header("location")), (303, goal.as_str()), "{word}");
        }
        let none = desk.get("/cockpit/search?q=%3Cb%3Enobody").await;
        assert!(none.status == 200 && none.text().contains("Nothing is called “<b>nobody”"), "{}", none.text());
        assert!(none.html().contains("items?text="), "{}", none.html());
    }
}

on_each_backend! {
    an_item_without_a_handler_names_the_silent_process_that_had_one
    each_item_of_a_list_says_why_it_is_where_it_is
    filters_are_in_the_address_and_pages_go_by_the_last_id
    one_item_says_first_why_it_waits_and_shows_what_happened
    a_long_look_says_how_far_it_went_and_leads_on
    a_dead_item_leads_to_the_group_that_it_is_in_and_to_no_other
    nothing_in_an_item_is_hidden_from_its_reader
    bytes_that_are_no_text_are_shown_in_hexadecimal
    the_search_box_leads_to_what_a_word_names
}

#[tokio::test]
async fn what_items_contain_is_hidden_from_who_may_not_read_payloads() {
    let mut desk = Desk::closed(Backend::Sqlite).await;
    let f = &desk.fixture;
    let secret = NewItem {
        payload: r#"{"card":"4111"}"#.into(),
        headers: [("x-of".to_owned(), "Lovelace".to_owned())].into(),
        metadata: serde_json::json!({ "of": "Lovelace" }).as_object().unwrap().clone(),
        ..item("a")
    };
    let id = f.enqueue(secret).await;
    f.store.settle(&f.claim_one("mail").await.reference(), dead()).await.unwrap();
    let (list, one) = ("/cockpit/items".to_owned(), format!("/cockpit/items/{id}"));
    let secrets = ["4111", "Lovelace", "the receiver is down"];
    desk.log_in(Role::Operate).await;
    for path in [&list, &one] {
        let page = desk.get(path).await;
        assert!(page.status == 200 && page.text().contains("read-payload"), "{}", page.text());
        assert!(secrets.iter().all(|secret| !page.html().contains(secret)), "{path}: {}", page.html());
    }
    for condition in ["payload=card=4111", "error=down", "headers=x-of=Ada", "metadata=of=Ada", "text=4111"] {
        let refused = desk.get(&format!("/cockpit/items?{condition}")).await;
        assert!(refused.status == 403 && refused.text().contains("read-payload"), "{condition}: {}", refused.text());
    }
    desk.log_in(Role::Admin).await;
    let page = desk.get(&one).await;
    assert!(secrets.iter().all(|secret| page.html().contains(secret)), "{}", page.html());
}

#[tokio::test]
async fn the_command_for_curl_has_the_token_in_no_argument() {
    let mut desk = Desk::closed(Backend::Sqlite).await;
    let id = desk.fixture.enqueue(item("a")).await;
    desk.log_in(Role::Read).await;
    let page = desk.get(&format!("/cockpit/items/{id}")).await.text();
    let command = format!("\"$OUTBOX_TOKEN\" | curl -H @- \"$OUTBOX_URL/items/{id}\"");
    assert!(page.contains(&command) && !page.contains("Bearer $OUTBOX_TOKEN"), "{page}");
}
