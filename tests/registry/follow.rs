//! Hosts that follow images: a moved tag is a new version, and whatever is wrong with a registry, what runs goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::guests::{CHAOS_GRANTS, chaos, variant};
use crate::support::host::{HostConfig, HostProcess};
use crate::support::plugins::Wat;
use crate::support::registry::RegistryServer;
use crate::support::stage::becomes;

pub(super) const SOON: Duration = Duration::from_mins(1);

/// A registry, and the settings of a host that follows the tag `stable` of the image `p` in it.
pub(super) struct Followed {
    pub(super) registry: RegistryServer,
    pub(super) plan: HostConfig,
    dir: tempfile::TempDir,
}

impl Followed {
    pub(super) fn new() -> Self {
        let (registry, dir) = (RegistryServer::start(), tempfile::tempdir().unwrap());
        let plan = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), dir.path())
            .set("OUTBOX_PLUGINS", &format!("oci://{}", registry.image("p:stable")))
            .set("OUTBOX_MANIFESTS", dir.path().join("manifests").to_str().unwrap())
            .set("OUTBOX_REGISTRY_POLL", "1s")
            .set("OUTBOX_BACKOFF_BASE_MS", "50")
            .set("VECTOR_URL", "http://127.0.0.1:9");
        fs::create_dir(dir.path().join("manifests")).unwrap();
        Self { registry, plan, dir }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Pushes a build of the component that handles the type `t`, and lets `stable` name it.
    pub(super) fn push(&self, build: u8) -> Value {
        self.push_as("stable", &variant(&Wat::default().bytes(), build))
    }

    pub(super) fn push_as(&self, tag: &str, component: &[u8]) -> Value {
        fs::write(self.path("p.wasm"), component).unwrap();
        let image = self.registry.image(&format!("p:{tag}"));
        self.plan.json(&["plugin", "push", "p.wasm", &image, "--json"])
    }

    pub(super) fn manifest(&self, text: &str) {
        fs::write(self.path("manifests/p.toml"), text).unwrap();
    }

    /// What `plugin list` says of the plugin in this state.
    pub(super) fn listed(&self, state: &str) -> Value {
        in_state(&self.plan.json(&["plugin", "list", "--json"]), state)
    }

    fn enqueue(&self, item_type: &str, key: &str, payload: &Value) -> i64 {
        let payload = payload.to_string();
        let args = ["enqueue", "--type", item_type, "--key", key, "--payload", &payload, "--json"];
        self.plan.json(&args)["ids"][0].as_i64().unwrap()
    }
}

fn in_state(plugins: &Value, state: &str) -> Value {
    let found = plugins.as_array().unwrap().iter().find(|plugin| plugin["state"] == state);
    found.cloned().unwrap_or_default()
}

/// What a host says of its plugin in this state.
async fn plugin(host: &HostProcess, state: &str) -> Value {
    in_state(&host.send("GET", "/status/cockpit", &[], "").await.json()["plugins"], state)
}

/// The running plugin of a host becomes one of which this is true.
async fn becomes_active(host: &HostProcess, what: &str, holds: impl Fn(&Value) -> bool) {
    eventually(what, SOON, async || holds(&plugin(host, "active").await)).await;
}

/// What was pushed becomes what a host runs.
pub(super) async fn runs(host: &HostProcess, pushed: &Value) {
    becomes_active(host, "it runs", |plugin| plugin["digest"] == pushed["component"]).await;
}

/// The error of the running plugin gets these words, and what was pushed before still runs.
async fn keeps(host: &HostProcess, pushed: &Value, words: &[&str]) {
    let has = |plugin: &Value| {
        let error = plugin["error"].as_str().unwrap_or_default();
        words.iter().all(|word| error.contains(word))
    };
    becomes_active(host, &format!("{words:?} is told"), has).await;
    assert_eq!(plugin(host, "active").await["digest"], pushed["component"]);
}

fn image(followed: &Followed, pushed: &Value) -> String {
    format!("oci://{}@{}", followed.registry.image("p:stable"), pushed["digest"].as_str().unwrap())
}

