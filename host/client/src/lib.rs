//! Enqueues items inside an application's own transaction.
