//! All breakers of a process: what the worker claims, what the runtime sends, and what operators see of them.
//!
//! The host gives one value to the worker and to the plugins. Time is an argument.

use std::sync::Arc;

use tokio::time::Instant;

use outbox_item::Item;

use crate::breaker::attempt_origins::AttemptOrigins;
use crate::breaker::of_types::TypeBreakers;
use crate::breaker::origins::{BreakerNews, OriginBreakers};
use crate::breaker::status::BreakerStatus;
use crate::handler::ServedType;
use crate::settlement::Settlement;

/// The breakers of a process: those of origins, and those of types in manifests.
#[derive(Clone, Debug, Default)]
pub struct Breakers {
    types: Arc<TypeBreakers>,
    origins: Arc<OriginBreakers>,
}

impl Breakers {
    /// The requests of an attempt at the item, which go through the breakers of their origins.
    pub fn attempt(&self, item: &Item) -> AttemptOrigins {
        AttemptOrigins::new(Arc::clone(&self.origins), &item.item_type, item.id)
    }

    /// The most items of the type that may be claimed at `now` by a worker that has so many of them in hand.
    pub fn claim_limit(&self, served_type: &ServedType, in_hand: usize, now: Instant) -> u32 {
        let in_hand = u32::try_from(in_hand).unwrap_or(u32::MAX);
        let at_once = self.origins.at_once(&served_type.item_type, now).map(|most| most.saturating_sub(in_hand));
        self.types.claim_limit(served_type, now).min(at_once.unwrap_or(u32::MAX))
    }

    /// Forgets which origin the type calls, for a plugin that uses no breakers of origins.
    pub fn forget_origin(&self, item_type: &str) {
        self.origins.forget(item_type);
    }

    /// Records that an item of the type was claimed.
    pub fn item_claimed(&self, served_type: &ServedType) {
        self.types.item_claimed(served_type);
    }

    /// Records how an attempt was settled. Returns true when that opened the breaker of the type.
    pub fn attempt_settled(&self, served_type: &ServedType, settlement: &Settlement, now: Instant) -> bool {
        self.types.attempt_settled(served_type, settlement, now)
    }

    /// The breakers that are not closed, those of origins first.
    pub fn status(&self, now: Instant) -> Vec<BreakerStatus> {
        [self.origins.status(now), self.types.status(now)].concat()
    }

    /// What has happened to breakers of origins since the last call.
    pub fn take_news(&self) -> Vec<BreakerNews> {
        self.origins.take_news()
    }
}
