//! Which item follow-ups descend from, and whether there is room for them. Both engines read and write the rows.

use outbox_item::ItemId;

use crate::error::StoreError;

/// The place of new follow-ups among the items that descend from their root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descent {
    /// The item at the beginning, which a caller enqueued.
    pub root: ItemId,
    /// 1 for follow-ups of the root, 2 for theirs, and so on.
    pub depth: u32,
    /// The most items that may descend from the root within the period; `None` is without a bound.
    pub max: Option<u32>,
    /// How many do, counted up to `max`.
    pub present: u32,
}

impl Descent {
    /// Takes room for `new` follow-ups. Errors with [`StoreError::Descendants`] when there is not enough.
    pub fn take_room(&mut self, new: usize) -> Result<(), StoreError> {
        let wanted = self.present.saturating_add(u32::try_from(new).unwrap_or(u32::MAX));
        match self.max {
            Some(max) if wanted > max => Err(StoreError::Descendants { root: self.root, max }),
            _ => {
                self.present = wanted;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_up_to_the_bound_and_not_beyond() {
        let mut descent = Descent { root: ItemId::new(7), depth: 1, max: Some(3), present: 1 };
        descent.take_room(2).unwrap();
        assert!(matches!(descent.take_room(1), Err(StoreError::Descendants { max: 3, .. })));
        descent.take_room(0).unwrap();
        descent.max = None;
        descent.take_room(1_000_000).unwrap();
    }
}
