//! Reading a table of TOML key by key, so that a key nobody asked for is an error that names it and
//! the nearest one that would have been understood.

use toml::{Table, Value};

use super::ManifestError;
use super::value::show;

/// One table of the document. Every key is taken once; [`Section::finish`] refuses what is left.
pub(super) struct Section {
    path: String,
    table: Table,
    asked: Vec<&'static str>,
}

impl Section {
    /// The table at `path`, which is empty for the document itself.
    pub(super) fn new(path: &str, table: Table) -> Self {
        Self { path: path.to_owned(), table, asked: Vec::new() }
    }

    /// The value of a key, if it is there.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<Option<T>, ManifestError> {
        self.asked.push(key);
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let shown = show(&value);
        parse(value).map(Some).map_err(|accepted| ManifestError::Value { key: self.key(key), value: shown, accepted })
    }

    /// The table under a key; an absent one is empty.
    pub(super) fn section(&mut self, key: &'static str) -> Result<Self, ManifestError> {
        let path = self.key(key);
        let table = self.take(key, table)?.unwrap_or_default();
        Ok(Self::new(&path, table))
    }

    /// The table under a key, if it is there.
    pub(super) fn optional_section(&mut self, key: &'static str) -> Result<Option<Self>, ManifestError> {
        let path = self.key(key);
        Ok(self.take(key, table)?.map(|table| Self::new(&path, table)))
    }

    /// The tables of an array of tables; an absent one is empty.
    pub(super) fn sections(&mut self, key: &'static str) -> Result<Vec<Self>, ManifestError> {
        let path = self.key(key);
        let tables = self.take(key, |value| array(value)?.into_iter().map(table).collect::<Result<Vec<_>, _>>())?;
        Ok(tables.unwrap_or_default().into_iter().map(|table| Self::new(&path, table)).collect())
    }

    /// What the table holds, when any key is welcome.
    pub(super) fn into_entries(self) -> Table {
        self.table
    }

    /// Refuses keys that nobody asked for.
    pub(super) fn finish(self) -> Result<(), ManifestError> {
        let Some(unknown) = self.table.keys().next() else { return Ok(()) };
        let nearest = self.asked.iter().max_by(|a, b| likeness(a, unknown).total_cmp(&likeness(b, unknown)));
        Err(ManifestError::UnknownKey {
            key: self.key(unknown),
            nearest: self.key(nearest.copied().unwrap_or_default()),
            known: self.asked.join(", "),
        })
    }

    /// An error about a key that must be there.
    pub(super) fn missing(&self, key: &str) -> ManifestError {
        ManifestError::Missing { key: self.key(key) }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn likeness(known: &str, unknown: &str) -> f64 {
    strsim::jaro_winkler(known, unknown)
}

fn table(value: Value) -> Result<Table, String> {
    match value {
        Value::Table(table) => Ok(table),
        _ => Err("a table".to_owned()),
    }
}

fn array(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err("an array".to_owned()),
    }
}
