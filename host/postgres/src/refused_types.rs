//! Types whose claims the database refuses: they are left out for a while, so that they do not disturb the claims of
//! other types and the settlements beside them.
//!
//! It does not know why a claim is refused, nor when one is made. Its callers tell it the time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use outbox_item::Millis;
use outbox_store::{ClaimRequest, StuckEntry};

/// A type is left out after this number of refused claims in a row.
const REFUSALS_MAX: u32 = 3;
/// A type that was not refused for so long is no longer stuck: this process does not claim it any more.
const MEMORY: Duration = Duration::from_mins(1);
/// How long a type is left out.
const PAUSE: Duration = Duration::from_secs(1);

/// The refused types of this process.
#[derive(Default)]
pub(crate) struct RefusedTypes {
    by_type: Mutex<HashMap<String, Refusals>>,
}

/// Refused claims of one type, in a row.
struct Refusals {
    count: u32,
    /// The time of the first one.
    since: Millis,
    /// The error of the last one.
    why: String,
    left_out_until: Option<Instant>,
}

/// What is left of a request.
pub(crate) struct AllowedRequest {
    /// The request without the types that are left out.
    pub(crate) request: ClaimRequest,
    /// How long until a type is no longer left out, if any is.
    pub(crate) more_in: Option<Duration>,
}

impl RefusedTypes {
    /// The part of the request that may be made at `now`.
    pub(crate) fn allow(&self, mut request: ClaimRequest, now: Instant) -> AllowedRequest {
        let refused = self.lock();
        let left_out_for = |item_type: &String| {
            let until = refused.get(item_type)?.left_out_until?;
            Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
        };
        let more_in = request.types.iter().filter_map(|terms| left_out_for(&terms.item_type)).min();
        if more_in.is_some() {
            request.types.retain(|terms| left_out_for(&terms.item_type).is_none());
        }
        AllowedRequest { request, more_in }
    }

    /// Records that a claim of the type alone was refused.
    pub(crate) fn record_refusal(&self, item_type: &str, why: &str, at: Millis, now: Instant) {
        let mut refused = self.lock();
        let new = || Refusals { count: 0, since: at, why: String::new(), left_out_until: None };
        let refusals = refused.entry(item_type.to_owned()).or_insert_with(new);
        refusals.count = refusals.count.saturating_add(1);
        why.clone_into(&mut refusals.why);
        refusals.left_out_until = (refusals.count >= REFUSALS_MAX).then(|| now + PAUSE);
    }

    /// Records that the request was answered.
    pub(crate) fn record_success(&self, request: &ClaimRequest) {
        let mut refused = self.lock();
        if !refused.is_empty() {
            refused.retain(|item_type, _| request.types.iter().all(|terms| terms.item_type != *item_type));
        }
    }

    /// The types that are left out again and again.
    pub(crate) fn stuck(&self, now: Instant) -> Vec<StuckEntry> {
        let is_left_out = |refusals: &Refusals| refusals.left_out_until.is_some_and(|until| until + MEMORY > now);
        let refused = self.lock();
        let left_out = refused.iter().filter(|(_, refusals)| is_left_out(refusals));
        left_out.map(|(item_type, refusals)| StuckEntry::refused(item_type, refusals.since, &refusals.why)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Refusals>> {
        self.by_type.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::{CrashBudget, KeyLimits, OnDead, SuspectRoom};
    use outbox_store::{ClaimTerms, ClaimToken, SuspectTerms};

    use super::*;

    fn request(types: &[&str]) -> ClaimRequest {
        let terms = |item_type: &&str| ClaimTerms {
            item_type: (*item_type).to_owned(),
            token: ClaimToken::random(),
            limit: 9,
            lease: PAUSE,
            max_retries: 1,
            concurrency: None,
            rate: None,
            per_key: KeyLimits::default(),
            on_dead: OnDead::Skip,
            streak: 1,
        };
        let suspects = SuspectTerms::new(SuspectRoom::None, CrashBudget::default());
        ClaimRequest { claimed_by: "pod".into(), limit: 9, types: types.iter().map(terms).collect(), suspects }
    }

    fn allowed(refused: &RefusedTypes, now: Instant) -> (Vec<String>, Option<Duration>) {
        let AllowedRequest { request, more_in } = refused.allow(request(&["a", "b"]), now);
        (request.types.into_iter().map(|terms| terms.item_type).collect(), more_in)
    }

    #[test]
    fn a_type_is_left_out_for_a_second_after_three_refusals_in_a_row_and_is_stuck() {
        let (refused, now) = (RefusedTypes::default(), Instant::now());
        for _ in 0..2 {
            refused.record_refusal("a", "a bad row", Millis::new(5), now);
        }
        assert_eq!(allowed(&refused, now), (vec!["a".into(), "b".into()], None));
        assert!(refused.stuck(now).is_empty());
        refused.record_refusal("a", "a bad row", Millis::new(6), now);
        assert_eq!(allowed(&refused, now), (vec!["b".into()], Some(PAUSE)));
        let stuck = refused.stuck(now).remove(0);
        assert_eq!((stuck.r#type.as_deref(), stuck.since), (Some("a"), Millis::new(5)));
        assert_eq!(allowed(&refused, now + PAUSE), (vec!["a".into(), "b".into()], None));
        assert!(refused.stuck(now + PAUSE + MEMORY).is_empty(), "no claim asks for it any more");
    }

    #[test]
    fn a_claim_that_succeeds_ends_the_refusals_of_its_types() {
        let (refused, now) = (RefusedTypes::default(), Instant::now());
        for _ in 0..3 {
            refused.record_refusal("a", "a bad row", Millis::new(5), now);
        }
        refused.record_success(&request(&["b"]));
        assert_eq!(refused.stuck(now).len(), 1);
        refused.record_success(&request(&["a"]));
        assert!(refused.stuck(now).is_empty());
        assert_eq!(allowed(&refused, now).1, None);
    }
}
