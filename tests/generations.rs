//! The canary of new versions: the host gives back the attempts of a version that faults and rolls it back, and keeps the
//! last good version.

mod owners;
mod signatures;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outbox::core::{
    CrashBudget, FailureClass, PluginState, PluginStatus, QuarantineEntry, QuarantineError, QuarantineStore,
    RetryPolicy,
};
use outbox::item::{ItemId, NewItem, Status};
use outbox::runtime::PluginSettings;
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::{Control, ControlRequest, Execution, Filter, QuarantineRecord, Store};
use outbox::worker::{Worker, WorkerSettings};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::guests::{CHAOS_GRANTS, chaos, install, place, variant};
use crate::support::host::HostProcess;
use crate::support::plugins::{PluginHost, Wat};
use crate::support::stage::{Deployment, becomes};
use crate::support::{eventually, is_soak};

const SOON: Duration = Duration::from_mins(1);

/// The grants of the chaos handler. The origin is a placeholder, so it can send no requests.
const GRANTS: &str = "[grant]\nstate = true\nemit = ['chaos_other']\n[[grant.http]]\norigin = 'http://127.0.0.1:1'\n";

/// The quarantine of the store, connected as the host connects it.
struct Stored(Arc<dyn Store>);

#[async_trait]
impl QuarantineStore for Stored {
    async fn add(&self, entry: &QuarantineEntry) -> Result<(), QuarantineError> {
        self.0.quarantine(entry.digest.as_str(), &entry.plugin, &entry.reason).await.map_err(QuarantineError::new)
    }

    async fn pause(&self, item_type: &str, reason: &str) -> Result<(), QuarantineError> {
        let (control, reason) = (Control::Pause { item_type: item_type.to_owned() }, Some(reason.to_owned()));
        let request = ControlRequest { control, actor: "host".into(), reason, execution: Execution::Apply };
        self.0.control(&request).await.map(drop).map_err(QuarantineError::new)
    }

    async fn list(&self) -> Result<Vec<QuarantineEntry>, QuarantineError> {
        let entry = |QuarantineRecord { digest, plugin, reason, .. }| QuarantineEntry {
            digest: digest.parse().unwrap(),
            plugin,
            reason,
        };
        Ok(self.0.list_quarantine().await.map_err(QuarantineError::new)?.into_iter().map(entry).collect())
    }
}

/// A store, the first version of the chaos handler, and a worker that connects both.
struct Outbox {
    store: Arc<dyn Store>,
    host: PluginHost,
    _working: DropGuard,
    _dir: tempfile::TempDir,
}

impl Outbox {
    /// Failures are retried after `backoff`; `reload` is the manifest's section `[reload]`.
    async fn start(reload: &str, backoff: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            SqliteStore::open(&dir.path().join("outbox.sqlite"), SqliteOptions::default()).unwrap();
        let retry = RetryPolicy { base: backoff, cap: backoff, ..RetryPolicy::default() };
        let wired = wired(&store);
        let change = |settings: &mut PluginSettings| {
            wired(settings);
            settings.retry = retry;
        };
        let manifest = format!("{GRANTS}{reload}");
        let host = PluginHost::with(change, |folder| install(&chaos(1), &manifest, folder, "chaos")).await;
        let stop = CancellationToken::new();
        let terms = WorkerSettings {
            instance: "pod-1".into(),
            concurrency: 4,
            prefetch: 4,
            payload_bytes: 64 << 20,
            lease: SOON,
            drain: SOON,
            crash_budget: CrashBudget::default(),
        };
        tokio::spawn(Worker::new(store.clone(), Arc::clone(&host.plugins) as _, terms).run(stop.clone()));
        Self { store, host, _working: stop.drop_guard(), _dir: dir }
    }

    /// Copies the second version into the folder and waits until it is live.
    async fn upgrade(&self) {
        let old = self.host.status("chaos").digest;
        place(&fs::read(chaos(2)).unwrap(), &self.host.path("chaos.wasm"));
        self.host.until("the second version", |host| host.status("chaos").digest != old).await;
    }

