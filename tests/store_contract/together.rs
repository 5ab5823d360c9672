//! The promises of every store to many concurrent callers, whose requests it processes in groups.

use std::time::Duration;

use outbox::core::{HostWrites, Settlement};
use outbox::item::{NewItem, Status};
use outbox::store::{BatchMode, Claim, ClaimRef, ClaimToken, SettleRequest, SignalSeq, Store, StoreError};

use crate::support::{Backend, Fixture, eventually, item, retry, settled};

promises! {
    of_many_that_enqueue_at_once_each_learns_what_became_of_its_own_item
    of_many_that_settle_at_once_each_learns_what_became_of_its_own_claim
    of_two_settlements_of_one_claim_the_one_that_is_accepted_is_stored
    the_steps_of_a_saga_that_end_at_once_are_told_before_its_end
    a_run_whose_last_two_steps_are_settled_at_once_by_two_processes_ends_once
}

fn done(result: &str) -> SettleRequest {
    settled(Settlement::Done { result: Some(result.into()), writes: HostWrites::default() })
}

/// Settles until the settlement has waited for no lock for too long.
async fn settle(store: &dyn Store, claim: &ClaimRef) {
    while let Err(err) = store.settle(claim, done("ok")).await {
        assert!(matches!(err, StoreError::Locked { .. }), "{err}");
    }
}

