//! The host's environment as manifests use it: `${NAME}` in a value stands for the variable NAME.

use std::sync::Arc;

use toml::{Table, Value};

use crate::load::manifest::error::ManifestError;

/// Returns the value of an environment variable of the host, or `None` if it is not set. Serves `${NAME}` and secrets.
pub type EnvLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Replaces every `${NAME}` in a value, also inside arrays and tables. Errors name the key by `path`.
pub(crate) fn expand(path: &str, value: Value, environment: &EnvLookup) -> Result<Value, ManifestError> {
    Ok(match value {
        Value::String(text) => Value::String(expand_text(path, &text, environment)?),
        Value::Array(values) => {
            let values = values.into_iter().map(|value| expand(path, value, environment));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        Value::Table(table) => {
            let entry = |(key, value)| Ok((key, expand(path, value, environment)?));
            Value::Table(table.into_iter().map(entry).collect::<Result<Table, _>>()?)
        }
        other => other,
    })
}

fn expand_text(path: &str, text: &str, environment: &EnvLookup) -> Result<String, ManifestError> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}').ok_or_else(|| ManifestError::Value {
            key: path.to_owned(),
            value: format!("{text:?}"),
            accepted: "text in which every ${ is closed by }".to_owned(),
        })?;
        let unset = || ManifestError::Unset { key: path.to_owned(), variable: variable.to_owned() };
        expanded.push_str(before);
        expanded.push_str(&environment(variable).ok_or_else(unset)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}
