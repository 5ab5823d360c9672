//! The routes of actions: one for each action on one item, and one for each on all items that match.
//!
//! What an action does is in `operate.rs`.

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;

use crate::answers::{JobView, MatchingReport, OperateReportView};
use crate::operate::{OperateBody, Order, operate_matching, operate_one};
use crate::problem::ApiError;

/// Declares the route of an action on one item. `$example` is an item of the tests that can take it.
macro_rules! on_one {
    ($(#[$about:meta])* $name:ident $word:tt $path:tt $example:tt) => {
        $(#[$about])*
        #[utoipa::path(post, path = $path, tag = "actions",
            params(("id" = String, Path, description = "The id or the idempotency key", example = $example)),
            request_body = OperateBody,
            responses((status = 200, description = "What was changed", body = OperateReportView)))]
        pub(crate) async fn $name(
            id: Result<Path<String>, PathRejection>,
            order: Order,
        ) -> Result<Json<OperateReportView>, ApiError> {
            operate_one(order, $word, id?.0).await
        }
    };
}

/// Declares the route of an action on all items that match.
macro_rules! on_all {
    ($(#[$about:meta])* $name:ident $word:tt $path:tt) => {
        $(#[$about])*
        #[utoipa::path(post, path = $path, tag = "actions", request_body = OperateBody, responses(
            (status = 200, description = "What was changed, or what would be: a dry run with a filter adds `count`, \
             `as_of` and `confirm`", body = MatchingReport),
            (status = 202, description = "The job, which goes on in the background", body = JobView)))]
        pub(crate) async fn $name(order: Order) -> Result<Response, ApiError> {
            operate_matching(order, $word).await
        }
    };
}

on_one! {
    /// Start a new life of a DLQ or DONE item
    replay_item "replay" "/items/{id}/replay" "1"
}
on_one! {
    /// Dead-letter a PENDING or CLAIMED item
    dead_item "dead" "/items/{id}/dead" "2"
}
on_one! {
    /// Take back an operator's dead-lettering
    restore_item "restore" "/items/{id}/restore" "5"
}
on_one! {
    /// Move the time before which a PENDING item is not claimed
    reschedule_item "reschedule" "/items/{id}/reschedule" "2"
}
on_one! {
    /// End the claim of a CLAIMED item
    release_item "release" "/items/{id}/release" "3"
}
on_all! {
    /// Start a new life of all DLQ or DONE items that match
    replay_items "replay" "/items:replay"
}
on_all! {
    /// Dead-letter all PENDING or CLAIMED items that match
    dead_items "dead" "/items:dead"
}
on_all! {
    /// Take back an operator's dead-lettering of all items that match
    restore_items "restore" "/items:restore"
}
on_all! {
    /// Move the time before which the PENDING items that match are not claimed
    reschedule_items "reschedule" "/items:reschedule"
}
on_all! {
    /// End the claims of all CLAIMED items that match
    release_items "release" "/items:release"
}
on_all! {
    /// Delete the DONE or DLQ items that match, with their history
    purge_items "purge" "/items:purge"
}