#[tokio::test]
async fn a_moved_tag_is_a_new_version_and_a_tag_that_moves_back_is_the_old_one() {
    let followed = Followed::new();
    let first = followed.push(1);
    let host = followed.plan.start("serve").await;
    let running = plugin(&host, "active").await;
    assert_eq!((&running["digest"], &running["image"]), (&first["component"], &json!(image(&followed, &first))));
    let second = followed.push(2);
    runs(&host, &second).await;
    assert_eq!(plugin(&host, "active").await["image"], image(&followed, &second));
    let id = followed.enqueue("t", "k", &json!({}));
    assert_eq!(becomes(&host, id, "DONE").await["handler_digest"], second["component"]);
    assert_eq!(followed.push(1), first);
    runs(&host, &first).await;
    assert_eq!(plugin(&host, "active").await["image"], image(&followed, &first));
}

#[tokio::test]
async fn a_moved_tag_is_seen_at_a_hangup_before_the_poll() {
    let followed = Followed::new();
    followed.push(1);
    let host = followed.plan.clone().set("OUTBOX_REGISTRY_POLL", "1day").start("serve").await;
    let second = followed.push(2);
    host.hang_up();
    runs(&host, &second).await;
}

#[tokio::test]
async fn a_host_without_the_registry_runs_the_last_version_and_one_that_has_none_is_not_ready() {
    let mut followed = Followed::new();
    followed.push(1);
    let host = followed.plan.start("serve").await;
    let second = followed.push(2);
    runs(&host, &second).await;
    assert_eq!(host.terminate(), Some(0));
    followed.registry.stop();
    let host = followed.plan.start("serve").await;
    let id = followed.enqueue("t", "k", &json!({}));
    becomes(&host, id, "DONE").await;
    keeps(&host, &second, &["does not answer"]).await;

    // Another machine, which has pulled nothing.
    let cold = followed.plan.clone().set("OUTBOX_CACHE_DIR", followed.path("cold").to_str().unwrap());
    drop(host);
    let starting = cold.start("serve");
    let back = async {
        eventually("the lack is told", SOON, async || {
            let failed = followed.listed("failed");
            failed["image"] == format!("oci://{}", followed.registry.image("p:stable"))
                && failed["error"].as_str().unwrap_or_default().contains("does not answer")
        })
        .await;
    };
    let mut starting = std::pin::pin!(starting);
    tokio::select! {
        _ = &mut starting => panic!("it is ready without a handler"),
        () = back => {}
    }
    followed.registry.resume();
    let host = starting.await;
    runs(&host, &second).await;
    becomes_active(&host, "nothing is wrong any more", |plugin| plugin["error"].is_null()).await;
}

#[tokio::test]
async fn a_wrong_signature_never_loads() {
    let followed = Followed::new();
    let pair = || minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let (ours, theirs) = (pair(), pair());
    let sign = |key: &minisign::KeyPair| {
        fs::write(followed.path("secret.key"), key.sk.to_box(None).unwrap().into_string()).unwrap();
        followed.plan.json(&["plugin", "sign", "p.wasm", "--key", "secret.key", "--json"]);
        followed.plan.json(&["plugin", "push", "p.wasm", &followed.registry.image("p:stable"), "--json"])
    };
    followed.push(1);
    let first = sign(&ours);
    let trusting = followed.plan.clone().set("OUTBOX_PLUGIN_KEYS", &ours.pk.to_base64());
    let host = trusting.start("serve").await;
    fs::remove_file(followed.path("p.wasm.minisig")).unwrap();
    let unsigned = followed.push(2);
    keeps(&host, &first, &["is not signed", unsigned["digest"].as_str().unwrap()]).await;
    sign(&theirs);
    keeps(&host, &first, &["not among the trusted ones"]).await;
    drop(host);
    let host = trusting.start("serve").await;
    keeps(&host, &first, &["not among the trusted ones"]).await;
    let second = sign(&ours);
    runs(&host, &second).await;
}

