//! The promises of every store about the figures of each minute.

use std::time::Duration;

use outbox::item::{Millis, NewItem};
use outbox::store::{HistoryMinute, LatencyBins, MinuteFigures, OTHER_TYPES, Retention, TYPES_MAX};

use crate::support::{Fixture, START, after_start, item};

promises! {
    what_processes_add_in_a_minute_is_one_sum_which_outlives_them
    a_row_that_was_changed_by_hand_stops_nothing
    the_upkeep_writes_down_once_in_a_minute_how_much_waits
    types_without_end_that_wait_make_a_bounded_number_of_rows
    old_minutes_go_in_bounded_steps_and_only_where_retention_asks
}

fn row(minute: Millis, item_type: &str, done: u64, took: &[u64]) -> HistoryMinute {
    let mut latency = LatencyBins::default();
    for took in took {
        latency.count(Duration::from_millis(*took));
    }
    let (failed, dead, given_back) = (2 * done, 3 * done, 4 * done);
    let figures = MinuteFigures { done, failed, dead, given_back, waiting: done, latency };
    HistoryMinute { minute, item_type: item_type.into(), figures }
}

mod promise {
    use super::*;

    pub(super) async fn what_processes_add_in_a_minute_is_one_sum_which_outlives_them(f: Fixture) {
        let second = f.second().await;
        let later = after_start(60_000);
        f.store.add_history(&[row(START, "mail", 1, &[5, 900]), row(later, "mail", 7, &[])]).await.unwrap();
        second.add_history(&[row(START, "sms", 1, &[1]), row(START, "mail", 3, &[5, 70_000])]).await.unwrap();
        f.store.add_history(&[]).await.unwrap();
        drop(second);
        let again = f.another().await;
        let mut mail = row(START, "mail", 4, &[5, 900, 5, 70_000]);
        mail.figures.waiting = 3;
        let expected = [mail, row(START, "sms", 1, &[1]), row(later, "mail", 7, &[])];
        assert_eq!(again.store.history(START).await.unwrap(), expected);
        assert_eq!(again.store.history(later).await.unwrap(), expected[2..]);
        assert_eq!(again.store.history(after_start(60_001)).await.unwrap(), []);
    }

    pub(super) async fn a_row_that_was_changed_by_hand_stops_nothing(f: Fixture) {
        f.store.add_history(&[row(START, "mail", 1, &[5])]).await.unwrap();
        let odd = if f.backend() == crate::support::Backend::Sqlite { "'{\"a\": 1}'" } else { "'{-1, NULL, 7}'" };
        f.sql(&format!("UPDATE outbox_history_minutes SET done = -5, latency = {odd}")).unwrap();
        f.store.history(START).await.unwrap();
        f.store.add_history(&[row(START, "mail", 9, &[5])]).await.unwrap();
        assert_eq!(f.store.history(START).await.unwrap()[0].figures.done, 4);
    }

    pub(super) async fn the_upkeep_writes_down_once_in_a_minute_how_much_waits(f: Fixture) {
        let upkeep = async || f.store.run_maintenance(&Retention::default()).await.unwrap();
        upkeep().await;
        assert_eq!(f.store.history(START).await.unwrap(), [], "nothing waits");
        f.enqueue(item("a")).await;
        f.enqueue(NewItem { delay: Duration::from_hours(1), ..NewItem::new("sms", "b", "{}") }).await;
        upkeep().await;
        f.enqueue(item("c")).await;
        upkeep().await;
        f.clock.advance(Duration::from_mins(1));
        upkeep().await;
        let rows = f.store.history(START).await.unwrap();
        let waiting: Vec<_> =
            rows.iter().map(|row| (row.minute, row.item_type.as_str(), row.figures.waiting)).collect();
        let next = after_start(60_000);
        assert_eq!(waiting, [(START, "mail", 1), (START, "sms", 1), (next, "mail", 2), (next, "sms", 1)]);
    }

    pub(super) async fn types_without_end_that_wait_make_a_bounded_number_of_rows(f: Fixture) {
        f.enqueue(item("twice")).await;
        f.sql(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300)
             INSERT INTO outbox_items (type, idem_key, payload)
             SELECT 't' || n, 'k' || n, '{}' FROM numbers",
        )
        .unwrap();
        f.enqueue(item("again")).await;
        f.store.run_maintenance(&Retention::default()).await.unwrap();
        let rows = f.store.history(START).await.unwrap();
        assert_eq!(rows.len(), TYPES_MAX + 1);
        let of = |name: &str| rows.iter().find(|row| row.item_type == name).unwrap().figures.waiting;
        assert_eq!((of("mail"), of(OTHER_TYPES)), (2, 201));
    }

    pub(super) async fn old_minutes_go_in_bounded_steps_and_only_where_retention_asks(f: Fixture) {
        let rows: Vec<_> = (0..600).map(|minute| row(after_start(minute * 60_000), "mail", 1, &[])).collect();
        f.store.add_history(&rows).await.unwrap();
        f.clock.advance(Duration::from_mins(599));
        f.store.run_maintenance(&Retention::default()).await.unwrap();
        assert_eq!(f.store.history(START).await.unwrap().len(), 600);
        let hour = Retention { history: Some(Duration::from_mins(10)), ..Retention::default() };
        f.store.run_maintenance(&hour).await.unwrap();
        assert_eq!(f.store.history(START).await.unwrap().len(), 100, "the oldest first");
        f.store.run_maintenance(&hour).await.unwrap();
        assert_eq!(f.store.history(START).await.unwrap(), rows[589..]);
    }
}
