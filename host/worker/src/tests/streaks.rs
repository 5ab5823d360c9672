//! Streaks: several items of one ordering key in one claim.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use outbox_core::{Settlement, SpanFact};
use outbox_item::ItemId;

use super::fakes::{Call, FakeQueue, Fault, KeptSpans, LEASE, SlowHandler, StartedWorker};

const SECOND: Duration = Duration::from_secs(1);
const LINE: [ItemId; 4] = [ItemId::new(61), ItemId::new(62), ItemId::new(63), ItemId::new(64)];

/// A worker whose attempts are known to be short, so that it claims ahead.
async fn warm(queue: &Arc<FakeQueue>, handler: &Arc<SlowHandler>) -> StartedWorker {
    warmed(StartedWorker::start(queue, handler), queue, handler).await
}

async fn warmed(worker: StartedWorker, queue: &Arc<FakeQueue>, handler: &Arc<SlowHandler>) -> StartedWorker {
    sleep(SECOND).await;
    assert_eq!(queue.settled().len(), 60);
    queue.state().settlements.clear();
    handler.begun.lock().expect("no panic").clear();
    queue.state().calls.clear();
    worker
}

fn short() -> (Arc<FakeQueue>, Arc<SlowHandler>) {
    (FakeQueue::with_items(60), SlowHandler::taking(Duration::ZERO))
}

/// How each item was settled, in the order of the settlements.
fn settlements(queue: &FakeQueue) -> Vec<(ItemId, &'static str)> {
    let word = |settlement: &Settlement| match settlement {
        Settlement::Done { .. } => "done",
        Settlement::Retry { .. } => "retry",
        Settlement::Release => "release",
        _ => "other",
    };
    queue.state().settlements.iter().map(|(id, settlement)| (*id, word(settlement))).collect()
}

