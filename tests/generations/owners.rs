//! Which plugin gets the items of a type, while plugins come, go and are replaced.

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use outbox::core::{OwnersError, PresentPlugin, TypeOwner, TypeOwners};
use outbox::runtime::{ImageDir, PluginSettings};
use outbox::sqlite::{SqliteOptions, SqliteStore};
use outbox::store::engine::type_owners::OWNER_GONE;
use outbox::store::{Control, ControlRequest, Execution, Store};

use super::SOON;
use crate::support::plugins::{PluginHost, Wat};
use crate::support::{TestClock, eventually};

/// The owners of types in the store, connected as a host without a role connects them.
struct StoredOwners(Arc<dyn Store>);

#[async_trait]
impl TypeOwners for StoredOwners {
    async fn exchange(&self, present: &[PresentPlugin]) -> Result<Vec<TypeOwner>, OwnersError> {
        self.0.exchange_owners(None, present).await.map_err(OwnersError::new)
    }
}

#[tokio::test]
async fn a_type_stays_with_its_plugin_over_newcomers_restarts_and_replacements_until_an_operator_switches_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let options = SqliteOptions { clock: clock.source(), ..SqliteOptions::default() };
    let store: Arc<dyn Store> = SqliteStore::open(&dir.path().join("outbox.sqlite"), options).unwrap();
    let owners = Arc::new(StoredOwners(Arc::clone(&store)));
    let wired = |settings: &mut PluginSettings| settings.owners = Arc::clone(&owners) as _;
    let file = || Wat::default().bytes();
    let host = PluginHost::with(wired, |folder| fs::write(folder.join("webhook.wasm"), file()).unwrap()).await;
    assert_eq!(host.status("webhook").types, ["t"]);

    host.put("another.wasm", file());
    let is_refused = |host: &PluginHost| {
        let listed = host.plugins.status();
        listed
            .iter()
            .any(|status| status.name == "another" && status.refused.iter().any(|refused| refused.r#type == "t"))
    };
    host.until("the newcomer", is_refused).await;
    assert!(host.status("another").refused[0].reason.contains("webhook owns it"));
    let restarted = host.again(wired).await;
    assert!(is_refused(&restarted) && restarted.status("webhook").types == ["t"]);

    fs::remove_file(host.path("webhook.wasm")).unwrap();
    host.until("the file is gone", |host| host.types().is_empty()).await;
    assert!(is_refused(&host), "the type is not lost while the file is replaced");
    host.put("webhook.wasm", file());
    host.until("the file is back", |host| host.types() == ["t"]).await;
    assert_eq!(host.status("webhook").types, ["t"]);

    let control = Control::Switch { role: None, item_type: "t".into(), plugin: "another".into() };
    let switch = ControlRequest { control, actor: "ada".into(), reason: None, execution: Execution::Apply };
    store.control(&switch).await.unwrap();
    for host in [&host, &restarted] {
        host.until("the switch", |host| host.status("another").types == ["t"]).await;
        assert!(host.status("webhook").refused[0].reason.contains("another owns it"));
    }

    fs::remove_file(host.path("another.wasm")).unwrap();
    host.until("the owner is gone", |host| host.types().is_empty()).await;
    eventually("the store knows", SOON, async || {
        store.list_owners().await.unwrap().iter().all(|owner| owner.gone_since.is_some())
    })
    .await;
    clock.advance(OWNER_GONE);
    host.until("the type is free", |host| host.status("webhook").types == ["t"]).await;
}

#[tokio::test]
async fn a_file_with_the_name_of_an_image_is_refused_and_the_image_runs_on() {
    let cache = tempfile::tempdir().unwrap();
    let image = cache.path().join("images/p/current");
    fs::create_dir_all(&image).unwrap();
    fs::write(image.join("p.wasm"), Wat::default().bytes()).unwrap();
    let other = || Wat { types: &["q"], ..Wat::default() }.bytes();
    let host = PluginHost::with(
        |settings| {
            let (dir, name) = (image, "p".to_owned());
            let image = ImageDir { dir, name, image: "oci://r.example/p:1".to_owned(), manifests: Vec::new() };
            (settings.cache_dir, settings.image_dirs) = (cache.path().to_owned(), vec![image]);
        },
        |dir| fs::write(dir.join("p.wasm"), other()).unwrap(),
    )
    .await;
    let refusal = |host: &PluginHost| {
        let status = host.plugins.status().into_iter().find(|plugin| plugin.file == host.path("p.wasm"));
        status.and_then(|plugin| plugin.error).unwrap_or_default()
    };
    let names_both = |host: &PluginHost| {
        let file = host.path("p.wasm").display().to_string();
        refusal(host).contains("oci://r.example/p:1") && refusal(host).contains(&file)
    };
    assert!(names_both(&host), "{}", refusal(&host));
    assert_eq!(host.types(), ["t"]);

    // One that comes later changes nothing either.
    fs::remove_file(host.path("p.wasm")).unwrap();
    host.until("the file is gone", |host| refusal(host).is_empty()).await;
    host.put("p.wasm", other());
    host.until("it is refused again", names_both).await;
    assert_eq!(host.types(), ["t"]);
}