    async fn enqueue(&self, key: &str, order: &Value) -> ItemId {
        let item = NewItem::new("chaos", key, order.to_string());
        self.store.enqueue(vec![item], outbox::store::BatchMode::PerItem).await.unwrap().ids[0].unwrap()
    }

    async fn becomes(
        &self,
        id: ItemId,
        holds: impl Fn(&outbox::store::ItemDetails) -> bool,
    ) -> outbox::store::ItemDetails {
        let mut found = None;
        eventually(&format!("what item {id} becomes"), SOON, async || {
            found = self.store.get(id).await.unwrap();
            found.as_ref().is_some_and(&holds)
        })
        .await;
        found.unwrap()
    }

    async fn done(&self, id: ItemId) -> outbox::store::ItemDetails {
        self.becomes(id, |details| details.item.status == Status::Done).await
    }
}

/// Makes plugins use the quarantine of a store.
fn wired(store: &Arc<dyn Store>) -> impl Fn(&mut PluginSettings) + use<> {
    let quarantine = Arc::new(Stored(Arc::clone(store)));
    move |settings: &mut PluginSettings| settings.quarantine = Arc::clone(&quarantine) as _
}

fn listed(host: &PluginHost, state: PluginState) -> Option<PluginStatus> {
    host.plugins.status().into_iter().find(|status| status.state == state)
}

fn trap_in_2() -> Value {
    json!({ "do": "trap_in", "version": "2" })
}

#[tokio::test]
async fn a_version_that_traps_on_half_its_items_is_rolled_back_and_every_item_is_done_by_the_old_one() {
    let outbox = Outbox::start("", Duration::from_millis(20)).await;
    let old = outbox.host.status("chaos").digest;
    outbox.upgrade().await;
    let new = outbox.host.status("chaos").digest.unwrap();
    let mut ids = Vec::new();
    for number in 0..40 {
        let order = if number % 2 == 0 { trap_in_2() } else { json!({ "do": "version" }) };
        ids.push(outbox.enqueue(&format!("k{number}"), &order).await);
    }
    let mut given_back = 0;
    for (number, id) in ids.into_iter().enumerate() {
        let details = outbox.done(id).await;
        assert_eq!(details.item.attempts, 1, "a fault during the canary was counted");
        if number % 2 == 0 {
            assert_eq!((details.item.result.as_deref(), &details.item.handler_digest), (Some(&b"\"1\""[..]), &old));
        }
        given_back += details.failed_attempts.len();
        assert!(details.failed_attempts.iter().all(|attempt| attempt.class == FailureClass::Plugin));
    }
    assert!(given_back > 4, "the ratio allows four faults of twenty, and {given_back} were seen");

    let status = outbox.host.status("chaos");
    assert_eq!((status.state, &status.digest, status.generation), (PluginState::Active, &old, Some(1)));
    let quarantined = listed(&outbox.host, PluginState::Quarantined).unwrap();
    assert_eq!((quarantined.digest.as_ref(), quarantined.generation), (Some(&new), Some(2)));
    for error in [status.error.unwrap(), quarantined.error.unwrap()] {
        assert!(error.contains("its own faults") && error.contains("outbox plugin release"), "{error}");
        assert!(error.contains("such as the item with the key \"k") && error.contains("(plugin.trap)"), "{error}");
    }
    eventually("the store knows", SOON, async || {
        let quarantined = outbox.store.list_quarantine().await.unwrap();
        quarantined.iter().map(|entry| (&entry.digest, entry.plugin.as_str())).eq([(&new, "chaos")])
    })
    .await;
}

/// An order that every version of the handler rejects.
fn reject() -> Value {
    json!({ "do": "reject" })
}

impl Outbox {
    /// Enqueues items with this order, and waits until they have ended.
    async fn ended(&self, keys: &str, count: usize, order: &Value, status: Status) {
        for number in 0..count {
            let id = self.enqueue(&format!("{keys}{number}"), order).await;
            self.becomes(id, |details| details.item.status == status).await;
        }
    }
}

