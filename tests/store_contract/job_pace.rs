//! The promises of every store about jobs on a random sample, and about jobs that watch their results.

use std::time::Duration;

use outbox::item::{ItemId, Status};
use outbox::store::{Execution, Filter, Job, JobPace, JobState, OperateRequest, Selection};

use super::{REPLAY, operate_request};
use crate::support::{Fixture, dead, done, item};

promises! {
    a_sample_is_chosen_at_random_and_takes_no_other_item
    a_job_that_watches_its_results_stops_when_too_many_items_are_dead_again
    a_job_that_watches_its_results_ends_when_they_are_good_and_waits_for_them
    a_job_that_watches_a_small_group_begins_with_a_third_of_it
}

/// Items in the DLQ.
async fn dead_items(f: &Fixture, count: usize) -> Vec<ItemId> {
    let mut ids = Vec::new();
    for key in 0..count {
        ids.push(f.enqueue(item(&key.to_string())).await);
    }
    settle_all(f, dead).await;
    ids
}

async fn settle_all(f: &Fixture, settled: fn() -> outbox::store::SettleRequest) {
    for claim in f.claim("mail", 1_000).await {
        f.store.settle(&claim.reference(), settled()).await.unwrap();
    }
}

fn of_the_dlq(filter: Filter) -> Selection {
    Selection::Filter(Filter { status: vec![Status::Dlq], ..filter })
}

/// A replay of the DLQ that stops when more than a fifth is dead again.
async fn watched(f: &Fixture) -> Job {
    let pace = JobPace { stop_after: Some(20), ..JobPace::default() };
    let request = operate_request(REPLAY, of_the_dlq(Filter::default()));
    f.store.start_job(&request, pace).await.unwrap().unwrap()
}

async fn step(f: &Fixture, job: &Job) -> Job {
    f.clock.advance(Duration::from_secs(1));
    f.store.run_job_batch(job.id).await.unwrap().unwrap()
}

mod promise {
    use super::*;

    pub(super) async fn a_sample_is_chosen_at_random_and_takes_no_other_item(f: Fixture) {
        let ids = dead_items(&f, 40).await;
        let sample = || of_the_dlq(Filter { sample: Some(5), ..Filter::default() });
        let preview = OperateRequest { execution: Execution::DryRun, ..operate_request(REPLAY, sample()) };
        assert_eq!(f.store.operate(&preview).await.unwrap().changed, 5);
        let report = f.store.operate(&operate_request(REPLAY, sample())).await.unwrap();
        assert_eq!((report.matched, report.changed), (5, 5));
        assert_ne!(report.sample, ids[..5], "chance takes the first five once in 658,008 times");
        let job = f.store.jobs(report.job, 1).await.unwrap().remove(0);
        assert_eq!((job.filter.ids, job.filter.sample), (report.sample.clone(), None));
        for id in ids {
            let expected = if report.sample.contains(&id) { Status::Pending } else { Status::Dlq };
            assert_eq!(f.status(id).await, expected);
        }
        let none = of_the_dlq(Filter { sample: Some(5), r#type: Some("none".into()), ..Filter::default() });
        assert_eq!(f.store.operate(&operate_request(REPLAY, none)).await.unwrap().job, None);
        let large = of_the_dlq(Filter { sample: Some(1_001), ..Filter::default() });
        assert!(f.store.operate(&operate_request(REPLAY, large)).await.is_err());
    }

    pub(super) async fn a_job_that_watches_its_results_stops_when_too_many_items_are_dead_again(f: Fixture) {
        dead_items(&f, 60).await;
        let job = watched(&f).await;
        let first = step(&f, &job).await;
        assert_eq!((first.state, first.changed, first.stop_after), (JobState::Running, 20, Some(20)));
        settle_all(&f, dead).await;
        let stopped = step(&f, &job).await;
        assert_eq!((stopped.state, stopped.changed), (JobState::Stopped, 20));
        assert!(stopped.ended_at.is_some());
        assert_eq!(step(&f, &job).await, stopped, "it does not go on");
        assert_eq!(f.store.overview().await.unwrap().by_status["DLQ"], 60);
    }

    pub(super) async fn a_job_that_watches_its_results_ends_when_they_are_good_and_waits_for_them(f: Fixture) {
        dead_items(&f, 70).await;
        let job = watched(&f).await;
        assert_eq!(step(&f, &job).await.changed, 20);
        let waiting = step(&f, &job).await;
        assert_eq!((waiting.state, waiting.changed), (JobState::Running, 20), "no result is known yet");
        let too_early = f.store.run_job_batch(job.id).await.unwrap().unwrap();
        assert_eq!(too_early, waiting, "it looks again after a pause");
        for expected in [40, 60, 70] {
            settle_all(&f, done).await;
            assert_eq!(step(&f, &job).await.changed, expected);
        }
        assert_eq!(f.store.jobs(Some(job.id), 1).await.unwrap()[0].state, JobState::Done);
    }

    pub(super) async fn a_job_that_watches_a_small_group_begins_with_a_third_of_it(f: Fixture) {
        dead_items(&f, 6).await;
        let job = watched(&f).await;
        assert_eq!(step(&f, &job).await.changed, 2);
        settle_all(&f, dead).await;
        let stopped = step(&f, &job).await;
        assert_eq!((stopped.state, stopped.changed), (JobState::Stopped, 2));
        let again = watched(&f).await;
        for expected in [2, 4, 6] {
            assert_eq!(step(&f, &again).await.changed, expected);
            settle_all(&f, done).await;
        }
        step(&f, &again).await;
        assert_eq!(f.store.jobs(Some(again.id), 1).await.unwrap()[0].state, JobState::Done);
    }
}
