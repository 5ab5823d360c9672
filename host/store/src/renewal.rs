//! Renewals of leases: what a worker asks for, and what became of each lease.
//!
//! Values only. This file does not know when a worker renews, nor how an engine extends a lease.

use std::time::Duration;

use outbox_item::ItemId;

use crate::ids::ClaimToken;

/// A lease that a worker wants to hold longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The token of the lease.
    pub token: ClaimToken,
    /// How long it shall hold from now.
    pub lease: Duration,
}

/// The answer to one [`Renewal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewedLease {
    /// The token of the lease.
    pub token: ClaimToken,
    /// What became of it.
    pub state: LeaseState,
}

/// What a renewal found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The lease holds for the time that was asked for.
    Held {
        /// The items in it. An item that was claimed with it and is missing has been settled, or an operator took it.
        ids: Vec<ItemId>,
    },
    /// Another transaction works on the lease, which was not extended. The worker asks again soon.
    Busy,
    /// The lease has ended.
    Gone,
}
