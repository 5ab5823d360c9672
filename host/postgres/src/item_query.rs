//! The statement that reads the first items that match a filter, in an order, from the views of their statuses.
//!
//! It does not know what is read of the items.

use outbox_item::{ItemId, Status};
use outbox_store::Filter;
use outbox_store::engine::sql_filter::SqlFilter;

use crate::error::PgError;
use crate::rows::values;
use crate::tx::Query;

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

    /// SQL for the first `limit` items in the order of `order`. Each status is read from its own view with its own
    /// limit: the view of all statuses is a union, for which PostgreSQL reads and sorts every item that matches.
    pub(crate) fn first(&self, columns: &str, order: &str, limit: u32) -> String {
        let end = format!("ORDER BY {order} LIMIT {limit}");
        let of_status = |status: &Status| {
            format!("(SELECT {columns} FROM {} WHERE {} {end})", view_of(*status), self.condition.sql)
        };
        let parts: Vec<_> = self.statuses.iter().map(of_status).collect();
        format!("SELECT * FROM ({}) AS part {end}", parts.join(" UNION ALL "))
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