#[tokio::test]
async fn a_version_that_answers_wrongly_is_rolled_back_and_its_dead_items_are_one_group() {
    let outbox = Outbox::start("", Duration::from_millis(20)).await;
    let old = outbox.host.status("chaos").digest;
    outbox.ended("before", 20, &json!({ "do": "version" }), Status::Done).await;
    outbox.upgrade().await;
    let new = outbox.host.status("chaos").digest.unwrap();
    for number in 0..60 {
        outbox.enqueue(&format!("k{number}"), &reject()).await;
    }
    outbox.host.until("the old version", |host| host.status("chaos").digest == old).await;
    let entry = outbox.store.list_quarantine().await.unwrap().remove(0);
    assert_eq!(entry.digest, new);
    assert!(entry.reason.contains("failed for good, more than of the version before"), "{}", entry.reason);
    assert!(entry.reason.contains(&format!("outbox replay --status DLQ --handler-digest {new}")), "{}", entry.reason);
    let died = Filter { status: vec![Status::Dlq], handler_digest: Some(new), ..Filter::default() };
    let page = outbox::store::Page { limit: 100, before: None };
    let died = outbox.store.list(&died, &page).await.unwrap().items.len();
    assert!((1..=20).contains(&died), "{died} items died of the new version");
}

#[tokio::test]
async fn a_version_that_follows_one_that_fared_no_better_stays() {
    let outbox = Outbox::start("[reload]\ncanary = 10", Duration::from_millis(20)).await;
    outbox.ended("before", 12, &reject(), Status::Dlq).await;
    outbox.upgrade().await;
    let new = outbox.host.status("chaos").digest;
    outbox.ended("after", 12, &reject(), Status::Dlq).await;
    assert_eq!((outbox.host.status("chaos").digest, outbox.host.status("chaos").error), (new, None));
}

