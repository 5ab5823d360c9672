//! Handlers away from their host: their cases run and compared, and their crashes tried one by one.
//!
//! [`test()`] makes the one attempt that a case is about and compares it with what the case expects.
//! [`check()`] delivers the item of a case again and again, ends attempts at every call of
//! the host as a crash of the process would, and compares what receivers and the outbox have in the end
//! with what they have without a crash. What it holds against a handler is written down in
//! `docs/testing-handlers.md`.
//!
//! Both run the component by the code that a host runs it by. Neither reaches a network, reads a clock or
//! opens a store.

mod case;
mod case_diff;
mod case_run;
mod case_update;
mod checker;
mod fault_injector;
mod findings;
mod in_memory_outbox;
mod receivers;
mod schedule;
mod scheduled_run;
mod script;
mod suite;

pub use crate::case::Case;
pub use crate::checker::{CallLine, CheckOptions, CheckReport, ProgressFn, ScheduleGroup, check};
pub use crate::findings::{Finding, FindingKind, Note};
pub use crate::in_memory_outbox::{InMemoryClaim, InMemoryOutbox, OutboxSnapshot, SettleError};
pub use crate::suite::{CaseProject, CaseReport, OnDifference, assert_cases, junit, test};
