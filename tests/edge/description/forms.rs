//! Whether a JSON value has the form that a schema describes, as far as the document uses schemas.

use std::collections::BTreeSet;

use serde_json::Value;

/// Errors with what does not fit, and where. A member that the form does not have does not fit.
pub(super) fn check_form(document: &Value, form: &Value, value: &Value) -> Result<(), String> {
    fits(document, form, value, "").and_then(|()| known_members(document, form, value, ""))
}

fn resolved<'a>(document: &'a Value, form: &'a Value) -> &'a Value {
    match form["$ref"].as_str() {
        Some(pointer) => resolved(document, document.pointer(pointer.trim_start_matches('#')).unwrap()),
        None => form,
    }
}

fn fits(document: &Value, form: &Value, value: &Value, at: &str) -> Result<(), String> {
    let form = resolved(document, form);
    for part in form["allOf"].as_array().into_iter().flatten() {
        fits(document, part, value, at)?;
    }
    if let Some(choices) = form["oneOf"].as_array().or(form["anyOf"].as_array())
        && !choices.iter().any(|choice| fits(document, choice, value, at).is_ok())
    {
        return Err(format!("{at}: {value} fits none of {choices:?}"));
    }
    let types: Vec<&str> = match &form["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of(name, value)) {
        return Err(format!("{at}: {value} is none of {types:?}"));
    }
    if let Some(words) = form["enum"].as_array().filter(|words| !words.contains(value)) {
        return Err(format!("{at}: {value} is none of {words:?}"));
    }
    for name in form["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.is_object() && value.get(name).is_none() {
            return Err(format!("{at}: {name} is missing in {value}"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let of_member = form["properties"].get(name).or(form.get("additionalProperties").filter(|any| any.is_object()));
        if let Some(of_member) = of_member {
            fits(document, of_member, member, &format!("{at}/{name}"))?;
        }
    }
    for element in value.as_array().into_iter().flatten() {
        fits(document, &form["items"], element, &format!("{at}[]"))?;
    }
    Ok(())
}

/// Errors when an object has a member that no part of its form describes.
fn known_members(document: &Value, form: &Value, value: &Value, at: &str) -> Result<(), String> {
    for element in value.as_array().into_iter().flatten() {
        known_members(document, &resolved(document, form)["items"], element, &format!("{at}[]"))?;
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    let forms = parts(document, form);
    let is_open = forms.iter().all(|form| form.get("properties").is_none());
    for (name, member) in members {
        let described = forms.iter().find_map(|form| form["properties"].get(name));
        let any = forms.iter().find_map(|form| form.get("additionalProperties").filter(|any| any.is_object()));
        match described.or(any) {
            Some(form) => known_members(document, form, member, &format!("{at}/{name}"))?,
            None if is_open => {}
            None => return Err(format!("{at}: {name} is not described")),
        }
    }
    Ok(())
}

/// The names of the members that a form describes.
pub(super) fn members(document: &Value, form: &Value) -> BTreeSet<String> {
    let properties = parts(document, form).into_iter().filter_map(|part| part["properties"].as_object());
    properties.flat_map(serde_json::Map::keys).cloned().collect()
}

/// The form and the forms that it is made of.
fn parts<'a>(document: &'a Value, form: &'a Value) -> Vec<&'a Value> {
    let form = resolved(document, form);
    let inner = ["allOf", "oneOf", "anyOf"].into_iter().filter_map(|of| form[of].as_array()).flatten();
    let inner: Vec<_> = inner.flat_map(|part| parts(document, part)).collect();
    [vec![form], inner].concat()
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not checked"),
    }
}

/// The members and the kinds of their values, without what differs from run to run.
pub(super) fn shape(value: &Value) -> Value {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
        Value::Array(elements) => {
            let mut shapes: Vec<_> = elements.iter().map(shape).collect();
            shapes.dedup();
            shapes.into()
        }
        Value::Object(members) => members.iter().map(|(name, member)| (name.clone(), shape(member))).collect(),
    }
}
