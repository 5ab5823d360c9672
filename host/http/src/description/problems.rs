//! Which problems a route can meet, each with an example.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::IntoResponse as _;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, Header, HeaderBuilder, Object, Ref, RefOr, Response, ResponseBuilder, Type};

use crate::problem::ApiError;
use crate::problem::examples::examples;

/// The name of the form of all problems.
pub(super) const SCHEMA: &str = "Problem";

/// Problems of every route that needs a caller.
pub(super) const CALLER: &[&str] = &["unauthorized", "too-many-attempts", "forbidden", "wrong-host", "internal"];

/// Problems of a route that asks the store.
pub(crate) const STORE: &[&str] = &["store-unavailable"];

/// Problems of a route that takes a JSON body.
pub(crate) const BODY: &[&str] = &["invalid-json", "wrong-content-type", "too-large", "slow-body"];

/// Problems of a route with parameters in its query.
pub(crate) const SEARCH: &[&str] = &["invalid-request"];

/// Adds the problems to what the operation answers, by their statuses.
pub(super) fn add<'a>(operation: &mut Operation, words: impl Iterator<Item = &'a [&'static str]>) {
    let known = examples();
    let mut by_status: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for word in words.flatten() {
        let example = known.iter().find(|example| example.problem_type() == *word);
        let example = example.unwrap_or_else(|| panic!("there is no example of the problem {word}"));
        by_status.entry(example.status().as_u16()).or_default().insert(word);
    }
    for (status, words) in by_status {
        operation.responses.responses.insert(status.to_string(), RefOr::T(response(&words)));
    }
}

fn response(words: &BTreeSet<&str>) -> Response {
    let named: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    let examples =
        words.iter().map(|word| (*word, RefOr::<Example>::Ref(Ref::new(format!("#/components/examples/{word}")))));
    let form = Some(Ref::from_schema_name(SCHEMA));
    let content = ContentBuilder::new().schema(form).examples_from_iter(examples).build();
    let response = ResponseBuilder::new().description(named.join(", ")).content("application/problem+json", content);
    headers(words).into_iter().fold(response, |response, (name, header)| response.header(name, header)).build()
}

/// The headers that answers with these problems have.
fn headers(words: &BTreeSet<&str>) -> Vec<(String, Header)> {
    let met = examples().into_iter().filter(|problem| words.contains(problem.problem_type()));
    let names = met.flat_map(|problem| problem.into_response().headers().keys().cloned().collect::<Vec<_>>());
    let own: BTreeSet<_> = names
        .filter(|name| ![CONTENT_TYPE, CONTENT_LENGTH].contains(name))
        .map(|name| name.as_str().to_owned())
        .collect();
    own.into_iter().map(|name| (name.clone(), header(&name))).collect()
}

/// The description of a header.
pub(super) fn header(name: &str) -> Header {
    let about = match name {
        "retry-after" => "After how many seconds another try may succeed.",
        "www-authenticate" => "`Bearer`: which token is missing or wrong, `detail` says.",
        "x-correlation-id" => "The correlation id of the write, once it is known.",
        "idempotency-key" => "The key of the write, once it is known.",
        _ => "",
    };
    let text = Object::with_type(Type::String);
    HeaderBuilder::new().schema(Some(text)).description(Some(about)).build()
}

/// An example of each problem, by its word.
pub(super) fn shown() -> BTreeMap<String, RefOr<Example>> {
    let example = |problem: &ApiError| {
        let value = serde_json::to_value(problem.document()).unwrap_or_default();
        (problem.problem_type().to_owned(), RefOr::T(ExampleBuilder::new().value(Some(value)).build()))
    };
    examples().iter().map(example).collect()
}
