//! The lease book against a simulated store whose answers take long, fail or get lost.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LEASE: Duration = Duration::from_mins(1);
const TOKEN: ClaimToken = ClaimToken::new(1);

fn claim(id: i64) -> ClaimRef {
    ClaimRef { id: ItemId::new(id), token: TOKEN, is_plain: false }
}

/// A book with a lease that was requested at `sent` and has the items 1 to `items`, with their stop tokens.
fn book(sent: Instant, items: i64) -> (LeaseBook, Vec<CancellationToken>) {
    let mut book = LeaseBook::new(LeaseTimes::new(LEASE));
    let stops = (1..=items).map(|id| book.add(&claim(id), sent)).collect();
    (book, stops)
}

fn answer(state: LeaseState) -> Vec<RenewedLease> {
    vec![RenewedLease { token: TOKEN, state }]
}

fn held(ids: &[i64]) -> LeaseState {
    LeaseState::Held { ids: ids.iter().map(|id| ItemId::new(*id)).collect() }
}

fn are_cancelled(stops: &[CancellationToken]) -> Vec<bool> {
    stops.iter().map(CancellationToken::is_cancelled).collect()
}

#[test]
fn an_attempt_is_interrupted_a_margin_before_the_end_of_the_last_lease_known_to_be_held() {
    let sent = Instant::now();
    let (mut book, stops) = book(sent, 2);
    book.begin_attempt(&claim(1), sent, Some(10 * LEASE)).expect("the lease is new");
    book.record_renewals(sent + LEASE / 30, answer(held(&[1, 2])));
    let interruption = book.next_interruption().expect("an attempt runs");
    assert_eq!(interruption, sent + LEASE / 30 + LEASE - Duration::from_secs(5));
    assert!(book.interrupt_unheld(interruption - Duration::from_millis(1)).is_empty());
    assert_eq!(book.interrupt_unheld(interruption).len(), 2);
    assert_eq!(are_cancelled(&stops), [true; 2]);
    assert_eq!((book.interrupt_unheld(interruption), book.next_interruption()), (Vec::new(), None), "once");
    assert_eq!(book.begin_attempt(&claim(2), sent, None), None, "it was interrupted while it waited");
}

#[test]
fn an_item_that_is_in_its_lease_no_more_has_its_attempt_interrupted_at_once() {
    let sent = Instant::now();
    let (mut book, stops) = book(sent, 3);
    book.end_attempt(&claim(3));
    assert_eq!(book.record_renewals(sent, answer(held(&[1]))), [ItemId::new(2)], "3 was settled");
    assert_eq!(are_cancelled(&stops)[..2], [false, true]);
    assert_eq!(book.record_renewals(sent, answer(LeaseState::Gone)), [ItemId::new(1)]);
    assert_eq!(book.renewals(sent), []);
}

#[test]
fn an_item_that_has_waited_a_whole_lease_is_interrupted_although_its_lease_is_renewed() {
    let sent = Instant::now();
    let (mut book, stops) = book(sent, 2);
    book.begin_attempt(&claim(1), sent, Some(10 * LEASE)).expect("the lease is new");
    book.record_renewals(sent + LEASE / 2, answer(held(&[1, 2])));
    assert_eq!(book.next_interruption(), Some(sent + LEASE));
    assert!(book.interrupt_waiting(sent + LEASE - Duration::from_millis(1)).is_empty());
    assert_eq!(book.interrupt_waiting(sent + LEASE), [ItemId::new(2)]);
    assert_eq!(are_cancelled(&stops), [false, true]);
    assert!(book.interrupt_waiting(sent + LEASE).is_empty(), "once");
}

#[test]
fn a_lease_that_another_transaction_works_on_is_as_it_was() {
    let sent = Instant::now();
    let (mut book, stops) = book(sent, 1);
    let before = book.next_interruption();
    assert!(book.record_renewals(sent + LEASE / 3, answer(LeaseState::Busy)).is_empty());
    assert_eq!((book.next_interruption(), are_cancelled(&stops)), (before, vec![false]));
}

