//! Filters as conditions in SQL that every engine reads: parameters are `$1`, `$2`, ….

use std::fmt::Write as _;

use crate::inspect::Filter;
use crate::operations::AuditQuery;
use outbox_item::Status;

/// An item whose correlation id is its own key is found by that: the index of correlation ids does not have it.
const CID: &str = "(cid = ? AND cid <> idem_key OR idem_key = ? AND cid = idem_key)";

/// SQL with numbered parameters, and their values.
pub struct SqlFilter {
    pub sql: String,
    pub params: Vec<SqlParam>,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlParam {
    Text(String),
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

impl SqlFilter {
    /// One that everything fulfils.
    pub fn all() -> Self {
        Self { sql: "true".into(), params: Vec::new() }
    }

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

    /// Of the audit trail; `concerns` is what holds for the entries of one item.
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

    /// Demands also what `sql` says of the value, if there is one.
    pub fn and<T: Into<SqlParam>>(&mut self, sql: &str, value: Option<T>) {
        if let Some(value) = value {
            self.params.push(value.into());
            self.sql.push_str(" AND ");
            self.sql.push_str(&sql.replace('?', &format!("${}", self.params.len())));
        }
    }

    /// Status words stand in the text, so that the partial indexes are found. A word that stands there twice
    /// hides them from SQLite, where they would be in the way: more items are dead than have one correlation id.
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

impl AuditQuery {
    /// At most so many entries.
    pub fn page_size(&self) -> u32 {
        if self.limit == 0 { 100 } else { self.limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_in_the_order_of_their_values() {
        let filter =
            Filter { status: vec![Status::Dlq], cid: Some("c".into()), created_to: Some(7), ..Filter::default() };
        let condition = SqlFilter::from_filter(&filter);
        let cid = CID.replace('?', "$1");
        assert_eq!(condition.sql, format!("true AND status IN ('DLQ', 'DLQ') AND {cid} AND created_at < $2"));
        assert_eq!(condition.params, [SqlParam::Text("c".into()), SqlParam::Number(7)]);
    }
}