#[tokio::test]
async fn a_version_that_faults_is_rolled_back_and_its_image_is_shown_as_quarantined_also_after_a_restart() {
    let followed = Followed::new();
    followed.manifest(&format!("{CHAOS_GRANTS}\n[reload]\ncanary = 5\n"));
    let first = followed.push_as("stable", &fs::read(chaos(1)).unwrap());
    let host = followed.plan.start("serve").await;
    let second = followed.push_as("stable", &fs::read(chaos(2)).unwrap());
    runs(&host, &second).await;
    let order = json!({ "do": "trap_in", "version": "2" });
    let ids: Vec<_> = (0..8).map(|number| followed.enqueue("chaos", &format!("k{number}"), &order)).collect();
    for id in ids {
        let item = becomes(&host, id, "DONE").await;
        assert_eq!((&item["result"], &item["handler_digest"]), (&json!("1"), &first["component"]));
    }
    let shows = async |host: &HostProcess, state: &str, pushed: &Value| {
        let plugin = plugin(host, state).await;
        plugin["image"] == image(&followed, pushed) && plugin["digest"] == pushed["component"]
    };
    let are_shown =
        async |host: &HostProcess| shows(host, "active", &first).await && shows(host, "quarantined", &second).await;
    eventually("both images are shown", SOON, async || are_shown(&host).await).await;
    let of_second = second["digest"].as_str().unwrap()[..19].to_owned();
    eventually("people see it too", SOON, async || {
        let people = String::from_utf8(followed.plan.run(&["plugin", "list"]).stdout).unwrap();
        let row = people.lines().find(|line| line.contains("quarantined ")).map(str::to_owned).unwrap_or_default();
        row.contains(&of_second) && row.contains("outbox plugin release")
    })
    .await;
    assert_eq!(host.terminate(), Some(0));
    let host = followed.plan.start("serve").await;
    eventually("both images are shown after a restart", SOON, async || are_shown(&host).await).await;
}

#[tokio::test]
async fn an_image_that_cannot_be_used_changes_nothing() {
    let followed = Followed::new();
    let first = followed.push(1);
    let host = followed.plan.start("serve").await;
    let changed = followed.push_as("next", &variant(&Wat::default().bytes(), 2));
    let twice = |manifest: &mut Value| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"].as_array_mut().unwrap().push(layer);
    };
    followed.registry.retag("p", "next", "stable", twice).await;
    keeps(&host, &first, &["has 2 components", "p:stable@sha256:"]).await;
    followed.registry.retag("p", "next", "stable", |manifest| manifest["layers"] = json!([])).await;
    keeps(&host, &first, &["has no component"]).await;
    followed.registry.index("p", "next", "stable").await;
    keeps(&host, &first, &["index of several images"]).await;
    followed.registry.damage(changed["component"].as_str().unwrap());
    followed.registry.retag("p", "next", "stable", |_| {}).await;
    keeps(&host, &first, &["not what its digest says"]).await;
}

#[tokio::test]
async fn a_component_that_does_not_load_changes_nothing() {
    let followed = Followed::new();
    let first = followed.push(1);
    let host = followed.plan.start("serve").await;
    followed.push_as("stable", &wat::parse_str("(component)").unwrap());
    keeps(&host, &first, &["outbox:handler"]).await;
    let id = followed.enqueue("t", "k", &json!({}));
    becomes(&host, id, "DONE").await;
    let second = followed.push(2);
    runs(&host, &second).await;
}

#[tokio::test]
async fn an_image_that_is_pinned_by_its_digest_is_pulled_once_and_never_followed() {
    let mut followed = Followed::new();
    let first = followed.push(1);
    let pinned = image(&followed, &first);
    let plan = followed.plan.clone().set("OUTBOX_PLUGINS", &pinned);
    let host = plan.start("serve").await;
    assert_eq!(plugin(&host, "active").await["image"], pinned);
    followed.push(2);
    followed.registry.stop();
    assert_eq!(host.terminate(), Some(0));
    let host = plan.start("serve").await;
    let running = plugin(&host, "active").await;
    assert_eq!((&running["digest"], &running["error"]), (&first["component"], &Value::Null));
}

#[tokio::test]
async fn the_manifest_is_the_operators_and_may_change_by_itself() {
    let followed = Followed::new();
    followed.manifest("timeout = '9s'");
    fs::write(followed.path("p.toml"), "types = ['none']").unwrap();
    followed.push(1);
    let host = followed.plan.start("serve").await;
    assert_eq!(plugin(&host, "active").await["types"], json!(["t"]));
    followed.manifest("[types]\nother = 't'\n");
    becomes_active(&host, "the new manifest", |plugin| plugin["types"] == json!(["other"])).await;
    followed.manifest("no manifest");
    becomes_active(&host, "its error", |plugin| plugin["error"].is_string()).await;
    assert_eq!(plugin(&host, "active").await["types"], json!(["other"]));
}

