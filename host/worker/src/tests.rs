//! The worker with a fake queue and a fake handler. Time is simulated: it moves on when every task waits.

mod fakes;
mod streaks;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use outbox_core::{FailureClass, Settlement};
use outbox_item::{ItemId, Millis};
use outbox_sqlite::{SqliteOptions, SqliteStore};
use outbox_store::{Claim, ClaimToken};

use crate::LeaseExpiry;
use crate::lease_keeper::LeaseKeeper;
use crate::leases_in_hand::LeasesInHand;
use fakes::{Call, FakeLease, FakeQueue, Fault, LEASE, MARGIN, SlowHandler, StartedWorker, claimed};

const ONE: ItemId = ItemId::new(1);
const TWO: ItemId = ItemId::new(2);

/// The items whose attempts have begun.
fn ids(handler: &SlowHandler) -> Vec<i64> {
    handler.begun().iter().map(|id| id.get()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_long_attempt_outlives_several_leases() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(5 * LEASE));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(5 * LEASE + Duration::from_secs(1)).await;
    assert_eq!((queue.settled(), handler.begun()), (vec![ONE], vec![ONE]));
    assert!(queue.state().lost.is_empty());
    let renewals = queue.calls(Call::Renew);
    assert!(renewals >= 14, "every third of a lease: {renewals}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn renewals_that_fail_interrupt_the_attempt_before_the_lease_ends() {
    for fault in [Fault::Refused, Fault::AnswerLost] {
        let begun = Instant::now();
        let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(5 * LEASE));
        queue.set_fault(Call::Renew, fault);
        let worker = StartedWorker::start(&queue, &handler);
        sleep(LEASE.saturating_sub(Duration::from_secs(1))).await;
        let interrupted_at = handler.interrupted_at(ONE).expect("it was interrupted").duration_since(begun);
        assert!(interrupted_at.abs_diff(LEASE.saturating_sub(MARGIN)) < Duration::from_millis(5), "{interrupted_at:?}");
        assert_eq!(queue.state().settlements[0], (ONE, Settlement::Release), "{fault:?}: not counted");
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn renewals_that_come_through_before_the_margin_keep_the_attempt() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(2 * LEASE));
    queue.set_fault(Call::Renew, Fault::Refused);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(LEASE.saturating_sub(MARGIN + Duration::from_secs(1))).await;
    queue.heal();
    sleep(2 * LEASE).await;
    assert_eq!((queue.settled(), handler.begun()), (vec![ONE], vec![ONE]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_operators_release_interrupts_its_attempt_and_no_other() {
    let (queue, handler) = (FakeQueue::with_items(2), SlowHandler::taking(2 * LEASE));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(1)).await;
    queue.release_by_force(ONE);
    sleep(LEASE / 3).await;
    assert!(handler.interrupted_at(ONE).is_some());
    sleep(2 * LEASE).await;
    assert_eq!((queue.settled(), handler.interrupted_at(TWO)), (vec![TWO], None));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_fails_for_almost_a_lease_succeeds_later() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(LEASE / 2));
    queue.set_fault(Call::Settle, Fault::Refused);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(LEASE + LEASE / 3).await;
    assert_eq!((queue.settled(), queue.state().lost.len()), (vec![], 0), "its lease is renewed");
    queue.heal();
    sleep(Duration::from_secs(2)).await;
    assert_eq!((queue.settled(), handler.begun()), (vec![ONE], vec![ONE]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_settlement_whose_answer_was_lost_is_repeated_and_made_once() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Settle, Fault::AnswerLost);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(2 * LEASE).await;
    assert_eq!((queue.settled(), handler.begun()), (vec![ONE], vec![ONE]));
    assert_eq!((queue.calls(Call::Settle), worker.leases.tokens()), (2, vec![]), "no more than needed");
    assert!(queue.state().lost.is_empty());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_the_store_cannot_commit_is_given_up_after_a_lease() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Settle, Fault::Refused);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(LEASE).await;
    assert_eq!(worker.leases.tokens().len(), 1);
    sleep(LEASE / 2).await;
    assert_eq!(worker.leases.tokens(), [], "nobody renews its lease");
    sleep(LEASE).await;
    assert_eq!((queue.state().lost.len(), handler.begun()), (1, vec![ONE, ONE]), "it is attempted again");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_settlement_ends_its_attempt_only_and_the_item_is_attempted_again_after_its_lease() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Settle, Fault::Panic);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(2)).await;
    queue.heal();
    assert_eq!(worker.leases.tokens(), [], "nobody renews its lease");
    queue.add_items(2..=2);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((queue.settled(), queue.state().lost.len()), (vec![TWO], 0), "others go on");
    sleep(LEASE).await;
    assert_eq!((queue.settled(), handler.begun()), (vec![TWO, ONE], vec![ONE, TWO, ONE]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_waits_for_another_transaction_is_never_given_up() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Settle, Fault::Locked);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(4 * LEASE).await;
    assert_eq!((queue.settled(), queue.state().lost.len()), (vec![], 0), "its lease is renewed");
    queue.heal();
    sleep(Duration::from_secs(2)).await;
    assert_eq!((queue.settled(), handler.begun()), (vec![ONE], vec![ONE]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_settlement_is_not_given_up_while_the_store_is_out_of_reach() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_millis(100)).await;
    for call in [Call::Settle, Call::Renew, Call::Claim] {
        queue.set_fault(call, Fault::Refused);
    }
    sleep(4 * LEASE).await;
    let tries = queue.calls(Call::Settle);
    sleep(LEASE).await;
    assert!(queue.calls(Call::Settle) > tries, "the next try may succeed");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_settlements_that_keep_failing() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Settle, Fault::Refused);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(2)).await;
    worker.stop().await;
    let renewals = queue.calls(Call::Renew);
    sleep(2 * LEASE).await;
    assert_eq!((queue.calls(Call::Renew), queue.state().lost.len()), (renewals, 1), "its lease ended");
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_abandoned_and_made_again() {
    let begun = Instant::now();
    let (queue, handler) = (FakeQueue::with_items(2), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Claim, Fault::AnswerLost);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(queue.state().abandoned, 2);
    queue.heal();
    while queue.settled().len() < 2 {
        assert!(begun.elapsed() < LEASE / 2, "they do not wait for the end of their lease");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(queue.state().lost.len(), 0);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_host_cannot_stop_is_given_back_without_counting() {
    let queue = FakeQueue::with_items(1);
    let leases = LeasesInHand::new(LEASE);
    let keeper = LeaseKeeper::new(Arc::clone(&queue) as _, leases.clone());
    let keeper = tokio::spawn(async move { keeper.run().await });
    queue.state().waiting[0].claimed_at = Some(Millis::default());
    let item = claimed(queue.state().waiting.remove(0));
    let claim = Claim { item: item.clone(), token: ClaimToken::random() };
    queue.state().leases.insert(claim.token, FakeLease { end: Instant::now() + LEASE, items: vec![item] });
    let in_hand = leases.take(&[claim], Instant::now());
    in_hand[0].begin_attempt(Instant::now(), Some(3 * LEASE)).expect("the lease is new");
    sleep(3 * LEASE).await;
    assert_eq!((queue.settled(), leases.tokens().len()), (vec![], 1));
    sleep(LEASE).await;
    let [(ONE, Settlement::GiveBack { failure, .. })] = &queue.state().settlements[..] else { panic!("no give-back") };
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Host, "host.overdue"));
    assert!(leases.tokens().is_empty(), "nobody spares it any more");
    keeper.abort();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_without_an_answer_does_not_hold_up_the_next() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(3 * LEASE));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(1)).await;
    queue.set_fault(Call::Renew, Fault::NoAnswer);
    sleep(LEASE / 3).await;
    queue.heal();
    sleep(3 * LEASE).await;
    assert_eq!((queue.settled(), handler.begun()), (vec![ONE], vec![ONE]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_transaction_works_on_is_asked_for_again_soon() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(LEASE));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_millis(1)).await;
    queue.state().busy_renewals = 1;
    while queue.state().busy_renewals > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let renewals = queue.calls(Call::Renew);
    sleep(LEASE / 20).await;
    assert_eq!(queue.calls(Call::Renew), renewals + 1);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_the_task_that_keeps_leases_interrupts_every_attempt() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(5 * LEASE));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(1)).await;
    queue.set_fault(Call::Renew, Fault::Panic);
    assert!(worker.task.await.expect_err("it goes on").is_panic());
    sleep(Duration::from_secs(1)).await;
    assert!(handler.interrupted_at(ONE).is_some());
    assert_eq!(queue.settled(), [ONE]);
}