#[test]
fn a_lease_is_renewed_for_items_that_wait_run_or_are_settled_but_not_past_the_deadline() {
    let sent = Instant::now();
    let (mut book, _) = book(sent, 1);
    let renewal = [Renewal { token: TOKEN, lease: LEASE }];
    let deadline = book.begin_attempt(&claim(1), sent, Some(LEASE)).expect("the lease is new");
    let overdue = deadline + Duration::from_millis(5_001);
    assert_eq!(book.renewals(overdue - Duration::from_millis(1)), renewal);
    assert_eq!(book.renewals(overdue), []);
    book.end_attempt(&claim(1));
    assert_eq!(book.renewals(overdue), renewal, "it waits for its settlement");
    book.remove(&claim(1));
    assert_eq!(book.renewals(overdue), []);
}

#[test]
fn an_attempt_that_does_not_end_is_taken_out_and_does_not_stop_the_renewal_for_others() {
    let sent = Instant::now();
    let (mut book, _) = book(sent, 2);
    let deadline = book.begin_attempt(&claim(1), sent, None).expect("the lease is new");
    let overdue = deadline + Duration::from_secs(6);
    assert_eq!(book.take_overdue(deadline), []);
    assert_eq!(book.take_overdue(overdue), [claim(1)]);
    assert_eq!(book.take_overdue(overdue), [], "once");
    assert_eq!(book.renewals(overdue).len(), 1);
}

#[test]
fn no_attempt_begins_when_its_lease_was_not_renewed_in_time() {
    let sent = Instant::now();
    let (mut book, _) = book(sent, 1);
    let late = sent + LEASE - Duration::from_secs(6);
    assert_eq!(book.begin_attempt(&claim(1), late, None), None);
    let short = Some(Duration::from_secs(1));
    assert_eq!(book.begin_attempt(&claim(1), late, short), Some(late + Duration::from_secs(1)), "it ends in time");
}

