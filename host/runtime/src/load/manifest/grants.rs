//! `[grant]` of a manifest: what a plugin may do besides computing. The default is nothing.

use crate::load::manifest::environment::EnvLookup;
use crate::load::manifest::error::ManifestError;
use crate::load::manifest::section::Section;
use crate::load::manifest::value::{boolean, text, texts};
use crate::outgoing::grant::{Grants, HttpGrant, SecretHeader};

/// Reads `[grant]`.
pub(crate) fn read(mut section: Section<'_>, environment: &EnvLookup) -> Result<Grants, ManifestError> {
    let state = section.take("state", |value| boolean(&value))?.unwrap_or(false);
    let emit = section.take("emit", texts)?.unwrap_or_default();
    let rules = section.sections("http")?.into_iter().map(|rule| read_http(rule, environment));
    let http = rules.collect::<Result<_, _>>()?;
    section.finish()?;
    Ok(Grants { state, emit, http })
}

fn read_http(mut section: Section<'_>, environment: &EnvLookup) -> Result<HttpGrant, ManifestError> {
    let origin = section.take("origin", |value| text(value)?.parse())?.ok_or_else(|| section.missing("origin"))?;
    let methods = section.take("methods", |value| {
        let accepted = || r#"an array of methods such as ["POST"]"#.to_owned();
        texts(value)?.iter().map(|word| word.parse().map_err(|_| accepted())).collect()
    })?;
    let path = section.take("path", |value| {
        let path = text(value)?;
        if path.starts_with('/') {
            Ok(path)
        } else {
            Err("a path that starts with /, where * stands for anything".to_owned())
        }
    })?;
    let private = section.take("private", |value| boolean(&value))?.unwrap_or(false);
    let secrets = section.sections("secrets")?.into_iter().map(|secret| read_secret(secret, environment));
    let secrets = secrets.collect::<Result<_, _>>()?;
    section.finish()?;
    Ok(HttpGrant { origin, methods, path, private, secrets })
}

fn read_secret(mut section: Section<'_>, environment: &EnvLookup) -> Result<SecretHeader, ManifestError> {
    let variable = section.take("env", text)?.ok_or_else(|| section.missing("env"))?;
    let header = section
        .take("header", |value| text(value)?.parse().map_err(|_| "the name of an HTTP header".to_owned()))?
        .ok_or_else(|| section.missing("header"))?;
    let template = section.take("template", |value| {
        let template = text(value)?;
        if template.matches("{}").count() == 1 { Ok(template) } else { Err("text with one {} in it".to_owned()) }
    })?;
    section.finish()?;
    let key = "grant.http.secrets.env".to_owned();
    let Some(token) = environment(&variable) else { return Err(ManifestError::Unset { key, variable }) };
    // The message has the name of the variable only: its value is a secret.
    let invalid_value =
        |accepted: &str| ManifestError::Value { key, value: format!("${{{variable}}}"), accepted: accepted.to_owned() };
    SecretHeader::new(header, template.as_deref().unwrap_or("{}"), &token)
        .map_err(|_| invalid_value("printable on one line, to be sent in a header"))
}
