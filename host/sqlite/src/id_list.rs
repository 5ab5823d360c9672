//! Lists of ids as JSON arrays: the column `ids` of a lease, and the parameter of a statement about many items.
//!
//! It knows no table.

use std::fmt::Write as _;

use rusqlite::Row;

use outbox_item::ItemId;

/// The ids as a JSON array without spaces.
pub(crate) fn id_list(ids: &[ItemId]) -> String {
    let mut list = String::with_capacity(2 + ids.len() * ROOM);
    list.push('[');
    for id in ids {
        if list.len() > 1 {
            list.push(',');
        }
        // Writing to a string does not fail.
        let _infallible = write!(list, "{id}");
    }
    list.push(']');
    list
}

/// The length of an id and a comma in most stores.
const ROOM: usize = 12;

/// The ids in a column that [`id_list`] wrote. What is no number is left out, so that it does not hold up the others.
pub(crate) fn read_ids(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<ItemId>> {
    row.get_ref(column)?.as_str().map(parse_ids).map_err(Into::into)
}

fn parse_ids(list: &str) -> Vec<ItemId> {
    let numbers = list.trim_matches(['[', ']']).split(',');
    numbers.filter_map(|number| number.trim().parse().ok()).map(ItemId::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_json_and_is_read_back() {
        for numbers in [&[][..], &[7], &[1, 5, 9_007_199_254_740_993]] {
            let ids: Vec<_> = numbers.iter().copied().map(ItemId::new).collect();
            let list = id_list(&ids);
            assert_eq!(serde_json::from_str::<Vec<i64>>(&list).unwrap(), numbers);
            assert_eq!(parse_ids(&list), ids);
        }
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        assert_eq!(parse_ids(r#"[1, "x", 3]"#), [1, 3].map(ItemId::new));
    }
}
