//! The offer that stands with the writer: who leaves it, and who takes it up.
//!
//! It knows no worker, nor what makes work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::claim::claim;
use super::step::Step;
use super::writer::{Pending, Task, Work};
use crate::store::offer::{Offered, offer};
use crate::store::{ClaimRequest, Claimed, Offer, StoreError};

/// Where an offer stands until a transaction makes work. There is room for one: of several workers in a process the
/// last has its work brought, and the others look for theirs when something has changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Offers(Arc<Mutex<Option<Offered>>>);

impl Offers {
    /// The claim that was offered, unless it has been withdrawn. `since` is before the transaction that runs it.
    pub(super) fn take_up(&self, since: Instant) -> Option<Box<dyn Work>> {
        let (request, reply) = self.lock().take()?.take_up()?;
        let run = move |step: &mut Step<'_>| claim(step, &request).map(|claimed| (since, claimed));
        Some(Box::new(Task { run, pending: Pending::new("claiming what was offered", reply) }))
    }

    fn leave(&self, request: ClaimRequest) -> Offer {
        let (offer, offered) = offer(request);
        *self.lock() = Some(offered);
        offer
    }

    fn lock(&self) -> MutexGuard<'_, Option<Offered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim that leaves an offer of what it did not get.
pub(super) struct Claiming {
    request: ClaimRequest,
    claimed: Option<Result<Claimed, StoreError>>,
    offers: Offers,
    pending: Pending<(Claimed, Option<Offer>)>,
}

impl Claiming {
    pub(super) fn new(request: ClaimRequest, offers: Offers, pending: Pending<(Claimed, Option<Offer>)>) -> Self {
        Self { request, claimed: None, offers, pending }
    }
}

impl Work for Claiming {
    fn run(&mut self, step: &mut Step<'_>) -> bool {
        self.claimed.insert(claim(step, &self.request)).is_ok()
    }

    /// The offer stands before the worker knows, so that no work comes in between.
    fn answer(self: Box<Self>, committed: Result<(), &str>) {
        let Self { request, claimed, offers, mut pending } = *self;
        let with_offer = |claimed: Claimed| {
            let rest = request.without(&claimed).filter(|_| committed.is_ok());
            let offer = rest.map(|rest| offers.leave(rest));
            (claimed, offer)
        };
        pending.result = claimed.map(|claimed| claimed.map(with_offer));
        pending.answer(committed);
    }
}
