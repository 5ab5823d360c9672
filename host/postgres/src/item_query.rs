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

    /// SQL for the ids of the first `limit` items behind `after` and up to `end`, ascending. Each place is read in the
    /// order of its ids from there on, whatever the statistics say: else the server may begin with the first of all items.
    fn ids_between(&self, (after, end): (ItemId, ItemId), limit: u32) -> String {
        let range = format!("id > {after} AND id <= {end}");
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
        format!("SELECT id FROM ({}) AS part {first}", parts.join(" UNION ALL "))
    }

    /// SQL for the id up to which [`ROWS_MAX`] rows of a place come behind `after`, in the place where that is the least.
    /// NULL when no place has so many.
    fn look_end(&self, after: ItemId) -> String {
        let nth =
            |place| format!("(SELECT id FROM {place} WHERE id > {after} ORDER BY id OFFSET {} LIMIT 1)", ROWS_MAX - 1);
        let parts: Vec<_> = self.statuses.iter().copied().filter_map(place_of).map(nth).collect();
        let parts = if parts.is_empty() { "(SELECT NULL::bigint AS id)".to_owned() } else { parts.join(" UNION ALL ") };
        format!("SELECT min(id) FROM ({parts}) AS part")
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
    read_ids(tx, query, &query.first("id", "id", limit)).await
}

/// The ids of the first `limit` items that are wanted in the range, ascending. See [`ItemQuery::ids_between`].
pub(crate) async fn ids_between(
    tx: &impl Query,
    query: &ItemQuery,
    range: (ItemId, ItemId),
    limit: u32,
) -> Result<Vec<ItemId>, PgError> {
    read_ids(tx, query, &query.ids_between(range, limit)).await
}

/// Up to which id one look behind `after` reads; `None` when it may read up to the last item.
pub(crate) async fn look_end(tx: &impl Query, query: &ItemQuery, after: ItemId) -> Result<Option<ItemId>, PgError> {
    let rows = tx.rows(&query.look_end(after), &[]).await?;
    Ok(rows.first().ok_or(PgError::LostRace)?.try_get::<_, Option<i64>>(0)?.map(ItemId::new))
}

async fn read_ids(tx: &impl Query, query: &ItemQuery, statement: &str) -> Result<Vec<ItemId>, PgError> {
    let rows = tx.rows(statement, &values(&query.condition)).await?;
    rows.iter().map(|row| Ok(ItemId::new(row.try_get(0)?))).collect()
}
