//! Counts what this process settles, by minute and type, until the host adds it to the store's history.
//!
//! It knows no store and no clock: the time of a settlement is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use outbox_core::Settlement;
use outbox_item::{Item, Millis};
use outbox_store::{HistoryMinute, MinuteFigures, OTHER_TYPES, TYPES_MAX, minute_of};

/// What was settled and is in no store yet. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<CountedMinutes>>);

/// The minutes of each type, the newest last.
type CountedMinutes = HashMap<String, Vec<(Millis, MinuteFigures)>>;

impl Tally {
    /// Takes what was counted since the last call.
    pub fn take(&self) -> Vec<HistoryMinute> {
        let counted = std::mem::take(&mut *self.counted());
        let of_type = |(item_type, minutes): (String, Vec<(Millis, MinuteFigures)>)| {
            let row = move |(minute, figures)| HistoryMinute { minute, item_type: item_type.clone(), figures };
            minutes.into_iter().map(row)
        };
        counted.into_iter().flat_map(of_type).collect()
    }

    /// Counts what could not be added to the store once more, so that the next call of [`Tally::take`] has it.
    pub fn put_back(&self, rows: Vec<HistoryMinute>) {
        let mut counted = self.counted();
        for HistoryMinute { minute, item_type, figures } in rows {
            figures_of(&mut counted, &item_type, minute).add(&figures);
        }
    }

    /// Counts the end of a claim that the store has taken, at the store's time `at`. A release is no event.
    pub(crate) fn settled(&self, item: &Item, settlement: &Settlement, at: Millis) {
        if matches!(settlement, Settlement::Release) {
            return;
        }
        let mut counted = self.counted();
        let figures = figures_of(&mut counted, &item.item_type, minute_of(at));
        match settlement {
            Settlement::Done { .. } => {
                figures.done += 1;
                if item.replays == 0 {
                    figures.latency.count(at.since(item.created_at));
                }
            }
            Settlement::Retry { .. } => figures.failed += 1,
            Settlement::Dead { .. } => {
                figures.failed += 1;
                figures.dead += 1;
            }
            Settlement::GiveBack { .. } => figures.given_back += 1,
            Settlement::Release => {}
        }
    }

    fn counted(&self) -> MutexGuard<'_, CountedMinutes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn figures_of<'a>(counted: &'a mut CountedMinutes, item_type: &str, minute: Millis) -> &'a mut MinuteFigures {
    let name = if counted.len() < TYPES_MAX || counted.contains_key(item_type) { item_type } else { OTHER_TYPES };
    let minutes = counted.entry_ref(name).or_default();
    let index = minutes.iter().rposition(|(known, _)| *known == minute).unwrap_or_else(|| {
        minutes.push((minute, MinuteFigures::default()));
        minutes.len() - 1
    });
    &mut minutes[index].1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_core::{Failure, FailureClass, HostWrites, OnDead};
    use outbox_item::{ItemId, NewItem};

    use super::*;

    const START: Millis = Millis::new(1_800_000_000_000);

    fn item(item_type: &str) -> Item {
        NewItem::new(item_type, "k", "{}").into_item(ItemId::new(1), START)
    }

    fn done() -> Settlement {
        Settlement::Done { result: None, writes: HostWrites::default() }
    }

    #[test]
    fn each_end_is_counted_in_its_minute_and_what_was_put_back_is_taken_again() {
        let tally = Tally::default();
        let failure = || Failure::new(FailureClass::Retryable, "upstream.503", "down");
        let delay = Duration::ZERO;
        for settlement in [
            done(),
            Settlement::Retry { failure: failure(), delay },
            Settlement::Dead { failure: failure(), on_dead: OnDead::Block },
            Settlement::GiveBack { failure: failure(), delay },
            Settlement::Release,
        ] {
            tally.settled(&item("mail"), &settlement, Millis::new(START.get() + 59_999));
        }
        tally.settled(&Item { replays: 1, ..item("mail") }, &done(), Millis::new(START.get() + 60_000));
        let rows = tally.take();
        let told: Vec<_> = rows.iter().map(|row| (row.minute, row.figures.clone())).collect();
        let [(first, figures), (second, replayed)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((*first, second.since(*first)), (START, Duration::from_mins(1)));
        assert_eq!((figures.done, figures.failed, figures.dead, figures.given_back), (1, 2, 1, 1));
        assert!(figures.latency.percentile(0.5).is_some_and(|took| took > 45_000));
        assert_eq!((replayed.done, replayed.latency.percentile(0.5)), (1, None));
        assert_eq!(tally.take(), []);
        tally.put_back(rows.clone());
        tally.settled(&item("mail"), &done(), START);
        assert_eq!(tally.take().iter().map(|row| row.figures.done).sum::<u64>(), 3);
    }

    #[test]
    fn types_without_end_share_a_row() {
        let tally = Tally::default();
        for number in 0..300 {
            tally.settled(&item(&format!("t{number}")), &done(), START);
        }
        let rows = tally.take();
        assert_eq!(rows.len(), TYPES_MAX + 1);
        let other = rows.iter().find(|row| row.item_type == OTHER_TYPES).unwrap();
        assert_eq!(other.figures.done, 200);
    }
}