#[tokio::test]
async fn images_and_a_folder_are_served_together() {
    let followed = Followed::new();
    followed.push(1);
    let folder = followed.path("plugins.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("q.wasm"), Wat { types: &["q"], ..Wat::default() }.bytes()).unwrap();
    let both = format!("{},oci://{}", folder.display(), followed.registry.image("p:stable"));
    let plan = followed.plan.clone().set("OUTBOX_PLUGINS", &both);
    let host = plan.start("serve").await;
    for item_type in ["t", "q"] {
        let id = followed.enqueue(item_type, item_type, &json!({}));
        becomes(&host, id, "DONE").await;
    }
    let checks = plan.run(&["doctor"]);
    let told = String::from_utf8_lossy(&checks.stdout).into_owned();
    assert!(told.contains("q loads") && told.contains("p loads, from oci://") && told.contains("not signed"), "{told}");
}

#[tokio::test]
async fn the_doctor_looks_into_the_registry_and_pulls_nothing() {
    let mut followed = Followed::new();
    let doctor = |followed: &Followed| {
        let checks = followed.plan.run(&["doctor", "--json"]).stdout;
        let checks: Value = serde_json::from_slice(&checks).unwrap();
        let registry = checks.as_array().unwrap().iter().find(|check| check["check"] == "registry").cloned().unwrap();
        (registry["result"].as_str().unwrap().to_owned(), registry["message"].as_str().unwrap().to_owned())
    };
    let (result, message) = doctor(&followed);
    assert!(result == "fail" && message.contains("no such image"), "{message}");
    let pushed = followed.push(1);
    let (result, message) = doctor(&followed);
    assert!(result == "ok" && message.contains(pushed["digest"].as_str().unwrap()), "{message}");
    assert!(!fs::exists(followed.path("cache/images")).unwrap());
    followed.registry.stop();
    let (result, message) = doctor(&followed);
    assert!(result == "fail" && message.contains("does not answer"), "{message}");
}

#[tokio::test]
async fn a_cache_folder_whose_rights_are_corrected_is_used_without_a_restart() {
    let followed = Followed::new();
    let first = followed.push(1);
    let cache = followed.path("open");
    let may = |mode| fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).unwrap();
    fs::create_dir(&cache).unwrap();
    may(0o777);
    let plan = followed.plan.clone().set("OUTBOX_CACHE_DIR", cache.to_str().unwrap());
    let mut starting = std::pin::pin!(plan.start("serve"));
    let refused = eventually("it is refused", SOON, async || {
        followed.listed("failed")["error"].as_str().unwrap_or_default().contains("make it private with chmod 700")
    });
    tokio::select! {
        _ = &mut starting => panic!("it is ready without a handler"),
        () = refused => {}
    }
    may(0o700);
    let host = starting.await;
    runs(&host, &first).await;
    let holds = |end: &str| fs::read_dir(&cache).unwrap().any(|file| file.unwrap().path().ends_with(end));
    assert!(holds("images") && holds("good"), "the last good version is kept there too");
    let is_code = |file: &fs::DirEntry| file.path().extension().is_some_and(|end| end == "code");
    assert!(fs::read_dir(&cache).unwrap().any(|file| is_code(&file.unwrap())), "the compiled code is kept there");

    // What goes on is not ended by rights that become wrong.
    may(0o777);
    keeps(&host, &first, &["make it private with chmod 700"]).await;
    let id = followed.enqueue("t", "k", &json!({}));
    becomes(&host, id, "DONE").await;
    may(0o700);
    let second = followed.push(2);
    runs(&host, &second).await;
}

#[tokio::test]
async fn a_full_cache_keeps_the_version_that_runs_until_there_is_room() {
    let followed = Followed::new();
    let first = followed.push(1);
    let small = followed.path("small");
    fs::create_dir(&small).unwrap();
    let mount = "mount -t tmpfs -o size=8m,mode=0700 none small && exec \"$@\"";
    let script = format!("exec unshare --user --map-current-user --keep-caps --mount sh -c '{mount}' sh \"$@\"");
    let plan = followed.plan.clone().set("OUTBOX_CACHE_DIR", small.to_str().unwrap()).through(&script);
    let host = plan.start("serve").await;
    let ballast = host.path(&small.join("ballast"));
    drop(fs::write(&ballast, vec![0; 9 << 20]));
    // More than the rest of a page that the ballast leaves.
    let second = followed.push_as("stable", &[Wat::default().bytes(), padding()].concat());
    keeps(&host, &first, &["could not be kept", "No space left", "make room"]).await;
    fs::remove_file(&ballast).unwrap();
    runs(&host, &second).await;
}

/// A custom section of 64 KiB.
fn padding() -> Vec<u8> {
    let content = vec![0; 64 << 10];
    let mut section = vec![0, 0x82, 0x80, 0x04, 1, b'x'];
    section.extend(content);
    section
}
