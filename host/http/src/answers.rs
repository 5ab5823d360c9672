//! The answers of the HTTP server, as callers read them in JSON.
//!
//! Each answer is made from what the store gave and from what its reader may see. This folder knows no route and asks
//! no store.

mod attempts;
mod audit;
mod cockpit;
mod items;
mod jobs;
mod lists;
mod reports;
mod sight;
mod signals;

pub(crate) use crate::answers::audit::AuditPage;
pub(crate) use crate::answers::cockpit::{CockpitView, violations, with_declared};
pub(crate) use crate::answers::items::{ItemDetailsView, ItemPageView};
pub(crate) use crate::answers::jobs::{JobDetailsView, JobListView, JobView};
pub(crate) use crate::answers::lists::{FailureList, KeyTotalsList, PauseList, StuckList, quotes_content};
pub(crate) use crate::answers::reports::{ControlReportView, MatchingReport, OperateReportView, PreviewView};
pub(crate) use crate::answers::sight::{Sight, Visible};
pub(crate) use crate::answers::signals::SignalView;
