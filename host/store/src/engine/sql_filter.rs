//! Filters as conditions in SQL that every engine reads: parameters are `$1`, `$2`, ….
//!
//! It knows the names of columns, and no statement that they are used in.

use std::fmt::Write as _;

use outbox_item::{ItemId, Millis, Status};

use crate::audit::AuditQuery;
use crate::filter::Filter;
use crate::ids::JobId;

/// An item whose correlation id is its own key is found by its key: the index of correlation ids leaves it out.
const CID: &str = "(cid = ? AND cid <> idem_key OR idem_key = ? AND cid = idem_key)";

/// SQL with numbered parameters, and their values.
pub struct SqlFilter {
    /// A condition that can follow `WHERE`.
    pub sql: String,
    /// The value of `$1`, of `$2`, and so on.
    pub params: Vec<SqlParam>,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlParam {
    /// A text.
    Text(String),
    /// An integer: a number, an id or a time.
    Number(i64),
}

impl From<String> for SqlParam {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for SqlParam {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<ItemId> for SqlParam {
    fn from(item: ItemId) -> Self {
        Self::Number(item.get())
    }
}

impl From<Millis> for SqlParam {
    fn from(time: Millis) -> Self {
        Self::Number(time.get())
    }
}

impl From<JobId> for SqlParam {
    fn from(job: JobId) -> Self {
        Self::Number(job.get())
    }
}

impl SqlFilter {
    /// A condition that every row fulfils.
    pub fn all() -> Self {
        Self { sql: "true".into(), params: Vec::new() }
    }

    /// The items that match the filter.
    pub fn from_filter(filter: &Filter) -> Self {
        let mut condition = Self::all();
        condition.and_statuses(&filter.status, filter.cid.is_none());
        condition.and("type = ?", filter.r#type.clone());
        condition.and("saga = ?", filter.saga.clone());
        condition.and(CID, filter.cid.clone());
        condition.and("ordering_key = ?", filter.ordering_key.clone());
        condition.and("created_at >= ?", filter.created_from);
        condition.and("created_at < ?", filter.created_to);
        condition.and("coalesce(done_at, dead_at) >= ?", filter.finished_from);
        condition.and("coalesce(done_at, dead_at) < ?", filter.finished_to);
        condition.and("available_at >= ?", filter.available_from);
        condition.and("available_at < ?", filter.available_to);
        condition.and("fingerprint = ?", filter.fingerprint.clone());
        condition
    }

    /// The entries of the audit trail that the query asks for; `concerns` is the condition for the entries of one item.
    pub fn from_audit_query(query: &AuditQuery, concerns: &str) -> Self {
        let mut condition = Self::all();
        condition.and(concerns, query.item);
        condition.and("actor = ?", query.actor.clone());
        condition.and("action = ?", query.action.clone());
        condition.and("job = ?", query.job);
        condition.and("at >= ?", query.from);
        condition.and("at < ?", query.to);
        condition.and("seq < ?", query.before);
        condition
    }

    /// Adds the condition `sql` about the value, if there is one; `?` stands for the value.
    pub fn and<T: Into<SqlParam>>(&mut self, sql: &str, value: Option<T>) {
        if let Some(value) = value {
            self.params.push(value.into());
            self.sql.push_str(" AND ");
            self.sql.push_str(&sql.replace('?', &format!("${}", self.params.len())));
        }
    }

    /// Status words are part of the text, so that the planner finds the partial indexes. The same word twice hides them
    /// from SQLite, which must not use them for a correlation id: more items are dead than have one correlation id.
    fn and_statuses(&mut self, statuses: &[Status], by_index: bool) {
        if statuses.is_empty() {
            return;
        }
        let words: Vec<_> = statuses.iter().map(|status| format!("'{status}'")).collect();
        match words.as_slice() {
            [word] if by_index => write!(self.sql, " AND status = {word}"),
            [word] => write!(self.sql, " AND status IN ({word}, {word})"),
            words => write!(self.sql, " AND status IN ({})", words.join(", ")),
        }
        .expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_in_the_order_of_their_values() {
        let filter = Filter {
            status: vec![Status::Dlq],
            cid: Some("c".into()),
            created_to: Some(Millis::new(7)),
            ..Filter::default()
        };
        let condition = SqlFilter::from_filter(&filter);
        let cid = CID.replace('?', "$1");
        assert_eq!(condition.sql, format!("true AND status IN ('DLQ', 'DLQ') AND {cid} AND created_at < $2"));
        assert_eq!(condition.params, [SqlParam::Text("c".into()), SqlParam::Number(7)]);
    }
}