#[tokio::test]
async fn a_first_version_of_which_nothing_ends_well_has_its_type_paused() {
    let outbox = Outbox::start("", Duration::from_millis(20)).await;
    outbox.ended("k", 50, &reject(), Status::Dlq).await;
    eventually("the type is paused", SOON, async || !outbox.store.pauses().await.unwrap().is_empty()).await;
    let pause = outbox.store.pauses().await.unwrap().remove(0);
    assert_eq!((pause.r#type.as_str(), pause.actor.as_str()), ("chaos", "host"));
    let reason = pause.reason.unwrap();
    assert!(reason.contains("no version before it is known") && reason.contains("outbox replay"), "{reason}");
}

#[tokio::test]
async fn a_change_of_the_manifest_has_a_canary_too_and_is_taken_back_alone() {
    let outbox = Outbox::start("", Duration::from_millis(20)).await;
    let old = outbox.host.status("chaos");
    outbox.ended("before", 20, &json!({ "do": "version" }), Status::Done).await;
    let manifest = format!("{GRANTS}\n[limits]\ncpu = '20ms'\n");
    fs::write(outbox.host.path("chaos.toml"), manifest).unwrap();
    outbox.host.until("the manifest", |host| host.status("chaos").generation > old.generation).await;
    for number in 0..60 {
        outbox.enqueue(&format!("k{number}"), &reject()).await;
    }
    outbox.host.until("the manifest before", |host| host.status("chaos").generation == old.generation).await;
    let status = outbox.host.status("chaos");
    assert_eq!((&status.digest, status.state), (&old.digest, PluginState::Active));
    let entry = outbox.store.list_quarantine().await.unwrap().remove(0);
    assert_ne!(Some(entry.digest), old.digest, "the component is not at fault");
    outbox.ended("after", 1, &json!({ "do": "version" }), Status::Done).await;
}

#[tokio::test]
async fn a_poison_item_alone_does_not_take_an_innocent_version_with_it() {
    let outbox = Outbox::start("", Duration::from_millis(10)).await;
    outbox.upgrade().await;
    let new = outbox.host.status("chaos").digest;
    let poison = outbox.enqueue("poison", &json!({ "do": "trap", "message": "by order" })).await;
    let details = outbox.becomes(poison, |details| details.item.deliveries > 30).await;
    assert_eq!((details.item.status == Status::Dlq, outbox.host.status("chaos").digest), (false, new.clone()));
    for number in 0..19 {
        let id = outbox.enqueue(&format!("k{number}"), &json!({ "do": "version" })).await;
        outbox.done(id).await;
    }
    let dead = outbox.becomes(poison, |details| details.item.status == Status::Dlq).await;
    assert_eq!(dead.failed_attempts.last().unwrap().class, FailureClass::Trap, "after the canary its faults count");
    assert_eq!((outbox.host.status("chaos").digest, outbox.host.status("chaos").error), (new, None));
    assert!(outbox.store.list_quarantine().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_quarantined_component_runs_in_no_process_and_after_no_restart_until_it_is_released() {
    let outbox = Outbox::start("[reload]\ncanary = 1\nmax_fault_ratio = 0.0", Duration::from_millis(20)).await;
    let old = outbox.host.status("chaos").digest;
    outbox.upgrade().await;
    let item = outbox.enqueue("k", &trap_in_2()).await;
    assert_eq!(outbox.done(item).await.item.handler_digest, old);
    eventually("the store knows", SOON, async || !outbox.store.list_quarantine().await.unwrap().is_empty()).await;
    let digest = outbox.store.list_quarantine().await.unwrap()[0].digest.clone();

    let restarted = outbox.host.again(wired(&outbox.store)).await;
    let status = restarted.status("chaos");
    assert_eq!((status.state, &status.digest), (PluginState::Active, &old), "the last good one runs");
    assert!(status.error.unwrap().contains("is quarantined"));

    let fresh_cache = tempfile::tempdir().unwrap();
    let elsewhere = outbox.host.again(|settings| {
        wired(&outbox.store)(settings);
        settings.cache_dir = fresh_cache.path().join("cache");
    });
    let elsewhere = elsewhere.await;
    assert!(elsewhere.types().is_empty(), "nothing is known to be good there");
    assert_eq!(elsewhere.status("chaos").state, PluginState::Quarantined);

    assert!(outbox.store.lift_quarantine(&digest, "ada@host", None).await.unwrap());
    for host in [&restarted, &elsewhere, &outbox.host] {
        let runs = |host: &PluginHost| host.status("chaos").digest.as_ref() == Some(&digest);
        host.until("the released one", |host| runs(host) && host.status("chaos").error.is_none()).await;
    }
}

#[tokio::test]
async fn what_one_process_withdraws_leaves_every_other() {
    let outbox = Outbox::start("", Duration::from_millis(20)).await;
    let old = outbox.host.status("chaos").digest;
    outbox.upgrade().await;
    let new = outbox.host.status("chaos").digest.unwrap();
    outbox.store.quarantine(&new, "chaos", "another process saw it trap").await.unwrap();
    outbox.host.until("the old one", |host| host.status("chaos").digest == old).await;
    assert!(outbox.host.status("chaos").error.unwrap().contains("another process saw it trap"));
}

#[tokio::test]
async fn a_version_whose_faults_stay_below_the_ratio_is_promoted_and_pays_for_them_from_then_on() {
    let reload = "[reload]\ncanary = 10\nmax_fault_ratio = 0.2";
    let outbox = Outbox::start(reload, Duration::from_hours(1)).await;
    outbox.upgrade().await;
    let new = outbox.host.status("chaos").digest;
    for number in 0..10 {
        let order = if number < 2 { trap_in_2() } else { json!({ "do": "version" }) };
        let id = outbox.enqueue(&format!("k{number}"), &order).await;
        if number < 2 {
            let details = outbox.becomes(id, |details| !details.failed_attempts.is_empty()).await;
            assert_eq!((details.item.status, details.item.attempts), (Status::Pending, 0), "a fault was counted");
            assert!(details.failed_attempts[0].message.contains("faulted during its canary (trap)"));
        } else {
            outbox.done(id).await;
        }
    }
    let late = outbox.enqueue("late", &trap_in_2()).await;
    let details = outbox.becomes(late, |details| !details.failed_attempts.is_empty()).await;
    assert_eq!((details.item.attempts, details.failed_attempts[0].class), (1, FailureClass::Trap));
    assert_eq!((outbox.host.status("chaos").digest, outbox.host.status("chaos").error), (new.clone(), None));
    assert!(outbox.store.list_quarantine().await.unwrap().is_empty());
    eventually("the promoted one is kept", SOON, async || outbox.host.kept().len() == 2).await;

    place(b"broken", &outbox.host.path("chaos.wasm"));
    let restarted = outbox.host.again(wired(&outbox.store)).await;
    assert_eq!(restarted.status("chaos").digest, new, "the promoted one is the last good one");
}

#[tokio::test]
async fn a_restart_during_the_canary_does_not_end_it() {
    let outbox = Outbox::start("", Duration::from_millis(20)).await;
    let old = outbox.host.status("chaos").digest;
    outbox.upgrade().await;
    let new = outbox.host.status("chaos").digest;
    let restarted = outbox.host.again(wired(&outbox.store)).await;
    assert_eq!(restarted.status("chaos").digest, new);
    outbox.store.quarantine(&new.unwrap(), "chaos", "it traps").await.unwrap();
    restarted.until("what was good before the restart", |host| host.status("chaos").digest == old).await;
}

#[tokio::test]
async fn a_restart_with_a_broken_file_runs_the_last_good_one_on_its_terms() {
    let host = PluginHost::start(None, |dir| {
        fs::write(dir.join("p.wasm"), Wat::default().bytes()).unwrap();
        fs::write(dir.join("p.toml"), "timeout = '7s'").unwrap();
    })
    .await;
    let good = host.status("p").digest;
    for (wasm, manifest) in [(b"broken".to_vec(), ""), (Wat::default().bytes(), "timout = '8s'")] {
        fs::write(host.path("p.wasm"), wasm).unwrap();
        fs::write(host.path("p.toml"), manifest).unwrap();
        let restarted = host.again(|_| ()).await;
        let status = restarted.status("p");
        assert_eq!((status.state, &status.digest, status.types), (PluginState::Active, &good, vec!["t".to_owned()]));
        assert!(status.error.is_some());
        let served_types = outbox::core::Handler::served_types(&*restarted.plugins);
        assert_eq!(served_types[0].timeout, Some(Duration::from_secs(7)));
    }
    fs::remove_file(host.path("p.wasm")).unwrap();
    host.until("the removal", |host| host.types().is_empty()).await;
    fs::write(host.path("p.wasm"), b"broken").unwrap();
    assert!(host.again(|_| ()).await.types().is_empty(), "what was removed does not come back");
}

fn states(plugins: &Value) -> Vec<(&str, &str)> {
    let plugins = plugins.as_array().unwrap().iter();
    plugins.map(|plugin| (plugin["name"].as_str().unwrap(), plugin["state"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn the_real_host_rolls_back_shows_it_and_lets_an_operator_lift_it() {
    let deployment = Deployment::new().await;
    let folder = deployment.plugins();
    let manifest = format!("{CHAOS_GRANTS}\n[reload]\ncanary = 4\n");
    install(&chaos(1), &manifest, &folder, "chaos");
    let host = deployment.plan.start("serve").await;
    let chaos_rows = || {
        let plugins = deployment.plan.json(&["plugin", "list", "--json"]);
        let chaos = plugins.as_array().unwrap().iter().filter(|plugin| plugin["name"] == "chaos");
        chaos.cloned().collect::<Value>()
    };
    let old = chaos_rows()[0]["digest"].clone();
    install(&chaos(2), &manifest, &folder, "chaos");
    eventually("the new one is live", SOON, async || chaos_rows()[0]["digest"] != old).await;
    let new = chaos_rows()[0]["digest"].as_str().unwrap().to_owned();
    let payload = trap_in_2().to_string();
    let enqueued = deployment.plan.json(&["enqueue", "--type", "chaos", "--key", "k", "--payload", &payload, "--json"]);
    let item = becomes(&host, enqueued["ids"][0].as_i64().unwrap(), "DONE").await;
    assert_eq!((&item["attempts"], &item["handler_digest"], &item["result"]), (&1.into(), &old, &"1".into()));

    let rolled_back = [("chaos", "active"), ("chaos", "quarantined")];
    eventually("both are listed", SOON, async || states(&chaos_rows()) == rolled_back).await;
    let metrics = host.send("GET", "/metrics", &[], "").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(metrics.contains(&format!(r#"digest="{new}",state="quarantined"}} 1"#)), "{metrics}");
    assert_eq!(host.terminate(), Some(0));

    let host = deployment.plan.start("serve").await;
    assert_eq!(states(&chaos_rows()), rolled_back, "a restart changes nothing");
    let listed = deployment.plan.json(&["plugin", "quarantine", "--json"]);
    assert_eq!((&listed[0]["digest"], &listed[0]["plugin"]), (&json!(new), &json!("chaos")));
    let release = |digest: &str| deployment.plan.run(&["plugin", "release", digest, "--reason", "rebuilt"]);
    assert!(deployment.plan.run(&["plugin", "release", &new[..12], "--dry-run"]).status.success());
    assert!(release(&new[..12]).status.success());
    let again = release(&new);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("outbox plugin quarantine"));
    eventually("it runs again", SOON, async || states(&chaos_rows()) == [("chaos", "active")]).await;
    assert_eq!((&chaos_rows()[0]["digest"], &chaos_rows()[0]["previous"]), (&json!(new), &old));

    let roll_back = |args: &[&str]| deployment.plan.run(&[&["plugin", "rollback", "chaos"], args].concat());
    assert_eq!(roll_back(&["ffff"]).status.code(), Some(1), "no host can return to it");
    assert!(roll_back(&["--dry-run"]).status.success());
    assert!(roll_back(&["--reason", "wrong amounts"]).status.success());
    eventually("the old one runs again", SOON, async || states(&chaos_rows()) == rolled_back).await;
    assert_eq!(chaos_rows()[0]["digest"], old);
    assert_eq!(roll_back(&[]).status.code(), Some(1), "nothing is known before it");
    drop(host);
}

async fn generation(host: &HostProcess) -> u64 {
    let cockpit = host.send("GET", "/status/cockpit", &[], "").await.json();
    let plugins = cockpit["plugins"].as_array().unwrap_or_else(|| panic!("{cockpit}")).clone();
    let active = plugins.iter().find(|plugin| plugin["name"] == "webhook" && plugin["state"] == "active");
    active.and_then(|plugin| plugin["generation"].as_u64()).unwrap_or(0)
}

#[tokio::test]
async fn reloading_again_and_again_does_not_keep_memory() {
    let (reloads, settled) = if is_soak() { (1000, 200) } else { (15, 5) };
    let deployment = Deployment::new().await;
    // Without a canary, each generation replaces the one before at once and for good.
    let manifest = deployment.plugins().join("webhook.toml");
    let terms = fs::read_to_string(&manifest).unwrap() + "\n[reload]\ncanary = 0\n";
    place(terms.as_bytes(), &manifest);
    let host = deployment.plan.start("serve").await;
    let component = deployment.plugins().join("webhook.wasm");
    let good = fs::read(&component).unwrap();
    let (mut live, mut before) = (generation(&host).await, 0);
    for number in 1..=reloads {
        let bytes = variant(&variant(&good, u8::try_from(number / 256).unwrap()), u8::try_from(number % 256).unwrap());
        place(&bytes, &component);
        eventually("the next generation is live", SOON, async || generation(&host).await > live).await;
        live = generation(&host).await;
        if number == settled {
            before = host.resident();
        }
    }
    let (after, allowed) = (host.resident(), (before / 10).max(20 << 20));
    assert!(after < before + allowed, "resident memory went from {before} to {after} bytes");
}
