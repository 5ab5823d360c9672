//! The statement that reads the first items that match a filter, in an order, from the views of their statuses.
//!
//! It does not know what is read of the items.

use outbox_item::{ItemId, Status};
use outbox_store::Filter;
use outbox_store::engine::sql_filter::SqlFilter;

use crate::error::PgError;
use crate::rows::values;
use crate::tx::Query;

/// Rows of each place that one look at a range reads at most. A row takes two to five microseconds.
const ROWS_MAX: u32 = 3_000;

/// Which items are wanted.
pub(crate) struct ItemQuery {
    /// In which places to look.
    statuses: Vec<Status>,
    pub(crate) condition: SqlFilter,
}

impl ItemQuery {
    /// The items that match the filter.
    pub(crate) fn new(filter: &Filter) -> Self {
        Self::with(filter, SqlFilter::from_filter(filter))
    }

    /// The items in the places of the filter that fulfil the condition.
    pub(crate) fn with(filter: &Filter, condition: SqlFilter) -> Self {
        let statuses = if filter.status.is_empty() { Status::ALL.to_vec() } else { filter.status.clone() };
        Self { statuses, condition }
    }

    /// SQL for one look at the items behind `after` and up to `last`: the id up to which it reads, and the ids of the first
    /// `limit` items up to there, ascending. Each place is read in the order of its ids from `after` on, whatever the
    /// statistics say: else the server may begin with the first of all items.
    fn look(&self, (after, last): (ItemId, ItemId), limit: u32) -> String {
        let range = format!("id > {after} AND id <= (SELECT up_to FROM look)");
        let first = format!("ORDER BY id LIMIT {limit}");
        let of_status = |status: &Status| {
            let of_view = format!("SELECT id FROM {} WHERE {}", view_of(*status), self.condition.sql);
            match place_of(*status) {
                None => {
                    format!("(WITH claimed AS MATERIALIZED ({of_view} AND {range}) SELECT id FROM claimed {first})")
                }
                Some(place) => format!(
                    "(SELECT item.id FROM (SELECT id AS place FROM {place} WHERE {range} ORDER BY id) AS behind
                      CROSS JOIN LATERAL ({of_view} AND id = behind.place OFFSET 0) AS item
                      ORDER BY behind.place LIMIT {limit})"
                ),
            }
        };
        let parts: Vec<_> = self.statuses.iter().map(of_status).collect();
        format!(
            "WITH look AS MATERIALIZED (SELECT {} AS up_to)
             SELECT up_to, ARRAY(SELECT id FROM ({}) AS part {first}) FROM look",
            self.look_end(after, last),
            parts.join(" UNION ALL ")
        )
    }

    /// SQL for the id up to which a look reads: in each place it reads at most [`ROWS_MAX`] rows. Where no place has more
    /// behind `after`, it reads up to `last`.
    fn look_end(&self, after: ItemId, last: ItemId) -> String {
        let ends = self.statuses.iter().copied().filter_map(place_of).map(|place| {
            format!("(SELECT id FROM {place} WHERE id > {after} ORDER BY id OFFSET {} LIMIT 1)", ROWS_MAX - 1)
        });
        // LEAST ignores the NULL of a place that has fewer rows.
        format!("LEAST({})", ends.chain([format!("{last}::bigint")]).collect::<Vec<_>>().join(", "))
    }

    /// SQL for the first `limit` items in the order of `order`. Each status is read from its own view with its own
    /// limit: the view of all statuses is a union, for which PostgreSQL reads and sorts every item that matches.
    pub(crate) fn first(&self, columns: &str, order: &str, limit: u32) -> String {
        let end = format!("ORDER BY {order} LIMIT {limit}");
        let of_status = |status: &Status| {
            let all = format!("SELECT {columns} FROM {} WHERE {}", view_of(*status), self.condition.sql);
            match status {
                // Leases are few and in no order: else the server may read every item in the order that is wanted.
                Status::Claimed => format!("(WITH claimed AS MATERIALIZED ({all}) SELECT * FROM claimed {end})"),
                Status::Pending | Status::Done | Status::Dlq => format!("({all} {end})"),
            }
        };
        let parts: Vec<_> = self.statuses.iter().map(of_status).collect();
        format!("SELECT * FROM ({}) AS part {end}", parts.join(" UNION ALL "))
    }
}

/// The table of the place of the items with this status, where that has a row for each item.
const fn place_of(status: Status) -> Option<&'static str> {
    match status {
        Status::Pending => Some("outbox.queue"),
        Status::Claimed => None,
        Status::Done => Some("outbox.done"),
        Status::Dlq => Some("outbox.dead"),
    }
}

/// The view of the items with this status.
pub(crate) fn view_of(status: Status) -> &'static str {
    match status {
        Status::Pending => "outbox.status_pending",
        Status::Claimed => "outbox.status_claimed",
        Status::Done => "outbox.status_done",
        Status::Dlq => "outbox.status_dlq",
    }
}

/// The ids of the first `limit` items that are wanted, ascending.
pub(crate) async fn ids(tx: &impl Query, query: &ItemQuery, limit: u32) -> Result<Vec<ItemId>, PgError> {
    let rows = tx.rows(&query.first("id", "id", limit), &values(&query.condition)).await?;
    rows.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect()
}

/// The result of one look at a range of ids.
pub(crate) struct RangeLook {
    /// The id up to which the look has read.
    pub(crate) up_to: ItemId,
    /// The first items that are wanted up to there, ascending.
    pub(crate) found: Vec<ItemId>,
}

/// Looks for the first `limit` items that are wanted in the range, of which the look reads a bounded part. See
/// [`ItemQuery::look`].
pub(crate) async fn look(
    tx: &impl Query,
    query: &ItemQuery,
    range: (ItemId, ItemId),
    limit: u32,
) -> Result<RangeLook, PgError> {
    let rows = tx.rows(&query.look(range, limit), &values(&query.condition)).await?;
    let row = rows.first().ok_or(PgError::LostRace)?;
    let found: Vec<i64> = row.try_get(1)?;
    Ok(RangeLook { up_to: ItemId::new(row.try_get(0)?), found: found.into_iter().map(ItemId::new).collect() })
}
