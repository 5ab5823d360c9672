//! The handlers of `docs/patterns.md`: the page shows the compiled sources, and the handlers do what it describes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use outbox::core::{AttemptReport, FailureClass, Outcome, StateChange, StateReadError, StateReader, StateVersion};
use outbox::item::{Item, ItemId, NewItem, Status};
use outbox::runtime::EnvLookup;
use outbox::runtime::simulation::{
    AttemptEnd, GuestCall, OutgoingRequest, SimulatedAttempt, SimulatedPlugin, SimulatedWorld, Simulator, WorldResponse,
};
use serde_json::{Value, json};

use crate::support::guests::{self, root};
use crate::support::{START, blocks};

#[test]
fn the_page_shows_the_handlers_as_they_are_compiled() {
    let page = std::fs::read_to_string(root().join("docs/patterns.md")).unwrap();
    let files = std::fs::read_dir(root().join("plugins/patterns/src")).unwrap().map(|entry| entry.unwrap().path());
    let mut handlers: Vec<_> = files.filter(|path| !path.ends_with("lib.rs")).collect();
    let shown = blocks(&page, "rust");
    handlers.retain(|path| !shown.contains(&std::fs::read_to_string(path).unwrap().trim_end()));
    assert_eq!(handlers, Vec::<PathBuf>::new(), "docs/patterns.md does not show these as they are");
}

/// A receiver that answers by method and URL, and records the requests.
struct Api {
    answers: BTreeMap<&'static str, (u16, Value)>,
    sent: Mutex<Vec<String>>,
}

impl SimulatedWorld for Api {
    fn before_call(&self, _: &GuestCall) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn respond(&self, request: &OutgoingRequest) -> WorldResponse {
        let asked = format!("{} {}", request.method, request.url.replace("http://api.test", ""));
        let (status, body) = self.answers.get(asked.as_str()).cloned().unwrap_or((200, Value::Null));
        let effect = request.key.as_deref().and_then(|key| key.rsplit('/').next()).unwrap_or_default();
        self.sent.lock().unwrap().push(format!("{asked} {effect}").trim().to_owned());
        WorldResponse::Response { status, headers: Vec::new(), body: body.to_string().into_bytes() }
    }

