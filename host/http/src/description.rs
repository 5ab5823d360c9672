//! The description of the routes in OpenAPI 3.1: what each needs, takes and answers, and which problems it can meet.
//!
//! A route is described where it is registered, so none is served that the description lacks, and the right that the
//! description states is the one that is asked for. The document is the same for every host.

pub(crate) mod forms;
mod leaves;
mod problems;

use std::sync::Arc;

use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::{Extension, http::header::CONTENT_TYPE};
use serde_json::Value;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, Paths};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, RefOr};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::access::{Right, SESSION_COOKIE, require};
use crate::server_state::ServerState;

pub(crate) use crate::description::forms::{
    AuditParameters, CockpitParameters, ContractHeaders, FilterBody, HistoryParameters, Id, KeyTotalsParameters,
    LimitParameter, NewItemBody, PageParameters, SentId, SignalParameters, StuckParameters, UnixMillis,
};
pub(crate) use crate::description::leaves::{
    ActionForm, BreakerStateWord, ChangesForm, ExchangeForm, FailureClassWord, ItemGroupForm, JobStateWord, PluginForm,
    RefusedItemForm, SagaForm, SelectionForm, SignalDataForm, StatusWord, StuckKindWord,
};
pub(crate) use crate::description::problems::{BODY, SEARCH, STORE};

/// Routes with their description.
pub(crate) type Routes = OpenApiRouter<Arc<ServerState>>;

/// The methods of one path with their description.
type Methods = UtoipaMethodRouter<Arc<ServerState>>;

/// An example of each operation: a request and its answer. Tests send the request, and compare the answer.
const EXAMPLES: &str = include_str!("description/examples.json");

/// A route for callers with the right, which can also meet these problems.
pub(crate) fn needs(right: Right, also: &[&[&'static str]], (schemas, mut paths, methods): Methods) -> Methods {
    for (operation, is_safe) in operations(&mut paths) {
        let cross_site: &[&str] = if is_safe { &[] } else { &["cross-site"] };
        problems::add(operation, [problems::CALLER, cross_site].into_iter().chain(also.iter().copied()));
        operation.security = Some(["token", "session"].map(|name| SecurityRequirement::new(name, [""; 0])).into());
        set_right(operation, right.as_str());
    }
    (schemas, paths, methods.route_layer(middleware::from_fn_with_state(right, require)))
}

/// A route that needs no caller, and can meet these problems.
pub(crate) fn open(also: &[&[&'static str]], (schemas, mut paths, methods): Methods) -> Methods {
    for (operation, _) in operations(&mut paths) {
        problems::add(operation, also.iter().copied());
        operation.security = Some(Vec::new());
        set_right(operation, "none");
    }
    (schemas, paths, methods)
}

/// Routes of writes: whatever they answer has the identity of the write.
pub(crate) fn echoes((schemas, mut paths, methods): Methods) -> Methods {
    for (operation, _) in operations(&mut paths) {
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                let names = ["x-correlation-id", "idempotency-key"];
                response.headers.extend(names.map(|name| (name.to_owned(), RefOr::T(problems::header(name)))));
            }
        }
    }
    (schemas, paths, methods)
}

fn set_right(operation: &mut Operation, right: &str) {
    operation.extensions = Some(Extensions::from_iter([("x-right".to_owned(), Value::from(right))]));
}

/// The operations of the paths, and whether each changes nothing.
fn operations<'a>(paths: &'a mut Paths) -> impl Iterator<Item = (&'a mut Operation, bool)> {
    let of_item = |item: &'a mut PathItem| [(&mut item.get, true), (&mut item.post, false)];
    let all = paths.paths.values_mut().flat_map(of_item);
    all.filter_map(|(operation, is_safe)| Some((operation.as_mut()?, is_safe)))
}

/// No routes yet, and what the description says of all.
pub(crate) fn begin() -> Routes {
    let info = InfoBuilder::new()
        .title("outbox")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(include_str!("description/about.md").trim_end()))
        .license(Some(utoipa::openapi::License::new("Apache-2.0")));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info.build()).build())
}

/// The document, with what it says of callers and with the examples.
pub(crate) fn finish(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_default();
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("A token of the host."));
    components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    let cookie = ApiKeyValue::with_description(SESSION_COOKIE, "The cookie that `POST /login` sets.");
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    let problem = <crate::problem::document::ProblemDocument<'_> as utoipa::PartialSchema>::schema();
    components.schemas.insert(problems::SCHEMA.to_owned(), problem);
    components.examples = problems::shown();
    let examples: Value = serde_json::from_str(EXAMPLES).expect("the examples are JSON");
    for (operation, _) in operations(&mut document.paths) {
        let id = operation.operation_id.clone().unwrap_or_default();
        add_example(operation, &examples[&id]);
    }
    document
}

/// Puts the example into what the operation takes and answers as JSON.
fn add_example(operation: &mut Operation, example: &Value) {
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        show(body.content.get_mut("application/json"), example.get("request"));
    }
    let status = example["status"].as_u64().unwrap_or_default().to_string();
    if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(&status) {
        show(response.content.get_mut("application/json"), example.get("response"));
    }
}

fn show(content: Option<&mut RefOr<Content>>, example: Option<&Value>) {
    if let (Some(RefOr::T(content)), Some(example)) = (content, example) {
        content.example = Some(example.clone());
    }
}

/// The text of the document.
pub(crate) fn text(document: &OpenApi) -> String {
    let pretty = document.to_pretty_json().expect("a document of text and numbers is JSON");
    pretty + "\n"
}

/// The description of these routes, OpenAPI 3.1
#[utoipa::path(get, path = "/openapi.json", operation_id = "description", tag = "host", responses(
    (status = 200, description = "This document", body = Object)
))]
pub(crate) async fn openapi_json(Extension(Document(text)): Extension<Document>) -> Response {
    ([(CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

/// The text of the document, as it is served.
#[derive(Clone)]
pub(crate) struct Document(pub(crate) Arc<str>);
