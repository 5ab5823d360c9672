//! Which plugin owns a type.

use std::time::Duration;

use outbox::core::{PresentPlugin, TypeOwner};
use outbox::store::engine::type_owners::OWNER_GONE;
use outbox::store::{AuditQuery, Control, ControlRequest, Execution};

use crate::support::Fixture;

promises! {
    a_type_stays_with_its_owner_in_every_process_until_the_owner_is_gone_for_long
    an_operator_gives_a_type_to_another_plugin
}

fn present(plugin: &str, types: &[&str]) -> PresentPlugin {
    PresentPlugin { plugin: plugin.into(), types: Some(types.iter().map(|word| (*word).to_owned()).collect()) }
}

fn owned(plugin: &str) -> Vec<TypeOwner> {
    vec![TypeOwner { item_type: "mail".into(), plugin: plugin.into() }]
}

mod promise {
    use super::*;

    pub(super) async fn a_type_stays_with_its_owner_in_every_process_until_the_owner_is_gone_for_long(f: Fixture) {
        let webhook = [present("webhook", &["mail"])];
        let both = [present("another", &["mail"]), present("webhook", &["mail"])];
        let second = f.second().await;
        assert_eq!(f.store.exchange_owners(None, &webhook).await.unwrap(), owned("webhook"));
        assert_eq!(second.exchange_owners(None, &both).await.unwrap(), owned("webhook"), "a newcomer gets nothing");
        assert_eq!(
            second.exchange_owners(Some("vector"), &both).await.unwrap(),
            owned("another"),
            "a role has its own"
        );

        // The owner's file is replaced in two steps, in one process earlier than in the other.
        for _ in 0..3 {
            assert_eq!(f.store.exchange_owners(None, &both[..1]).await.unwrap(), owned("webhook"));
            f.clock.advance(OWNER_GONE.saturating_sub(Duration::from_secs(1)));
            assert_eq!(second.exchange_owners(None, &both).await.unwrap(), owned("webhook"), "it is there");
        }
        assert_eq!(f.store.exchange_owners(None, &both[..1]).await.unwrap(), owned("webhook"));
        assert!(f.store.list_owners().await.unwrap()[0].gone_since.is_some());
        f.clock.advance(OWNER_GONE);
        assert_eq!(second.exchange_owners(None, &both[..1]).await.unwrap(), owned("another"), "it was gone for long");
        assert_eq!(f.store.exchange_owners(None, &both).await.unwrap(), owned("another"));
    }

    pub(super) async fn an_operator_gives_a_type_to_another_plugin(f: Fixture) {
        let both = [present("another", &["mail"]), present("webhook", &["mail"])];
        f.store.exchange_owners(None, &both[1..]).await.unwrap();
        let control = Control::Switch { role: None, item_type: "mail".into(), plugin: "another".into() };
        let (actor, reason) = ("ada@host".to_owned(), Some("the new version".to_owned()));
        let mut switch = ControlRequest { control, actor, reason, execution: Execution::DryRun };
        assert!(f.store.control(&switch).await.unwrap().changed);
        assert_eq!(f.store.exchange_owners(None, &both).await.unwrap(), owned("webhook"));
        switch.execution = Execution::Apply;
        assert!(f.store.control(&switch).await.unwrap().changed);
        assert!(!f.store.control(&switch).await.unwrap().changed, "it owns the type already");
        assert_eq!(f.store.exchange_owners(None, &both).await.unwrap(), owned("another"));
        let audit = f.store.audit(&AuditQuery::default()).await.unwrap();
        assert_eq!((audit.len(), audit[0].action.as_str(), audit[0].actor.as_str()), (1, "switch", "ada@host"));
        let listed = f.store.list_owners().await.unwrap();
        assert_eq!((listed[0].plugin.as_str(), listed[0].r#type.as_str(), &listed[0].role), ("another", "mail", &None));
    }
}