/// What happens next in a simulation. Times are in thousandths of a lease.
#[derive(Clone, Debug)]
enum Step {
    /// A claim of one item, which the store makes after `transit` and answers after as much again.
    Claim { transit: u32 },
    /// The oldest waiting item begins its attempt.
    Begin { timeout: Option<u32> },
    /// A renewal of everything in hand, which the store makes after `transit`.
    Renew { transit: u32, answer: Answer },
    /// The oldest attempt ends and is settled.
    Settle,
    /// Time passes.
    Wait { time: u32 },
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Arrives,
    IsLost,
    IsBusy,
    RequestIsLost,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let transit = prop_oneof![4 => 0u32..20, 1 => 0u32..700];
    let answers = prop_oneof![
        3 => Just(Answer::Arrives),
        1 => Just(Answer::IsLost),
        1 => Just(Answer::IsBusy),
        1 => Just(Answer::RequestIsLost)
    ];
    let step = prop_oneof![
        transit.clone().prop_map(|transit| Step::Claim { transit }),
        proptest::option::of(1u32..4_000).prop_map(|timeout| Step::Begin { timeout }),
        (transit, answers).prop_map(|(transit, answer)| Step::Renew { transit, answer }),
        Just(Step::Settle),
        (0u32..500).prop_map(|time| Step::Wait { time }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A process with a lease book, and the store that it claims from. The store ends each lease at the moment when it runs
/// out, and then another process begins an attempt at the item.
struct Simulation {
    times: LeaseTimes,
    book: LeaseBook,
    now: Instant,
    next_watch: Instant,
    /// The leases that exist at the store, with their ends.
    store: HashMap<ClaimToken, Instant>,
    waiting: Vec<(ClaimRef, CancellationToken)>,
    attempts: Vec<SimulatedAttempt>,
    claims: i64,
}

/// An attempt by a handler that stops only when the worker drops it.
struct SimulatedAttempt {
    claim: ClaimRef,
    stop: CancellationToken,
    dropped_at: Instant,
    is_interrupted: bool,
}

impl Simulation {
    fn new(lease: Duration) -> Self {
        let (times, now) = (LeaseTimes::new(lease), Instant::now());
        let (book, store) = (LeaseBook::new(times), HashMap::new());
        Self { times, book, now, next_watch: now, store, waiting: Vec::new(), attempts: Vec::new(), claims: 0 }
    }

    fn thousandths(&self, count: u32) -> Duration {
        self.times.lease() * count / 1_000
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Claim { transit } => self.claim(self.thousandths(transit)),
            Step::Begin { timeout } => self.begin(timeout.map(|timeout| self.thousandths(timeout))),
            Step::Renew { transit, answer } => self.renew(self.thousandths(transit), answer),
            Step::Settle if self.attempts.is_empty() => {}
            Step::Settle => {
                let SimulatedAttempt { claim, .. } = self.attempts.remove(0);
                self.settle(&claim);
            }
            Step::Wait { time } => self.wait(self.thousandths(time)),
        }
    }

    fn claim(&mut self, transit: Duration) {
        let sent = self.now;
        self.wait(transit);
        self.claims += 1;
        let claim = ClaimRef { id: ItemId::new(self.claims), token: ClaimToken::new(self.claims), is_plain: false };
        self.store.insert(claim.token, self.now + self.times.lease());
        self.wait(transit);
        let stop = self.book.add(&claim, sent);
        self.waiting.push((claim, stop));
    }

    fn begin(&mut self, timeout: Option<Duration>) {
        if self.waiting.is_empty() {
            return;
        }
        let (claim, stop) = self.waiting.remove(0);
        match self.book.begin_attempt(&claim, self.now, timeout) {
            Some(deadline) => {
                assert!(self.store.contains_key(&claim.token), "the lease had ended before the attempt began");
                let dropped_at = deadline + self.times.deadline_grace();
                self.attempts.push(SimulatedAttempt { claim, stop, dropped_at, is_interrupted: false });
            }
            None => self.settle(&claim),
        }
    }

    fn settle(&mut self, claim: &ClaimRef) {
        self.book.end_attempt(claim);
        self.store.remove(&claim.token);
        self.book.remove(claim);
    }

    fn renew(&mut self, transit: Duration, answer: Answer) {
        let sent = self.now;
        let renewals = self.book.renewals(sent);
        self.wait(transit);
        let extended = !matches!(answer, Answer::IsBusy | Answer::RequestIsLost);
        let renewed =
            renewals.iter().map(|renewal| RenewedLease { token: renewal.token, state: self.extend(renewal, extended) });
        let renewed: Vec<_> = renewed.collect();
        self.wait(transit);
        if matches!(answer, Answer::Arrives | Answer::IsBusy) {
            self.book.record_renewals(sent, renewed);
        }
    }

    /// What the store answers to a renewal, which it carries out unless the request was lost.
    fn extend(&mut self, renewal: &Renewal, is_carried_out: bool) -> LeaseState {
        let ids = vec![ItemId::new(renewal.token.get())];
        match self.store.get_mut(&renewal.token) {
            None => LeaseState::Gone,
            Some(_) if !is_carried_out => LeaseState::Busy,
            Some(end) => {
                *end = self.now + renewal.lease;
                LeaseState::Held { ids }
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next_watch <= until {
            self.now = self.next_watch;
            self.book.interrupt_unheld(self.now);
            self.book.interrupt_waiting(self.now);
            self.drop_interrupted();
            let latest = self.now + self.times.watch_period();
            self.next_watch = self.book.next_interruption().map_or(latest, |next| next.min(latest));
        }
        self.now = until;
        self.end_leases();
        self.drop_interrupted();
        let now = self.now;
        let attempts = std::mem::take(&mut self.attempts).into_iter();
        let (ended, running): (Vec<_>, Vec<_>) = attempts.partition(|attempt| attempt.dropped_at <= now);
        self.attempts = running;
        for attempt in &ended {
            self.settle(&attempt.claim);
        }
    }

    /// The worker drops the handlers of interrupted attempts after the grace period.
    fn drop_interrupted(&mut self) {
        let dropped_at = self.now + self.times.interrupt_grace();
        for attempt in self.attempts.iter_mut().filter(|attempt| !attempt.is_interrupted && attempt.stop.is_cancelled())
        {
            attempt.is_interrupted = true;
            attempt.dropped_at = attempt.dropped_at.min(dropped_at);
        }
    }

    /// Ends the leases that have run out. The property: no attempt runs beyond the end of its lease.
    fn end_leases(&mut self) {
        for (token, end) in self.store.extract_if(|_, end| *end <= self.now) {
            for attempt in self.attempts.iter().filter(|attempt| attempt.claim.token == token) {
                assert!(attempt.dropped_at <= end, "two attempts overlap by {:?}", attempt.dropped_at - end);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn two_attempts_at_one_item_never_overlap(lease in 500u64..120_000, steps in steps()) {
        let mut simulation = Simulation::new(Duration::from_millis(lease));
        for step in &steps {
            simulation.take(step);
        }
        simulation.wait(10 * simulation.times.lease());
    }
}
