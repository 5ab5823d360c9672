//! Offers: what a worker could still handle, left with the store until work comes.
//!
//! Without one, work is committed, the worker wakes, and its claim is a commit of its own. With one, the transaction
//! that brings work claims it. It does not know what the work is, nor when the store looks at its offers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::{ClaimRequest, Claimed, StoreError};

/// The worker's end of an offer. Nothing is claimed for one that is dropped.
#[derive(Debug)]
pub struct Offer {
    place: Place,
    answer: Option<oneshot::Receiver<TakenUp>>,
    taken_up: Option<TakenUp>,
}

/// What was claimed for an offer, with an instant at which no lease of it had begun.
pub type TakenUp = Result<(Instant, Claimed), StoreError>;

/// The store's end of an offer.
#[derive(Debug)]
pub(super) struct Offered {
    place: Place,
    reply: oneshot::Sender<TakenUp>,
}

/// Whichever end takes the request out of it decides what becomes of the offer.
type Place = Arc<Mutex<Option<ClaimRequest>>>;

fn take(place: &Place) -> Option<ClaimRequest> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The two ends of an offer to claim this.
pub(super) fn offer(request: ClaimRequest) -> (Offer, Offered) {
    let place = Arc::new(Mutex::new(Some(request)));
    let (reply, answer) = oneshot::channel();
    (Offer { place: Arc::clone(&place), answer: Some(answer), taken_up: None }, Offered { place, reply })
}

impl Offer {
    /// Returns once the store has taken the offer up, which may be never. Safe to cancel.
    pub async fn taken_up(&mut self) {
        if let Some(answer) = &mut self.answer {
            self.taken_up = answer.await.ok();
            self.answer = None;
        }
        if self.taken_up.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes the offer back, and answers what was claimed for it until then, if anything.
    pub async fn withdraw(mut self) -> Option<TakenUp> {
        if take(&self.place).is_none()
            && let Some(answer) = self.answer.take()
        {
            self.taken_up = answer.await.ok();
        }
        self.taken_up.take()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        take(&self.place);
    }
}

impl Offered {
    /// What to claim for the offer, and whom to answer after the commit, unless it has been withdrawn.
    pub(super) fn take_up(self) -> Option<(ClaimRequest, oneshot::Sender<TakenUp>)> {
        Some((take(&self.place)?, self.reply))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request() -> ClaimRequest {
        ClaimRequest { claimed_by: "pod-1".into(), limit: 1, types: Vec::new() }
    }

    #[tokio::test]
    async fn an_offer_that_is_taken_up_tells_what_was_claimed() {
        let (mut offer, offered) = offer(request());
        let (claim, reply) = offered.take_up().expect("it stands");
        assert_eq!(claim, request());
        let since = Instant::now();
        reply.send(Ok((since, Claimed::default()))).expect("the worker waits");
        offer.taken_up().await;
        offer.taken_up().await;
        assert_eq!(offer.withdraw().await.expect("it was taken up").expect("no error"), (since, Claimed::default()));
    }

    #[tokio::test]
    async fn nothing_is_claimed_for_an_offer_that_was_withdrawn_or_dropped() {
        let (offer, offered) = offer(request());
        assert!(offer.withdraw().await.is_none());
        assert!(offered.take_up().is_none());
        let (dropped, offered) = super::offer(request());
        drop(dropped);
        assert!(offered.take_up().is_none());
    }

    #[tokio::test]
    async fn an_offer_that_is_being_taken_up_when_it_is_withdrawn_tells_what_was_claimed() {
        let (offer, offered) = offer(request());
        let (_, reply) = offered.take_up().expect("it stands");
        let withdrawn = tokio::spawn(offer.withdraw());
        reply.send(Ok((Instant::now(), Claimed::default()))).expect("the worker waits");
        assert!(withdrawn.await.expect("no panic").is_some());
    }

    #[tokio::test]
    async fn an_offer_that_the_store_has_dropped_wakes_nobody() {
        let (mut offer, offered) = offer(request());
        drop(offered);
        for _ in 0..2 {
            assert!(tokio::time::timeout(Duration::ZERO, offer.taken_up()).await.is_err());
        }
        assert!(offer.withdraw().await.is_none());
    }
}
