//! Components in a registry: pushed, pulled and signed by the command line, and followed by hosts. The registry is that of
//! Debian, on loopback.

mod follow;
mod liar;
mod proxy;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::host::HostConfig;
use crate::support::plugins::Wat;
use crate::support::registry::{Door, RegistryServer};

/// A folder with a component, keys, and the settings to run the binary there.
struct Bench {
    dir: tempfile::TempDir,
    plan: HostConfig,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plan = HostConfig::new(env!("CARGO_BIN_EXE_outbox").as_ref(), dir.path());
        fs::write(dir.path().join("p.wasm"), Wat::default().bytes()).unwrap();
        for name in ["ours", "theirs"] {
            let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
            fs::write(dir.path().join(format!("{name}.key")), pair.sk.to_box(None).unwrap().into_string()).unwrap();
            fs::write(dir.path().join(format!("{name}.pub")), pair.pk.to_box().unwrap().into_string()).unwrap();
        }
        Self { dir, plan }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sign(&self, key: &str) {
        self.plan.json(&["plugin", "sign", "p.wasm", "--key", key, "--json"]);
    }

    fn push(&self, image: &str) -> Value {
        self.plan.json(&["plugin", "push", "p.wasm", image, "--json"])
    }

    fn pull(&self, image: &str) -> Output {
        self.plan.run(&["plugin", "pull", image, "--to", "out"])
    }

    /// Pulling must fail with these words and write nothing.
    fn refuses(&self, image: &str, words: &[&str]) {
        fs::create_dir_all(self.path("out")).unwrap();
        fails(&self.pull(image), words);
        assert_eq!(fs::read_dir(self.path("out")).unwrap().count(), 0, "{image}: something was written");
    }
}

