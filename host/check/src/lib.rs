//! Tests and checks handlers away from a host: runs their cases, and crashes them at every call of the host.
//!
//! [`test()`] runs the attempt of each case and compares it with what the case expects. [`check()`] delivers the item
//! of a case repeatedly, ends attempts as a crash of the process would, and compares the effects at the simulated
//! receivers and the rows of the outbox with those of a run without disruption. `docs/testing-handlers.md` states the
//! rules.
//!
//! Both run the component with the code of the host, with simulated receivers and a virtual clock. Neither reaches a
//! network or opens a store.
//!
//! A handler's own test needs one line:
//!
//! ```no_run
//! // The folder holds one component, its manifest and `cases/`.
//! outbox_check::assert_cases("target/plugin");
//! ```
//!
//! A check is asynchronous. It reports findings and does not panic:
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use outbox_check::{CaseProject, CheckOptions, CheckReport, check};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let CaseProject { component, cases, .. } = CaseProject::find(Path::new("target/plugin"))?;
//! let options = CheckOptions { component, cases, ..CheckOptions::default() };
//! let reports = check(&options, Arc::new(|_| {})).await?;
//! assert!(reports.iter().all(CheckReport::has_no_findings));
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

mod call_record;
mod case;
mod case_diff;
mod case_run;
mod case_update;
mod check_report;
mod checker;
mod display;
mod exploration;
mod fault_injector;
mod finding_collector;
mod finding_merge;
mod findings;
mod in_memory_outbox;
mod junit;
mod lookup_probe;
mod receivers;
mod schedule;
mod schedule_enumeration;
mod schedule_id;
mod schedule_story;
mod scheduled_run;
mod script;
mod suite;

pub use crate::check_report::{
    AcceptedFinding, CallLine, CallPosition, CheckReport, Finding, FindingKind, InvalidScheduleId, Note, ScheduleGroup,
    ScheduleId,
};
pub use crate::checker::{CheckOptions, CheckProgress, ProgressFn, check};
pub use crate::in_memory_outbox::{InMemoryClaim, InMemoryOutbox, OutboxSnapshot, SettleError};
pub use crate::junit::junit;
pub use crate::suite::{CaseProject, CaseReport, OnDifference, assert_cases, test};