/// Waits until both processes, which have asked, have come as far as they can beside a transaction that holds the row of
/// their run. On SQLite that is no further: a writer reads nothing before it alone may write.
async fn both_wait(f: &Fixture) {
    if f.backend() == Backend::Sqlite {
        return;
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                   AND datname = current_database()";
    eventually("both wait for the run", Duration::from_mins(1), async || f.sql(waiting).unwrap() == "2").await;
}

mod promise {
    use super::*;

    pub(super) async fn of_many_that_enqueue_at_once_each_learns_what_became_of_its_own_item(f: Fixture) {
        // Each key is enqueued nine times with one content and once with another; the first call decides the content.
        let new = |n: usize| NewItem {
            payload: if n.is_multiple_of(10) { "[]" } else { "{}" }.into(),
            ..item(&(n / 10).to_string())
        };
        let calls = (0..200).map(|n| f.store.enqueue(vec![new(n)], BatchMode::PerItem));
        let results = futures_util::future::join_all(calls).await;
        for (key, results) in results.chunks(10).enumerate() {
            let created: usize = results.iter().flatten().map(|enqueued| enqueued.created).sum();
            assert_eq!(created, 1, "{results:?}");
            let ids = results.iter().map(|result| match result {
                Ok(enqueued) => enqueued.ids[0].unwrap(),
                Err(StoreError::Conflict { first, index: 0, .. }) => *first,
                Err(err) => panic!("{err}"),
            });
            for id in ids {
                assert_eq!(f.item(id).await.idem_key, key.to_string());
            }
            assert!(matches!(results.iter().filter(|result| result.is_err()).count(), 1 | 9), "{results:?}");
        }
    }

    pub(super) async fn of_many_that_settle_at_once_each_learns_what_became_of_its_own_claim(f: Fixture) {
        f.store.enqueue((0..60).map(|n| item(&format!("k{n}"))).collect(), BatchMode::PerItem).await.unwrap();
        let claims = f.claim("mail", 60).await;
        let settle = async |n: usize| {
            let claim = claims[n].reference();
            match n % 10 {
                0 => f.store.settle(&ClaimRef { token: ClaimToken::new(7), ..claim }, done("lost")).await,
                1 => f.store.settle(&claim, retry(Duration::from_secs(1))).await,
                _ => f.store.settle(&claim, done(&n.to_string())).await,
            }
        };
        let results = futures_util::future::join_all((0..60).map(settle)).await;
        for (n, result) in results.into_iter().enumerate() {
            let item = f.item(claims[n].item.id).await;
            let stored = item.result.map(|result| String::from_utf8(result).unwrap());
            let expected = match n % 10 {
                0 => (Status::Claimed, None),
                1 => (Status::Pending, None),
                _ => (Status::Done, Some(n.to_string())),
            };
            assert_eq!((item.status, stored), expected, "{n}: {result:?}");
            assert_eq!(matches!(result, Err(StoreError::ClaimLost)), n % 10 == 0, "{n}: {result:?}");
        }
    }

    pub(super) async fn of_two_settlements_of_one_claim_the_one_that_is_accepted_is_stored(f: Fixture) {
        f.store.enqueue((0..20).map(|n| item(&format!("k{n}"))).collect(), BatchMode::PerItem).await.unwrap();
        let claims: Vec<_> = f.claim("mail", 20).await.iter().map(Claim::reference).collect();
        let calls = claims.iter().flat_map(|claim| ["one", "other"].map(|result| f.store.settle(claim, done(result))));
        let results = futures_util::future::join_all(calls).await;
        for (claim, results) in claims.iter().zip(results.chunks(2)) {
            let accepted = match results {
                [Ok(()), Err(StoreError::ClaimLost)] => "one",
                [Err(StoreError::ClaimLost), Ok(())] => "other",
                both => panic!("{both:?}"),
            };
            assert_eq!(f.item(claim.id).await.result.unwrap(), accepted.as_bytes());
        }
    }

    pub(super) async fn the_steps_of_a_saga_that_end_at_once_are_told_before_its_end(f: Fixture) {
        let cid = |n: usize| Some(format!("c{}", n / 4));
        let step = |n: usize| NewItem { saga: Some("trip".into()), cid: cid(n), ..item(&format!("k{n}")) };
        f.store.enqueue((0..40).map(step).collect(), BatchMode::PerItem).await.unwrap();
        let claims: Vec<_> = f.claim("mail", 40).await.iter().map(Claim::reference).collect();
        let calls = claims.iter().map(|claim| f.store.settle(claim, done("ok")));
        for result in futures_util::future::join_all(calls).await {
            result.unwrap();
        }
        let signals = f.store.signals(SignalSeq::START, 100).await.unwrap();
        for run in 0..10 {
            let of_run = signals.iter().filter(|signal| signal.data["cid"] == format!("c{run}"));
            let told: Vec<_> = of_run.map(|signal| signal.signal.split('.').next().unwrap()).collect();
            assert_eq!(told, ["saga_begin", "saga_step", "saga_step", "saga_step", "saga_step", "saga_end"]);
        }
    }

    pub(super) async fn a_run_whose_last_two_steps_are_settled_at_once_by_two_processes_ends_once(f: Fixture) {
        let step = |key: &str| NewItem { saga: Some("trip".into()), cid: Some("c".into()), ..item(key) };
        f.store.enqueue(vec![step("a"), step("b")], BatchMode::AllOrNothing).await.unwrap();
        let claims = f.claim("mail", 2).await;
        let processes = [f.store.clone(), f.second().await];
        let references: Vec<_> = claims.iter().map(Claim::reference).collect();
        let settling = processes.iter().zip(&references).map(|(store, claim)| settle(&**store, claim));
        let mut settling = std::pin::pin!(futures_util::future::join_all(settling));
        // On PostgreSQL both have taken their steps out of the open ones before either learns of the other. On SQLite
        // both are in their queues, and one of them is the second to write.
        f.in_transaction("UPDATE outbox_sagas SET dead = dead", async || {
            tokio::select! {
                biased;
                _ = &mut settling => panic!("the row of the run is locked"),
                () = both_wait(&f) => {}
            }
        })
        .await;
        settling.await;
        let signals = f.store.signals(SignalSeq::START, 100).await.unwrap();
        let told: Vec<_> = signals.iter().map(|signal| signal.signal.split('.').next().unwrap()).collect();
        assert_eq!(told, ["saga_begin", "saga_step", "saga_step", "saga_end"]);
        assert_eq!(signals[3].data["outcome"], "ok");
        let saga = f.store.overview().await.unwrap().sagas.remove("trip").unwrap();
        assert_eq!((saga.began, saga.ended_ok, saga.ended_err), (1, 1, 0));
        for claim in claims {
            assert_eq!(f.status(claim.item.id).await, Status::Done);
        }
    }
}