fn fails(output: &Output, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_component_travels_with_its_signature_and_without_its_manifest() {
    let (bench, registry) = (Bench::new(), RegistryServer::start());
    let image = registry.image("team/p:1");
    fs::write(bench.path("p.toml"), "timeout = '9s'").unwrap();
    bench.sign("ours.key");
    let pushed = bench.push(&image);
    assert_eq!(bench.push(&image), pushed, "the same files make the same image");
    let digest = pushed["digest"].as_str().unwrap();
    assert_eq!(pushed["image"], format!("oci://{image}@{digest}"));
    assert_eq!(pushed["signed"], true);

    fs::create_dir(bench.path("out")).unwrap();
    let trusting = bench.plan.clone().set("OUTBOX_PLUGIN_KEYS", "ours.pub");
    for reference in [&image, &format!("oci://{image}"), &registry.image(&format!("team/p@{digest}"))] {
        let pulled = trusting.json(&["plugin", "pull", reference, "--to", "out", "--json"]);
        assert_eq!((&pulled["digest"], &pulled["component"]), (&pushed["digest"], &pushed["component"]));
    }
    for file in ["p.wasm", "p.wasm.minisig"] {
        assert_eq!(fs::read(bench.path("out").join(file)).unwrap(), fs::read(bench.path(file)).unwrap(), "{file}");
    }
    assert_eq!(fs::read_dir(bench.path("out")).unwrap().count(), 2, "the manifest stays with its operator");

    // An unsigned image replaces both files.
    fs::remove_file(bench.path("p.wasm.minisig")).unwrap();
    assert_eq!(bench.push(&image)["signed"], false);
    assert!(bench.pull(&image).status.success());
    assert!(!bench.path("out/p.wasm.minisig").exists());
}

#[tokio::test]
async fn an_image_has_the_types_of_wasm_artifacts() {
    let (bench, registry) = (Bench::new(), RegistryServer::start());
    bench.sign("ours.key");
    bench.push(&registry.image("p:1"));
    let manifest = registry.manifest("p", "1").await;
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
}

#[test]
fn what_no_trusted_key_has_signed_is_neither_written_nor_pushed() {
    let (bench, registry) = (Bench::new(), RegistryServer::start());
    let image = registry.image("p:1");
    let trusting = Bench { plan: bench.plan.clone().set("OUTBOX_PLUGIN_KEYS", "ours.pub"), dir: bench.dir };
    let push = || trusting.plan.run(&["plugin", "push", "p.wasm", &image]);
    fails(&push(), &["it is not signed", "outbox plugin sign"]);
    trusting.sign("theirs.key");
    fails(&push(), &["not among the trusted ones"]);
    let untrusting = trusting.plan.clone().set("OUTBOX_PLUGIN_KEYS", "");
    untrusting.json(&["plugin", "push", "p.wasm", &image, "--json"]);
    trusting.refuses(&image, &["is not written", "not among the trusted ones"]);
    fs::remove_file(trusting.path("p.wasm.minisig")).unwrap();
    untrusting.json(&["plugin", "push", "p.wasm", &image, "--json"]);
    trusting.refuses(&image, &["it is not signed"]);
    trusting.sign("ours.key");
    assert!(push().status.success());
    assert!(trusting.pull(&image).status.success());
}

#[test]
fn a_signature_of_the_command_is_one_that_minisign_makes_and_a_password_may_be_in_a_file() {
    let bench = Bench::new();
    let pair = minisign::KeyPair::generate_encrypted_keypair(Some("hunter2".into())).unwrap();
    fs::write(bench.path("locked.key"), pair.sk.to_box(None).unwrap().into_string()).unwrap();
    fs::write(bench.path("password"), "hunter2\n").unwrap();
    fs::write(bench.path("wrong"), "hunter3\n").unwrap();
    let sign =
        |password: &[&str]| bench.plan.run(&[&["plugin", "sign", "p.wasm", "--key", "locked.key"], password].concat());
    fails(&sign(&["--password-file", "wrong"]), &["locked.key", "does not open it"]);
    fails(&sign(&["--password-file", "none"]), &["the password in none"]);
    assert!(!bench.path("p.wasm.minisig").exists());
    assert!(sign(&["--password-file", "password"]).status.success());
    let signature = minisign::SignatureBox::from_string(&text(&bench.path("p.wasm.minisig"))).unwrap();
    let component = fs::read(bench.path("p.wasm")).unwrap();
    minisign::verify(&pair.pk, &signature, std::io::Cursor::new(component), true, false, false).unwrap();
    fails(&bench.plan.run(&["plugin", "sign", "p.wasm", "--key", "ours.pub"]), &["ours.pub", "no secret key"]);
}

#[tokio::test]
async fn an_image_that_cannot_be_used_is_refused_with_what_is_wrong() {
    let (bench, mut registry) = (Bench::new(), RegistryServer::start());
    let pushed = bench.push(&registry.image("p:good"));
    registry.retag("p", "good", "none", |manifest| manifest["layers"] = json!([])).await;
    registry.retag("p", "good", "text", |manifest| manifest["layers"][0]["mediaType"] = json!("text/plain")).await;
    let twice = |manifest: &mut Value| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"].as_array_mut().unwrap().push(layer);
    };
    registry.retag("p", "good", "two", twice).await;
    registry.index("p", "good", "index").await;
    registry.retag("p", "good", "short", |manifest| manifest["layers"][0]["size"] = json!(7)).await;
    registry.retag("p", "good", "huge", |manifest| manifest["layers"][0]["size"] = json!(1_u64 << 40)).await;

    bench.refuses(&registry.image("p:none"), &["has no component", "no layer"]);
    bench.refuses(&registry.image("p:text"), &["has no component", "text/plain", "outbox plugin push"]);
    bench.refuses(&registry.image("p:two"), &["has 2 components"]);
    bench.refuses(&registry.image("p:index"), &["index of several images"]);
    bench.refuses(&registry.image("p:short"), &["longer than the image says"]);
    bench.refuses(&registry.image("p:huge"), &["134217728 are allowed"]);
    bench.refuses(&registry.image("p:other"), &["no such image", "outbox plugin push"]);
    bench.refuses(&registry.image("q:good"), &["no such image"]);
    let unknown = format!("p@sha256:{}", "0".repeat(64));
    bench.refuses(&registry.image(&unknown), &["no such image"]);

    registry.damage(pushed["component"].as_str().unwrap());
    bench.refuses(&registry.image("p:good"), &["not what its digest says"]);
    registry.stop();
    bench.refuses(&registry.image("p:good"), &["does not answer", "127.0.0.1", "refused"]);
    let push = bench.plan.run(&["plugin", "push", "p.wasm", &registry.image("p:good")]);
    fails(&push, &["does not answer"]);
}