    fn after_call(&self, _: &GuestCall) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// The state in which the handler has read the list of contacts up to this contact.
struct ReadTo(Option<&'static str>);

#[async_trait]
impl StateReader for ReadTo {
    async fn read(&self, _: &str, _: &str) -> Result<(Option<Vec<u8>>, StateVersion), StateReadError> {
        Ok((self.0.map(|after| json!(after).to_string().into_bytes()), None))
    }
}

async fn patterns(folder: &tempfile::TempDir) -> SimulatedPlugin {
    let manifest = std::fs::read_to_string(root().join("plugins/patterns/patterns.toml")).unwrap();
    guests::install(&guests::patterns(), &manifest, folder.path(), "patterns");
    let simulator = Simulator::open(&folder.path().join("patterns.wasm"), None).await.unwrap();
    let environment: EnvLookup = Arc::new(|name| (name == "API_URL").then(|| "http://api.test".to_owned()));
    simulator.plugin(&environment, BTreeMap::new()).await.unwrap()
}

/// Runs one attempt and returns the requests that it sent and its outcome.
async fn attempt(
    plugin: &SimulatedPlugin,
    (item_type, payload): (&str, Value),
    answers: &[(&'static str, u16, Value)],
    after: Option<&'static str>,
) -> (Vec<String>, Outcome) {
    let answers = answers.iter().map(|(asked, status, body)| (*asked, (*status, body.clone()))).collect();
    let api = Arc::new(Api { answers, sent: Mutex::default() });
    let item = NewItem { cid: Some("c".into()), ..NewItem::new(item_type, "k", payload.to_string()) }
        .into_item(ItemId::new(1), START);
    let item = Item { status: Status::Claimed, attempts: 1, deliveries: 1, ..item };
    let take = SimulatedAttempt { item, world: api.clone(), state: Arc::new(ReadTo(after)), now: START, seed: 1 };
    let AttemptEnd::Reported(AttemptReport { outcome, .. }) = plugin.run(take).await else {
        panic!("nothing crashes here")
    };
    let sent = api.sent.lock().unwrap().clone();
    (sent, outcome)
}

fn followups(outcome: &Outcome) -> Vec<&str> {
    let Outcome::Done { writes, .. } = outcome else { panic!("it should be done: {outcome:?}") };
    writes.followups.iter().map(|item| item.idem_key.as_str()).collect()
}

#[tokio::test]
async fn what_goes_to_one_url_has_names_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let transfer = ("transfer", json!({ "from": "a", "to": "b", "cents": 5 }));
    let (sent, outcome) = attempt(&patterns(&folder).await, transfer, &[], None).await;
    assert_eq!(sent, ["POST /entries debit", "POST /entries credit"]);
    assert!(followups(&outcome).is_empty());
}

#[tokio::test]
async fn a_saga_goes_on_or_back_by_its_follow_ups() {
    let (folder, order) = (tempfile::tempdir().unwrap(), json!({ "order": "o", "cents": 5 }));
    let plugin = patterns(&folder).await;
    let step = |item_type, answers| attempt(&plugin, (item_type, order.clone()), answers, None);
    let (sent, outcome) = step("reserve_stock", &[]).await;
    assert!(sent[0].starts_with("PUT /reservations/o "), "{sent:?}");
    assert_eq!(followups(&outcome), ["k/charge_card/1"]);
    assert!(followups(&step("charge_card", &[]).await.1).is_empty());
    let declined = &[("POST /charges", 402, json!({}))];
    assert_eq!(followups(&step("charge_card", declined).await.1), ["k/release_stock/1"]);
    let gone = &[("DELETE /reservations/o", 404, json!({}))];
    assert!(followups(&step("release_stock", gone).await.1).is_empty());
}

#[tokio::test]
async fn a_limit_that_is_reached_defers_and_does_not_wait() {
    let folder = tempfile::tempdir().unwrap();
    let busy = &[("GET /quotes/X", 429, json!({}))];
    let (_, outcome) = attempt(&patterns(&folder).await, ("quote", json!({ "symbol": "X" })), busy, None).await;
    let Outcome::Failed(failure) = outcome else { panic!("it should be deferred: {outcome:?}") };
    assert_eq!((failure.class, failure.retry_after.map(|wait| wait.as_secs())), (FailureClass::Deferred, Some(30)));
}

#[tokio::test]
async fn a_page_moves_the_place_in_the_list_together_with_its_items() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = patterns(&folder).await;
    let first = &[("GET /contacts?after=", 200, json!({ "contacts": [{ "to": "a" }, { "to": "b" }], "next": "b" }))];
    let (_, outcome) = attempt(&plugin, ("contacts", Value::Null), first, None).await;
    assert_eq!(followups(&outcome), ["k/mail/1", "k/mail/2", "k/contacts/1"]);
    let Outcome::Done { writes, .. } = outcome else { unreachable!() };
    assert_eq!(writes.state[0].change, StateChange::Put(br#""b""#.to_vec()));
    let last = &[("GET /contacts?after=b", 200, json!({ "contacts": [], "next": null }))];
    assert!(followups(&attempt(&plugin, ("contacts", Value::Null), last, Some("b")).await.1).is_empty());
}

#[tokio::test]
async fn a_campaign_is_a_mail_for_each_of_its_users() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = patterns(&folder).await;
    let campaign = json!({ "text": "hi", "to": ["ada", "bob"] });
    let (_, outcome) = attempt(&plugin, ("campaign", campaign), &[], None).await;
    assert_eq!(followups(&outcome), ["k/mail/ada", "k/mail/bob"]);
    let (sent, _) = attempt(&plugin, ("mail", json!({ "to": "ada" })), &[], None).await;
    assert!(sent[0].starts_with("POST /mails "), "{sent:?}");
}
