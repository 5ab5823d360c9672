//! Faults that users would meet, planted in the tables: rows that only a person or a bug writes, forgeries, settings
//! that change under a backlog, many hosts at once, and hosts under a strain from outside. Each test expects that everything
//! else goes on.
//!
//! Costs are counted in rows, calls and transactions where that is possible, because the machine may be busy.

mod backlog;
mod forgeries;
mod held_transactions;
mod host_process;
mod host_wants;
mod last_numbers;
mod long_reader;
mod long_transactions;
mod many_hosts;
mod odd_rows;
mod odd_values;
mod retention;
mod same_file;
mod same_server;
mod small_steps;
mod strain;
mod transaction_sampler;

use std::sync::Arc;
use std::time::Duration;

use outbox::item::Status;
use outbox::store::{Action, Execution, Filter, JobPace, JobState, OperateRequest, Selection, Store};

use crate::support::postgres::Database;
use crate::support::{Fixture, eventually};

/// Closes stores, and waits until the server has added what their connections did to its statistics.
pub(crate) async fn close(database: &Database, stores: Vec<Arc<dyn Store>>) {
    drop(stores);
    let others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outbox'
                  AND datname = current_database()";
    eventually("the connections are closed", Duration::from_secs(30), async || database.sql(others).unwrap() == "0")
        .await;
}

/// The rows and the entries of indexes that the server has read in the tables of the outbox.
pub(crate) fn rows_read(database: &Database) -> f64 {
    let sql = "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE schemaname = 'outbox')
                    + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'outbox')";
    database.sql(sql).unwrap().parse().unwrap()
}

/// An action of an operator on all items with this status.
fn job(action: Action, status: Status) -> OperateRequest {
    OperateRequest {
        action,
        selection: Selection::Filter(Filter { status: vec![status], ..Filter::default() }),
        actor: "ada@host".into(),
        reason: None,
        execution: Execution::Apply,
    }
}

/// Runs a job until it ends or this number of its batches have changed items. The clock advances before each batch, as it
/// does in a process. Returns how many items the job has changed.
async fn run_job(f: &Fixture, request: OperateRequest, changing_batches: u32) -> u64 {
    let mut job = f.store.start_job(&request, JobPace::default()).await.unwrap().unwrap();
    let mut left = changing_batches;
    while left > 0 && job.state == JobState::Running {
        f.clock.advance(Duration::from_millis(5));
        let advanced = f.store.run_job_batch(job.id).await.unwrap().unwrap();
        left -= u32::from(advanced.changed > job.changed);
        job = advanced;
    }
    job.changed
}