#[test]
fn a_name_or_a_file_that_cannot_be_pushed_is_refused() {
    let (bench, registry) = (Bench::new(), RegistryServer::start());
    let push = |file: &str, image: &str| bench.plan.run(&["plugin", "push", file, image]);
    for image in ["p:1", "127.0.0.1/p", "127.0.0.1/P:1"] {
        assert_eq!(push("p.wasm", image).status.code(), Some(2), "{image}");
    }
    for refused in [&["push", "p.wasm"][..], &["pull"], &["pull", "p.wasm"], &["list"]] {
        for image in ["oci://ada:hunter2@127.0.0.1:5000/p:1", "oci://ada:hun@ter2@127.0.0.1:5000/p:1"] {
            let output = bench.plan.run(&[&["plugin"], refused, &[image]].concat());
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{told}");
            assert!(told.contains("127.0.0.1:5000/p:1") && !told.contains("ter2") && !told.contains("ada"), "{told}");
        }
    }
    let pinned = registry.image(&format!("p@sha256:{}", "0".repeat(64)));
    fails(&push("p.wasm", &pinned), &["under a tag"]);
    fails(&push("ours.pub", &registry.image("p:1")), &["no component of WebAssembly"]);
    fs::write(bench.path("module.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
    fails(&push("module.wasm", &registry.image("p:1")), &["core module"]);
    fails(&push("none.wasm", &registry.image("p:1")), &["none.wasm"]);
}

#[test]
fn a_registry_that_asks_for_credentials_gets_those_of_the_file_of_docker() {
    let (bench, registry) = (Bench::new(), RegistryServer::with(Door::Guarded));
    let image = registry.image("p:1");
    let host = registry.image("");
    let auth = |pair: &str| {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(pair);
        json!({ "auths": { host.trim_end_matches('/'): { "auth": auth } } }).to_string()
    };
    let push = |plan: &HostConfig| plan.run(&["plugin", "push", "p.wasm", &image]);
    fails(&push(&bench.plan), &["asks for credentials", "OUTBOX_REGISTRY_AUTH_FILE"]);
    fs::create_dir(bench.path(".docker")).unwrap();
    fs::write(bench.path(".docker/config.json"), auth("ada:hunter3")).unwrap();
    let at_home = bench.plan.clone().set("HOME", bench.dir.path().to_str().unwrap());
    fails(&push(&at_home), &["asks for credentials", "correct those for", ".docker/config.json"]);
    fs::write(bench.path("auth.json"), auth("ada:hunter2")).unwrap();
    let named = at_home.clone().set("OUTBOX_REGISTRY_AUTH_FILE", "auth.json");
    assert!(push(&named).status.success(), "{:?}", push(&named));
    fs::rename(bench.path("auth.json"), bench.path(".docker/config.json")).unwrap();
    assert!(push(&at_home).status.success());
    fails(&push(&named), &["auth.json", "OUTBOX_REGISTRY_AUTH_FILE"]);
}

#[test]
fn only_loopback_and_registries_that_are_named_are_reached_without_tls() {
    let (bench, plain, encrypted) = (Bench::new(), RegistryServer::start(), RegistryServer::with(Door::Encrypted));
    let push =
        |plan: &HostConfig, registry: &RegistryServer| plan.run(&["plugin", "push", "p.wasm", &registry.image("p:1")]);
    let strict = bench.plan.clone().set("OUTBOX_REGISTRY_HTTP", "never");
    fails(&push(&strict, &plain), &["does not answer"]);
    let named = strict.clone().set("OUTBOX_REGISTRY_HTTP", plain.image("").trim_end_matches('/'));
    assert!(push(&named, &plain).status.success());
    assert!(push(&bench.plan, &plain).status.success());

    fails(&push(&bench.plan, &encrypted), &["127.0.0.1"]);
    fails(&push(&strict, &encrypted), &["does not answer", "certificate"]);
    let authority = encrypted.dir.path().join("authority.crt");
    let believing = strict.set("OUTBOX_CA_FILE", authority.to_str().unwrap());
    let pushed = push(&believing, &encrypted);
    assert!(pushed.status.success(), "{pushed:?}");
    fails(&push(&believing.set("OUTBOX_CA_FILE", "none.pem"), &encrypted), &["none.pem", "OUTBOX_CA_FILE"]);
}
