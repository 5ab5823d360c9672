//! One table of a manifest, read key by key. A key that the reader does not take is an error, which names it and the
//! known key that is most like it.

use toml::{Table, Value};

use crate::load::manifest::environment::{EnvLookup, expand};
use crate::load::manifest::error::ManifestError;
use crate::load::manifest::value::show;

/// One table of the manifest. The reader takes every key once; [`Section::finish`] refuses the rest. Variables are
/// replaced when a value is taken, so errors can show the value as it was written.
pub(crate) struct Section<'a> {
    path: String,
    table: Table,
    environment: &'a EnvLookup,
    known_keys: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// A section of a table. `path` is empty for the whole document.
    pub(crate) fn new(path: &str, table: Table, environment: &'a EnvLookup) -> Self {
        Self { path: path.to_owned(), table, environment, known_keys: Vec::new() }
    }

    /// The parsed value of a key, or `None` if the key is absent. `parse` returns the accepted values as its error.
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

    /// The table of a key; empty if the key is absent.
    pub(crate) fn section(&mut self, key: &'static str) -> Result<Self, ManifestError> {
        let table = self.take_written(key, table)?.unwrap_or_default();
        Ok(Self::new(&self.key(key), table, self.environment))
    }

    /// The table of a key, or `None` if the key is absent.
    pub(crate) fn optional_section(&mut self, key: &'static str) -> Result<Option<Self>, ManifestError> {
        let table = self.take_written(key, table)?;
        Ok(table.map(|table| Self::new(&self.key(key), table, self.environment)))
    }

    /// The tables of an array of tables; none if the key is absent.
    pub(crate) fn sections(&mut self, key: &'static str) -> Result<Vec<Self>, ManifestError> {
        let path = self.key(key);
        let tables = self.take_written(key, tables)?.unwrap_or_default();
        Ok(tables.into_iter().map(|table| Self::new(&path, table, self.environment)).collect())
    }

    /// All entries of the table, for sections that accept any key.
    pub(crate) fn into_entries(mut self) -> Result<Table, ManifestError> {
        let table = std::mem::take(&mut self.table);
        let entry = |(key, value): (String, Value)| {
            let value = expand(&self.key(&key), value, self.environment)?;
            Ok((key, value))
        };
        table.into_iter().map(entry).collect()
    }

    /// Errors if the table has a key that was not taken.
    pub(crate) fn finish(self) -> Result<(), ManifestError> {
        let Some(unknown) = self.table.keys().next() else { return Ok(()) };
        let nearest = self.known_keys.iter().max_by(|a, b| likeness(a, unknown).total_cmp(&likeness(b, unknown)));
        Err(ManifestError::UnknownKey {
            key: self.key(unknown),
            nearest: self.key(nearest.copied().unwrap_or_default()),
            known: self.known_keys.join(", "),
        })
    }

    /// The error about a required key that is absent.
    pub(crate) fn missing(&self, key: &str) -> ManifestError {
        let given = self.table.keys().find(|given| likeness(key, given) >= MISSPELT);
        ManifestError::Missing { key: self.key(key), given: given.map(|given| self.key(given)) }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// From which likeness on an unknown key is taken for another that is misspelt.
const MISSPELT: f64 = 0.8;

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
