//! What only the implementers of a store need: decisions and words that every engine shares, never SQL statements.
//!
//! An application that uses a store needs nothing of this.

pub mod alerts;
pub mod attempt_record;
pub mod backlog;
pub mod counters;
pub mod descent;
pub mod fair_keys;
pub mod moved_item;
pub mod operate_flow;
pub mod operator_actions;
pub mod retention_look;
pub mod schema_version;
pub mod sql_filter;
pub mod store_failures;
pub mod stored;
pub mod token_bucket;
pub mod type_owners;

pub use crate::audit::{ItemChange, NewAuditEntry, changes_of};
pub use crate::content::{EXAMINED_MAX, StoredContent, too_many_to_examine};
pub use crate::jobs::{ActionOutcomes, BATCH_SIZE, JobBatch, JobProgress, JobStep, JobVerdict, WATCH_PAUSE};
pub use crate::long_poll::{LongPollSlot, long_poll};
pub use crate::look::{KEYS_SORTED_MAX, LOOKED_AT_MAX, LookEnd, READ_MAX, needs_look};
pub use crate::moved_tables::{MOVED_TABLES, MovedTable};
pub use crate::pods::{POD_KEPT, POD_SHOWN, last_sign_of_silent};
pub use crate::rates::{DueKey, RateBucket};
pub use crate::retrying::{RetryingItems, retrying_groups};
pub use crate::stuck::{FailingItem, SilentClaims, StuckItem, WaitingKey, WaitingType, failing_groups};
pub use crate::stuck_breakers::open_breakers;
pub use crate::transfer::{
    ATTEMPT_COLUMNS, BINARY_COLUMNS, COUNTER_COLUMNS, DESCENT_COLUMNS, ENQUEUED_COLUMNS, ITEM_COLUMNS, SAGA_COLUMNS,
    STATE_COLUMNS, from_bytes, integer_column, item_conflict, moved_table, refuse_claimed, refuse_running_job,
    row_conflict, state_conflict, text_column, to_bytes,
};
