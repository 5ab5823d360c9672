//! Filters as conditions in SQL that every engine reads: parameters are `$1`, `$2`, ….
//!
//! It knows the names of columns, and no statement that they are used in.

use outbox_item::{ItemId, Millis, Status};

use crate::audit::AuditQuery;
use crate::filter::Filter;
use crate::ids::JobId;

/// An item whose correlation id is its own key is found by its key: the index of correlation ids leaves it out.
const CID: &str = "(cid = ? AND cid <> idem_key OR idem_key = ? AND cid = idem_key)";

/// The first character after those that keys consist of.
const AFTER_KEYS: char = '\x7f';

/// The columns whose indexes a reader in the order of ids must not use: it would sort every row that they name.
const OUT_OF_ID_ORDER: &[&str] = &["type", "fingerprint"];

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

    /// The items whose key begins as the filter says; `None` where it says nothing of the beginning of a key.
    pub fn of_key_prefix(filter: &Filter) -> Option<Self> {
        let mut condition = Self::all();
        condition.and_key_prefix("idem_key", Some(filter.key_prefix.as_deref()?));
        Some(condition)
    }

    /// The items that match the filter.
    pub fn from_filter(filter: &Filter) -> Self {
        Self::with_unindexed(filter, &[])
    }

    /// The items that match the filter, for a reader in the order of ids that stops after a page.
    pub fn in_order_of_ids(filter: &Filter) -> Self {
        Self::with_unindexed(filter, OUT_OF_ID_ORDER)
    }

    /// The same, where the beginning of a key is that of more items than may be sorted.
    pub fn in_order_of_ids_without_keys(filter: &Filter) -> Self {
        Self::with_unindexed(filter, &[OUT_OF_ID_ORDER, &["idem_key"]].concat())
    }

    /// The items that match the filter, for a reader that looks at one item after the other by its id: no other index may
    /// be used.
    pub fn one_by_one(filter: &Filter) -> Self {
        Self::with_unindexed(filter, &["type", "fingerprint", "saga", "ordering_key", "idem_key"])
    }

    /// A column is an expression where no index of it may be used.
    fn with_unindexed(filter: &Filter, unindexed: &[&str]) -> Self {
        let mut condition = Self::all();
        condition.and_statuses(&filter.status);
        // A correlation id or a key is found in few items, so no index of another column may be used in its place.
        let is_few = filter.cid.is_some() || filter.idem_key.is_some() || filter.key_prefix.is_some();
        let equals = |column: &str| {
            if is_few || unindexed.contains(&column) { format!("{column} || '' = ?") } else { format!("{column} = ?") }
        };
        condition.and("idem_key = ?", filter.idem_key.clone());
        let key = if unindexed.contains(&"idem_key") { "idem_key || ''" } else { "idem_key" };
        condition.and_key_prefix(key, filter.key_prefix.as_deref());
        condition.and(CID, filter.cid.clone());
        condition.and(&equals("type"), filter.r#type.clone());
        condition.and(&equals("saga"), filter.saga.clone());
        condition.and(&equals("ordering_key"), filter.ordering_key.clone());
        condition.and("fairness_key = ?", filter.fairness_key.clone());
        condition.and("claimed_by = ?", filter.pod.clone());
        condition.and(&equals("fingerprint"), filter.fingerprint.clone());
        condition.and("handler_digest = ?", filter.handler_digest.clone());
        condition.and("replace(lower(last_error), lower(?), '') <> lower(last_error)", filter.error.clone());
        condition.and("created_at >= ?", filter.created_from);
        condition.and("created_at < ?", filter.created_to);
        condition.and("coalesce(done_at, dead_at) >= ?", filter.finished_from);
        condition.and("coalesce(done_at, dead_at) < ?", filter.finished_to);
        condition.and("available_at >= ?", filter.available_from);
        condition.and("available_at < ?", filter.available_to);
        condition.and("coalesce(done_at, dead_at, claimed_at, created_at) <= ?", filter.as_of);
        if !filter.ids.is_empty() {
            condition.and_ids(&filter.ids);
        }
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

    /// Only keys that begin so; `key` is the expression of the key.
    fn and_key_prefix(&mut self, key: &str, prefix: Option<&str>) {
        self.and(&format!("{key} >= ?"), prefix.map(str::to_owned));
        self.and(&format!("{key} < ?"), prefix.map(|prefix| format!("{prefix}{AFTER_KEYS}")));
    }

    /// Only these items. Ids are part of the text: their number has no limit, unlike that of parameters.
    pub fn and_ids(&mut self, ids: &[ItemId]) {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let ids = if ids.is_empty() { "NULL".to_owned() } else { ids.join(",") };
        self.sql.push_str(" AND id IN (");
        self.sql.push_str(&ids);
        self.sql.push(')');
    }

    /// Status words are part of the text: the views of the status have a constant for each place, so that the places
    /// of other statuses are not read.
    fn and_statuses(&mut self, statuses: &[Status]) {
        if statuses.is_empty() {
            return;
        }
        let words: Vec<_> = statuses.iter().map(|status| format!("status = '{status}'")).collect();
        self.sql.push_str(" AND (");
        self.sql.push_str(&words.join(" OR "));
        self.sql.push(')');
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
            r#type: Some("t".into()),
            created_to: Some(Millis::new(7)),
            ..Filter::default()
        };
        let condition = SqlFilter::from_filter(&filter);
        let cid = CID.replace('?', "$1");
        let expected = format!("true AND (status = 'DLQ') AND {cid} AND type || '' = $2 AND created_at < $3");
        assert_eq!(condition.sql, expected);
        let [cid, item_type] = ["c", "t"].map(|text| SqlParam::Text(text.into()));
        assert_eq!(condition.params, [cid, item_type, SqlParam::Number(7)]);
    }

    #[test]
    fn a_page_in_the_order_of_ids_uses_no_index_in_another_order() {
        let filter = Filter {
            r#type: Some("t".into()),
            ordering_key: Some("k".into()),
            fingerprint: Some("f".into()),
            ..Filter::default()
        };
        let condition = SqlFilter::in_order_of_ids(&filter);
        assert_eq!(condition.sql, "true AND type || '' = $1 AND ordering_key = $2 AND fingerprint || '' = $3");
    }

    #[test]
    fn a_key_is_a_range_of_its_index_or_one_place_in_it() {
        let filter = Filter { key_prefix: Some("order-".into()), r#type: Some("t".into()), ..Filter::default() };
        let condition = SqlFilter::from_filter(&filter);
        assert_eq!(condition.sql, "true AND idem_key >= $1 AND idem_key < $2 AND type || '' = $3");
        assert_eq!(condition.params[1], SqlParam::Text("order-\x7f".into()));
        let many = SqlFilter::in_order_of_ids_without_keys(&filter);
        assert_eq!(many.sql, "true AND idem_key || '' >= $1 AND idem_key || '' < $2 AND type || '' = $3");
        let mut named = SqlFilter::from_filter(&Filter { idem_key: Some("k".into()), ..Filter::default() });
        named.and_ids(&[7, 9].map(ItemId::new));
        assert_eq!(named.sql, "true AND idem_key = $1 AND id IN (7,9)");
    }

    #[test]
    fn several_statuses_are_single_comparisons() {
        let filter = Filter { status: vec![Status::Done, Status::Dlq], ..Filter::default() };
        assert_eq!(SqlFilter::from_filter(&filter).sql, "true AND (status = 'DONE' OR status = 'DLQ')");
        assert_eq!(SqlFilter::from_filter(&Filter::default()).sql, "true");
    }
}
