//! Reading a table of TOML key by key, so that a key nobody asked for is an error that names it and
//! the nearest one that would have been understood.

use toml::{Table, Value};

use crate::load::manifest::expand::expand;
use crate::load::manifest::value::show;
use crate::load::manifest::{EnvLookup, ManifestError};

/// One table of the document. Every key is taken once; [`Section::finish`] refuses what is left.
/// Values are expanded as they are taken, so that errors can show them as they were written.
pub(crate) struct Section<'a> {
    path: String,
    table: Table,
    environment: &'a EnvLookup,
    known_keys: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The table at `path`, which is empty for the document itself.
    pub(crate) fn new(path: &str, table: Table, environment: &'a EnvLookup) -> Self {
        Self { path: path.to_owned(), table, environment, known_keys: Vec::new() }
    }

    /// The value of a key, if it is there.
    pub(crate) fn take<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<Option<T>, ManifestError> {
        let environment = self.environment;
        self.take_written(key, |path, value| {
            let shown = show(&value);
            parse(expand(path, value, environment)?).map_err(|accepted| ManifestError::Value {
                key: path.to_owned(),
                value: shown,
                accepted,
            })
        })
    }

    fn take_written<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str, Value) -> Result<T, ManifestError>,
    ) -> Result<Option<T>, ManifestError> {
        self.known_keys.push(key);
        let path = self.key(key);
        self.table.remove(key).map(|value| parse(&path, value)).transpose()
    }

    /// The table under a key; an absent one is empty.
    pub(crate) fn section(&mut self, key: &'static str) -> Result<Self, ManifestError> {
        let table = self.take_written(key, table)?.unwrap_or_default();
        Ok(Self::new(&self.key(key), table, self.environment))
    }

    /// The table under a key, if it is there.
    pub(crate) fn optional_section(&mut self, key: &'static str) -> Result<Option<Self>, ManifestError> {
        let table = self.take_written(key, table)?;
        Ok(table.map(|table| Self::new(&self.key(key), table, self.environment)))
    }

    /// The tables of an array of tables; an absent one is empty.
    pub(crate) fn sections(&mut self, key: &'static str) -> Result<Vec<Self>, ManifestError> {
        let path = self.key(key);
        let tables = self.take_written(key, tables)?.unwrap_or_default();
        Ok(tables.into_iter().map(|table| Self::new(&path, table, self.environment)).collect())
    }

    /// What the table holds, when any key is welcome.
    pub(crate) fn into_entries(mut self) -> Result<Table, ManifestError> {
        let table = std::mem::take(&mut self.table);
        let entry = |(key, value): (String, Value)| {
            let value = expand(&self.key(&key), value, self.environment)?;
            Ok((key, value))
        };
        table.into_iter().map(entry).collect()
    }

    /// Refuses keys that nobody asked for.
    pub(crate) fn finish(self) -> Result<(), ManifestError> {
        let Some(unknown) = self.table.keys().next() else { return Ok(()) };
        let nearest = self.known_keys.iter().max_by(|a, b| likeness(a, unknown).total_cmp(&likeness(b, unknown)));
        Err(ManifestError::UnknownKey {
            key: self.key(unknown),
            nearest: self.key(nearest.copied().unwrap_or_default()),
            known: self.known_keys.join(", "),
        })
    }

    /// An error about a key that must be there.
    pub(crate) fn missing(&self, key: &str) -> ManifestError {
        ManifestError::Missing { key: self.key(key) }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn likeness(known: &str, unknown: &str) -> f64 {
    strsim::jaro_winkler(known, unknown)
}

fn table(path: &str, value: Value) -> Result<Table, ManifestError> {
    match value {
        Value::Table(table) => Ok(table),
        other => Err(invalid_value(path, &other, "a table")),
    }
}

fn tables(path: &str, value: Value) -> Result<Vec<Table>, ManifestError> {
    match value {
        Value::Array(values) => values.into_iter().map(|value| table(path, value)).collect(),
        other => Err(invalid_value(path, &other, "an array of tables")),
    }
}

fn invalid_value(path: &str, value: &Value, accepted: &str) -> ManifestError {
    ManifestError::Value { key: path.to_owned(), value: show(value), accepted: accepted.to_owned() }
}
