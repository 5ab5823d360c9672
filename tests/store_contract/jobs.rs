//! The promises of every store about jobs: actions on many items, in batches.

use std::time::Duration;

use outbox::item::Status;
use outbox::store::{Action, AuditQuery, Control, Job, JobId, JobPace, JobState, LeasePolicy, Store};

use super::orders::{command, dead_items, operate};
use super::{REPLAY, by_status, operate_request};
use crate::support::{Fixture, after_start, dead, item};

promises! {
    a_job_takes_what_was_in_the_state_when_it_began_and_each_item_once
    a_job_takes_items_that_were_claimed_before_it_began_and_none_that_were_claimed_later
    a_job_is_resumed_by_another_process_and_its_count_is_true
    two_processes_that_work_on_one_job_make_each_batch_once
    a_job_keeps_to_its_rate
    a_cancelled_job_changes_nothing_more
}

/// Begins a job about all items of the status.
async fn begin(f: &Fixture, action: Action, status: Status, pace: JobPace) -> Job {
    f.store.start_job(&operate_request(action, by_status(status)), pace).await.unwrap().unwrap()
}

mod promise {
    use super::*;

    pub(super) async fn a_job_takes_what_was_in_the_state_when_it_began_and_each_item_once(f: Fixture) {
        let ids = dead_items(&f, 0..3).await;
        let job = begin(&f, REPLAY, Status::Dlq, JobPace::per_second(1)).await;
        assert_eq!((job.state, job.matched), (JobState::Running, 3));
        f.store.run_job_batch(job.id).await.unwrap();
        assert_eq!(f.status(ids[0]).await, Status::Pending);
        // The first item is dead-lettered again, the last is replayed and dead-lettered again, and a new item is
        // dead-lettered.
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        operate(&f, REPLAY, ids[2]).await.unwrap();
        let claim = f.claim_one("mail").await;
        f.store.settle(&claim.reference(), dead()).await.unwrap();
        let late = dead_items(&f, 10..11).await;
        let ended = drive(&f, &*f.store, job.id).await;
        assert_eq!((ended.state, ended.changed, ended.sample), (JobState::Done, 2, ids[..2].to_vec()));
        assert_eq!((f.status(ids[0]).await, f.item(ids[0]).await.replays), (Status::Dlq, 1));
        assert_eq!((f.status(ids[2]).await, f.item(ids[2]).await.replays), (Status::Dlq, 1));
        assert_eq!(f.status(late[0]).await, Status::Dlq);
    }

    pub(super) async fn a_job_takes_items_that_were_claimed_before_it_began_and_none_that_were_claimed_later(
        f: Fixture,
    ) {
        let [before, later] = [f.enqueue(item("before")).await, f.enqueue(item("later")).await];
        f.claim("mail", 1).await;
        let release = Action::Release { lease: LeasePolicy::Break };
        let job = begin(&f, release, Status::Claimed, JobPace::per_second(1)).await;
        let claim = f.claim_one("mail").await;
        assert_eq!(claim.item.id, later);
        let ended = drive(&f, &*f.store, job.id).await;
        assert_eq!((ended.changed, ended.sample), (1, vec![before]));
        assert_eq!((f.status(before).await, f.status(later).await), (Status::Pending, Status::Claimed));
    }

    pub(super) async fn a_job_is_resumed_by_another_process_and_its_count_is_true(f: Fixture) {
        dead_items(&f, 0..450).await;
        let job = begin(&f, REPLAY, Status::Dlq, JobPace::default()).await;
        let some = f.store.run_job_batch(job.id).await.unwrap().unwrap();
        assert!((1..450).contains(&some.changed), "a batch is a part: {}", some.changed);
        let other = f.second().await;
        other.run_maintenance(&outbox::store::Retention::default()).await.unwrap();
        let ended = other.jobs(Some(job.id), 1).await.unwrap().remove(0);
        assert_eq!((ended.state, ended.changed, ended.refused), (JobState::Done, 450, 0));
        let query = AuditQuery { job: Some(job.id), ..AuditQuery::default() };
        let entries = other.audit(&query).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.count).sum::<u64>(), 450);
        assert_eq!(other.overview().await.unwrap().by_status["PENDING"], 450);
    }

    pub(super) async fn two_processes_that_work_on_one_job_make_each_batch_once(f: Fixture) {
        dead_items(&f, 0..300).await;
        let job = begin(&f, REPLAY, Status::Dlq, JobPace::default()).await;
        let other = f.second().await;
        for _ in 0..4 {
            let (mine, theirs) = tokio::join!(f.store.run_job_batch(job.id), other.run_job_batch(job.id));
            mine.unwrap();
            theirs.unwrap();
        }
        let ended = f.store.jobs(Some(job.id), 1).await.unwrap().remove(0);
        assert_eq!((ended.state, ended.changed), (JobState::Done, 300));
        let total: u64 = f.store.audit(&AuditQuery::default()).await.unwrap().iter().map(|entry| entry.count).sum();
        assert_eq!(total, 300);
    }

    pub(super) async fn a_job_keeps_to_its_rate(f: Fixture) {
        dead_items(&f, 0..7).await;
        let job = begin(&f, REPLAY, Status::Dlq, JobPace::per_second(3)).await;
        for (second, changed) in [(0, 3), (0, 3), (1, 6), (2, 7)] {
            let now = after_start(second * 1000);
            let behind = u64::try_from(now.get() - f.store.now().await.unwrap().get()).unwrap();
            f.clock.advance(Duration::from_millis(behind));
            assert_eq!(f.store.run_job_batch(job.id).await.unwrap().unwrap().changed, changed, "in second {second}");
        }
        assert!(f.store.run_job_batch(JobId::new(99)).await.unwrap().is_none());
    }

    pub(super) async fn a_cancelled_job_changes_nothing_more(f: Fixture) {
        dead_items(&f, 0..2).await;
        let job = begin(&f, REPLAY, Status::Dlq, JobPace::per_second(1)).await;
        f.store.run_job_batch(job.id).await.unwrap();
        f.store.control(&command(Control::Cancel { job: job.id })).await.unwrap();
        f.clock.advance(Duration::from_secs(5));
        let ended = f.store.run_job_batch(job.id).await.unwrap().unwrap();
        assert_eq!((ended.state, ended.changed), (JobState::Cancelled, 1));
        assert!(!f.store.control(&command(Control::Cancel { job: job.id })).await.unwrap().changed);
    }

    /// Runs the batches of a job to its end, one each second of the test's clock.
    async fn drive(f: &Fixture, store: &dyn Store, id: JobId) -> outbox::store::Job {
        loop {
            let job = store.run_job_batch(id).await.unwrap().unwrap();
            if job.state != JobState::Running {
                return job;
            }
            f.clock.advance(Duration::from_secs(1));
        }
    }
}
