//! The content of `outbox.toml`: the same settings as the variables, and the sagas and tokens, which have no variable.
//!
//! This file checks the declarations of sagas. It leaves the values of settings to their parsers, and tokens to theirs.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Value;

use outbox_core::saga::SagaDefinition;
use outbox_http::NamedToken;
use outbox_item::{validate_saga, validate_type};

use crate::config::error::ConfigError;
use crate::config::sources::{FileText, ResolvedSettings, nearest_key, variable_of};
use crate::config::tokens;

/// What a file declares besides settings.
#[derive(Default)]
pub(super) struct Declarations {
    pub(super) sagas: Vec<SagaDefinition>,
    pub(super) tokens: Vec<NamedToken>,
}

/// Sets every setting of the file. Returns what the file declares besides.
pub(super) fn read(file: &FileText, settings: &mut ResolvedSettings) -> Result<Declarations, ConfigError> {
    let mut declared = Declarations::default();
    let name = file.path.display().to_string();
    let table: toml::Table = file.text.parse().map_err(|err| not_toml(&name, &file.text, &err))?;
    for (key, value) in table {
        match key.as_str() {
            "sagas" => declared.sagas = sagas(&name, value)?,
            "tokens" => declared.tokens = tokens::read(&name, value)?,
            _ => set(&name, &key, &value, settings)?,
        }
    }
    Ok(declared)
}

fn set(file: &str, key: &str, value: &Value, settings: &mut ResolvedSettings) -> Result<(), ConfigError> {
    let variable = variable_of(key).ok_or_else(|| unknown_key(file, key))?;
    let origin = format!("{key} in {file}");
    let text = text_of(value).ok_or_else(|| wrong_kind(&origin, value))?;
    settings.set(variable, origin, Some(text));
    Ok(())
}

/// The error names the line and does not quote it, because the line may hold a secret.
fn not_toml(file: &str, text: &str, err: &toml::de::Error) -> ConfigError {
    let before = err.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    ConfigError::File { file: file.to_owned(), problem: format!("line {line}: {}", err.message()) }
}

fn unknown_key(file: &str, key: &str) -> ConfigError {
    let hint = match nearest_key(key) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => "its keys are the OUTBOX_ variables in lower case without OUTBOX_, sagas and tokens".to_owned(),
    };
    ConfigError::UnknownKey { file: file.to_owned(), key: key.to_owned(), hint }
}

fn wrong_kind(origin: &str, value: &Value) -> ConfigError {
    ConfigError::Value {
        origin: origin.to_owned(),
        value: format!("a {}", value.type_str()),
        accepted: "a string, a number, a boolean or a list of strings".to_owned(),
    }
}

/// The value as the text of a variable, so that one parser serves both.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<Vec<_>>>().map(|words| words.join(",")),
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SagaTable {
    steps: Vec<String>,
}

fn sagas(file: &str, value: Value) -> Result<Vec<SagaDefinition>, ConfigError> {
    let problem = |problem: String| ConfigError::File { file: file.to_owned(), problem };
    let tables: BTreeMap<String, SagaTable> =
        value.try_into().map_err(|err: toml::de::Error| problem(format!("[sagas]: {err}")))?;
    let definitions = tables.into_iter().map(|(name, table)| SagaDefinition { name, steps: table.steps });
    definitions.map(|definition| check(&definition).map(|()| definition).map_err(problem)).collect()
}

fn check(definition: &SagaDefinition) -> Result<(), String> {
    let SagaDefinition { name, steps } = definition;
    let of = |problem: String| format!("[sagas.{name}]: {problem}");
    validate_saga(name).map_err(|err| of(err.to_string()))?;
    for step in steps {
        validate_type(step).map_err(|err| of(err.to_string()))?;
    }
    if name == &SagaDefinition::write_memory().name {
        return Err(of("this saga is built in and cannot be declared".to_owned()));
    }
    if steps.is_empty() {
        return Err(of("steps is empty: name the type of at least one item".to_owned()));
    }
    match steps.iter().enumerate().find(|(index, step)| steps[..*index].contains(step)) {
        Some((_, twice)) => {
            Err(of(format!("steps names {twice:?} twice: the items of one write have one key per type")))
        }
        None => Ok(()),
    }
}