#[tokio::test(start_paused = true)]
async fn the_items_of_a_streak_begin_one_after_the_other_while_the_settlements_before_them_are_under_way() {
    let (queue, handler) = short();
    let worker = warm(&queue, &handler).await;
    queue.set_fault(Call::Settle, Fault::Late(SECOND));
    queue.add_line(61..=64);
    sleep(SECOND / 2).await;
    assert_eq!((handler.begun(), queue.settled(), handler.most_at_once()), (LINE.to_vec(), vec![], 1));
    sleep(SECOND).await;
    assert_eq!(queue.settled(), LINE);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_item_waits_for_the_commit_of_what_the_attempt_before_it_has_written() {
    let (queue, handler) = short();
    let worker = warm(&queue, &handler).await;
    handler.writes.store(true, Ordering::Relaxed);
    queue.set_fault(Call::Settle, Fault::Late(SECOND));
    queue.add_line(61..=64);
    sleep(SECOND / 2).await;
    assert_eq!(handler.begun(), LINE[..1]);
    sleep(4 * SECOND).await;
    assert_eq!((handler.begun(), queue.settled()), (LINE.to_vec(), LINE.to_vec()));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_an_item_that_fails_is_not_begun() {
    let (queue, handler) = short();
    let worker = warm(&queue, &handler).await;
    *handler.fails_at.lock().expect("no panic") = Some(LINE[1]);
    queue.set_fault(Call::Settle, Fault::Late(SECOND));
    queue.add_line(61..=64);
    sleep(SECOND / 2).await;
    assert_eq!(handler.begun(), LINE[..2]);
    queue.set_fault(Call::Claim, Fault::Refused);
    sleep(SECOND).await;
    assert_eq!((settlements(&queue), queue.calls(Call::Settle)), (vec![(LINE[0], "done"), (LINE[1], "retry")], 2));
    assert_eq!(queue.state().waiting.len(), 2, "the store has given them back");
    assert!(queue.state().leases.values().all(|lease| lease.items.is_empty()));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_an_item_whose_settlement_had_no_answer_goes_on_once_the_lease_tells_that_it_is_done() {
    let (queue, handler) = short();
    let worker = warm(&queue, &handler).await;
    queue.set_fault(Call::Settle, Fault::AnswerLost);
    queue.add_line(61..=64);
    sleep(SECOND / 10).await;
    queue.heal();
    queue.set_fault(Call::Claim, Fault::Refused);
    sleep(SECOND).await;
    assert_eq!((handler.begun(), queue.settled()), (LINE.to_vec(), LINE.to_vec()), "no effect is repeated");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_an_item_is_given_back_when_neither_the_settlement_nor_the_lease_has_an_answer() {
    let (queue, handler) = short();
    let worker = warm(&queue, &handler).await;
    queue.set_fault(Call::Settle, Fault::AnswerLost);
    queue.add_line(61..=64);
    sleep(SECOND / 10).await;
    queue.heal();
    queue.set_fault(Call::Claim, Fault::Refused);
    queue.set_fault(Call::Renew, Fault::Refused);
    sleep(SECOND).await;
    assert_eq!(
        (handler.begun(), settlements(&queue)),
        (LINE[..1].to_vec(), vec![(LINE[0], "done"), (LINE[1], "release")])
    );
    assert_eq!(queue.state().waiting.len(), 3);
    queue.heal();
    sleep(SECOND).await;
    assert_eq!(handler.begun(), LINE, "they are claimed again");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_overtakes_the_one_before_it_is_sent_again_after_that() {
    let (queue, handler) = short();
    let worker = warm(&queue, &handler).await;
    handler.set_takes(Duration::from_millis(1));
    queue.set_fault(Call::Settle, Fault::Late(SECOND));
    queue.add_line(61..=64);
    sleep(Duration::from_micros(1500)).await;
    queue.heal();
    sleep(SECOND / 2).await;
    assert_eq!((handler.begun(), queue.settled()), (LINE[..2].to_vec(), vec![]));
    sleep(SECOND).await;
    assert_eq!((handler.begun(), queue.settled()), (LINE.to_vec(), LINE.to_vec()), "no effect is repeated");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_interrupted_when_the_claim_on_an_item_before_it_was_lost() {
    let (queue, handler) = short();
    let worker = warm(&queue, &handler).await;
    queue.set_fault(Call::Settle, Fault::Late(SECOND));
    handler.set_takes(Duration::from_millis(1));
    queue.add_line(61..=64);
    sleep(Duration::from_micros(1500)).await;
    handler.set_takes(LEASE);
    queue.release_by_force(LINE[0]);
    sleep(2 * SECOND).await;
    assert!(handler.interrupted_at(LINE[2]).is_some(), "long before it would learn it from a renewal");
    assert_eq!((queue.settled(), handler.most_at_once()), (vec![], 1));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_given_back_with_the_item_before_it_has_spans_with_an_end() {
    let (queue, handler) = short();
    let spans = Arc::<KeptSpans>::default();
    let worker = StartedWorker::traced(&queue, &handler, Some(Arc::clone(&spans) as _));
    let worker = warmed(worker, &queue, &handler).await;
    spans.0.lock().expect("no panic").clear();
    queue.set_fault(Call::Settle, Fault::LateNever(SECOND));
    handler.set_takes(Duration::from_millis(1));
    queue.add_line(61..=64);
    sleep(Duration::from_micros(500)).await;
    handler.set_takes(LEASE);
    sleep(SECOND / 2).await;
    assert_eq!(handler.begun(), LINE[..2]);
    queue.heal();
    queue.set_fault(Call::Claim, Fault::Refused);
    sleep(SECOND).await;
    let told = spans
        .0
        .lock()
        .expect("no panic")
        .iter()
        .filter_map(|span| {
            let is_given_back = span.facts.contains(&("outbox.item.id", SpanFact::Number(LINE[1].get())));
            is_given_back.then(|| (span.work.as_str(), span.facts.last().cloned()))
        })
        .collect::<Vec<_>>();
    let released = ("outbox.settlement", SpanFact::Text("release".into()));
    assert_eq!(told.iter().map(|(work, _)| *work).collect::<Vec<_>>(), ["wait", "attempt", "settlement"]);
    assert_eq!(told[2].1, Some(released), "no settlement of its own was sent");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_a_streak_back_that_has_not_begun() {
    let (queue, handler) = short();
    let worker = warm(&queue, &handler).await;
    handler.set_takes(LEASE);
    queue.add_line(61..=64);
    sleep(SECOND).await;
    worker.stop().await;
    assert_eq!((handler.begun(), queue.state().waiting.len()), (LINE[..1].to_vec(), 4));
}

#[tokio::test(start_paused = true)]
async fn no_streak_is_claimed_while_attempts_are_long_or_may_not_be_repeated() {
    let (queue, handler) = (FakeQueue::with_items(0), SlowHandler::taking(SECOND));
    let worker = StartedWorker::start(&queue, &handler);
    queue.add_line(61..=64);
    sleep(SECOND / 2).await;
    assert_eq!(queue.state().waiting.len(), 3, "another process can take other keys");
    worker.stop().await;
    let (queue, handler) = (FakeQueue::with_items(60), SlowHandler::with_retries(Duration::ZERO, 0));
    let worker = warm(&queue, &handler).await;
    handler.set_takes(SECOND);
    queue.add_line(61..=64);
    sleep(SECOND / 2).await;
    assert_eq!(queue.state().waiting.len(), 3);
    worker.stop().await;
}