#[tokio::test(start_paused = true)]
async fn an_item_that_has_waited_a_whole_lease_is_released_and_not_claimed_ahead_again() {
    let (queue, handler) = (FakeQueue::with_items(60), SlowHandler::taking(Duration::ZERO));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(queue.settled().len(), 60, "attempts are short: the worker claims ahead");
    handler.set_takes(10 * LEASE);
    queue.add_items(61..=68);
    sleep(LEASE / 2).await;
    assert_eq!((queue.state().waiting.len(), handler.begun().len()), (0, 64));
    sleep(LEASE).await;
    let is_release = |settlement: &(ItemId, Settlement)| settlement.1 == Settlement::Release;
    let releases = |queue: &FakeQueue| queue.state().settlements.iter().filter(|settled| is_release(settled)).count();
    assert_eq!((releases(&queue), queue.state().waiting.len()), (4, 4), "another process can take them");
    sleep(3 * LEASE).await;
    assert_eq!((releases(&queue), handler.begun().len()), (4, 64));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_type_without_retries_is_not_claimed_ahead() {
    let (queue, handler) = (FakeQueue::with_items(60), SlowHandler::with_retries(Duration::ZERO, 0));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(1)).await;
    handler.set_takes(LEASE / 2);
    queue.add_items(61..=68);
    sleep(LEASE / 4).await;
    assert_eq!((queue.state().waiting.len(), handler.begun().len()), (4, 64), "what is claimed has begun");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn suspects_run_in_small_company_and_others_beside_them() {
    let (queue, handler) = (FakeQueue::with_items(0), SlowHandler::taking(Duration::from_secs(2)));
    for id in 1..=3 {
        queue.add_suspect(id, 2);
    }
    queue.add_items(4..=5);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(ids(&handler), [1, 2, 4, 5], "two suspects at a time");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(ids(&handler), [1, 2, 4, 5, 3]);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_must_be_alone_waits_for_an_idle_worker_and_nothing_begins_beside_it() {
    let (queue, handler) = (FakeQueue::with_items(2), SlowHandler::taking(Duration::from_secs(3)));
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_millis(100)).await;
    queue.add_suspect(3, 3);
    sleep(Duration::from_secs(2)).await;
    queue.add_items(4..=5);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(ids(&handler), [1, 2], "the worker drains");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(ids(&handler), [1, 2, 3]);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(ids(&handler), [1, 2, 3, 4, 5], "it goes on");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn other_items_have_their_turn_between_two_suspects_that_must_be_alone() {
    let (queue, handler) = (FakeQueue::with_items(0), SlowHandler::taking(Duration::from_secs(2)));
    queue.add_suspect(1, 4);
    queue.add_suspect(2, 3);
    queue.add_items(3..=3);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_secs(12)).await;
    assert_eq!((ids(&handler), queue.settled().len()), (vec![1, 3, 2], 3));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn giving_back_what_was_claimed_without_an_answer_is_tried_until_it_succeeds() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Claim, Fault::AnswerLost);
    queue.set_fault(Call::Abandon, Fault::Refused);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(LEASE / 2).await;
    assert_eq!(queue.state().abandoned, 0);
    let held = *queue.state().leases.keys().next().expect("it was claimed");
    assert!(worker.leases.tokens().contains(&held), "nobody here ends it");
    queue.state().faults.remove(&Call::Abandon);
    sleep(Duration::from_secs(1)).await;
    assert!(queue.state().abandoned > 0);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_back_what_was_claimed_without_an_answer() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Claim, Fault::AnswerLost);
    queue.set_fault(Call::Abandon, Fault::Refused);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_millis(100)).await;
    queue.state().faults.remove(&Call::Abandon);
    worker.stop().await;
    assert_eq!(queue.state().abandoned, 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_a_second_for_a_store_that_does_not_answer() {
    let (queue, handler) = (FakeQueue::with_items(1), SlowHandler::taking(Duration::from_secs(1)));
    queue.set_fault(Call::Claim, Fault::AnswerLost);
    queue.set_fault(Call::Abandon, Fault::NoAnswer);
    let worker = StartedWorker::start(&queue, &handler);
    sleep(Duration::from_millis(100)).await;
    worker.stop().await;
}

/// A look for leases that have run out, by a clock that goes like the monotonic one.
fn expiry(queue: &Arc<FakeQueue>, in_hand: LeasesInHand) -> LeaseExpiry {
    let start = Instant::now();
    let clock = Arc::new(move || Millis::default().saturating_add(start.elapsed()));
    let folder = tempfile::tempdir().expect("a folder");
    let options = SqliteOptions { clock, ..SqliteOptions::default() };
    let store = SqliteStore::open(&folder.path().join("outbox.sqlite"), options).expect("a store");
    LeaseExpiry { queue: Arc::clone(queue) as _, clock: store, in_hand: Some(in_hand), lease: LEASE }
}

#[tokio::test(start_paused = true)]
async fn a_process_ends_no_lease_that_it_has_in_hand_and_none_at_all_before_the_others_could_renew_theirs() {
    let (queue, leases) = (FakeQueue::with_items(1), LeasesInHand::new(LEASE));
    let claim = Claim { item: claimed(queue.state().waiting.remove(0)), token: ClaimToken::random() };
    let in_hand = leases.take(std::slice::from_ref(&claim), Instant::now());
    let looks = tokio::spawn(expiry(&queue, leases.clone()).run(CancellationToken::new()));
    sleep((LEASE / 2).saturating_sub(Duration::from_millis(1))).await;
    assert_eq!(queue.state().expired_by, None, "the clock may have been moved just before the start");
    sleep(LEASE).await;
    assert_eq!(queue.state().spared, [claim.token], "its lease has run out and may be renewed all the same");
    let judged = queue.state().expired_by.expect("it looks each second");
    assert_eq!(judged, Millis::new(14_000), "what the watch has judged");
    drop(in_hand);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(queue.state().spared, []);
    looks.abort();
}

#[tokio::test(start_paused = true)]
async fn one_look_ends_all_leases_of_a_process_that_died() {
    let queue = FakeQueue::with_items(0);
    queue.state().expired_left = 64;
    let looks = tokio::spawn(expiry(&queue, LeasesInHand::new(LEASE)).run(CancellationToken::new()));
    sleep(LEASE / 2).await;
    assert_eq!(queue.state().expired_left, 64);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(queue.state().expired_left, 0);
    looks.abort();
}
