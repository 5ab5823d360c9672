//! The description of the routes says what the host does: each right, each example, each problem, each form.

mod bad_requests;
mod forms;
mod problems;
mod scene;

use std::collections::BTreeSet;

use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use outbox::http::{Right, Role};
use serde_json::{Map, Value, json};

use super::HttpResponse;
use crate::support::guests::root;

use forms::check_form;
use scene::{Scene, example_path, example_request, request_to, token_of};

/// The document, as the host serves it.
fn document() -> Value {
    serde_json::from_str(&outbox::http::openapi()).unwrap()
}

/// An operation of the document.
#[derive(Clone)]
struct Operation {
    method: String,
    path: String,
    about: Value,
}

impl Operation {
    fn id(&self) -> &str {
        self.about["operationId"].as_str().unwrap()
    }

    fn right(&self) -> Option<Right> {
        self.about["x-right"].as_str().unwrap().parse().ok()
    }

    /// The words of the problems that it can meet.
    fn problems(&self) -> BTreeSet<String> {
        let responses = self.about["responses"].as_object().unwrap().values();
        let examples =
            responses.filter_map(|response| response["content"]["application/problem+json"]["examples"].as_object());
        examples.flat_map(Map::keys).cloned().collect()
    }

    /// What it answers when nothing is wrong, with the status.
    fn successes(&self) -> impl Iterator<Item = (&str, &Value)> {
        let responses = self.about["responses"].as_object().unwrap().iter();
        responses.map(|(status, response)| (status.as_str(), response)).filter(|(status, _)| status.starts_with('2'))
    }
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().iter();
        let operation = |(method, about): (&String, &Value)| Operation {
            method: method.to_uppercase(),
            path: path.clone(),
            about: about.clone(),
        };
        methods.map(operation).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn the_document_in_docs_is_the_one_that_is_served() {
    let (file, text) = (root().join("docs/openapi.json"), outbox::http::openapi());
    if std::env::var_os("OUTBOX_WRITE_REFERENCE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == text, "docs/openapi.json is old: `make reference` writes it");
}

#[test]
fn a_validator_of_openapi_accepts_the_document() {
    let file = root().join("docs/openapi.json");
    let validated = std::process::Command::new("python3")
        .args(["-m", "openapi_spec_validator", "--schema", "3.1"])
        .arg(&file)
        .env("PYTHONPATH", root().join("target/clients/python"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&validated.stdout).into_owned() + &String::from_utf8_lossy(&validated.stderr);
    assert!(validated.status.success(), "{told}");
}

#[test]
fn every_operation_says_what_it_needs_takes_and_answers() {
    let document = document();
    let mut ids = BTreeSet::new();
    for operation in operations(&document) {
        let (about, id) = (&operation.about, operation.id());
        assert!(ids.insert(id.to_owned()), "two operations are called {id}");
        assert!(about["summary"].as_str().is_some_and(|text| !text.is_empty()), "{id} has no summary");
        assert!(about["x-right"] == "none" || operation.right().is_some(), "{id} names no right");
        for parameter in about["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{id}: {parameter}");
        }
        for (name, response) in about["responses"].as_object().unwrap() {
            let is_problem = !name.starts_with('2');
            assert_eq!(response["content"].get("application/problem+json").is_some(), is_problem, "{id} {name}");
        }
        let taken = &about["requestBody"]["content"]["application/json"];
        assert!(taken.is_null() || taken["example"].is_object(), "{id}: no example of a request");
        let answers: Vec<_> =
            operation.successes().map(|(_, success)| &success["content"]["application/json"]).collect();
        let is_shown = answers.iter().any(|json| json.is_null() || !json["example"].is_null());
        assert!(is_shown || id == "description", "{id}: no example of an answer");
    }
    assert!(ids.len() > 25, "{ids:?}");
}

/// The pages for people have routes of their own, which no program uses.
#[test]
fn no_route_for_programs_is_registered_without_a_description() {
    const WAYS: [&str; 8] = [
        ".route(",
        ".nest(",
        ".route_service(",
        ".nest_service(",
        ".fallback_service(",
        "Router::new(",
        "Router::default(",
        ".merge(Router",
    ];
    for (file, code) in crate::layering::sources::sources() {
        let is_of_programs = file.starts_with("http/") && file != "http/src/page.rs";
        let found = WAYS.iter().find(|way| is_of_programs && code.contains(*way));
        assert_eq!(found, None, "{file} registers a route without describing it");
    }
}

/// The operations that need each right. The document takes them from the routes; here they are named once more.
const RIGHTS: [(&str, &str); 7] = [
    ("enqueue", "enqueue start_saga write_memory"),
    (
        "read",
        "cockpit history list_audit list_failures list_fairness_keys list_items list_jobs list_pauses list_stuck \
         show_item show_job signals",
    ),
    ("read-payload", ""),
    (
        "operate",
        "cancel_job dead_item dead_items pause_key pause_type release_item release_items replay_item replay_items \
         reschedule_item reschedule_items restore_item restore_items resume_key resume_type unblock_key",
    ),
    ("admin", "purge_items"),
    ("scrape", "metrics store_metrics"),
    ("none", "description healthz login logout readyz"),
];

#[test]
fn each_operation_needs_the_right_that_is_meant_for_it() {
    for (right, ids) in RIGHTS {
        let all = operations(&document());
        let needing = all.iter().filter(|operation| operation.about["x-right"] == right).map(Operation::id);
        assert_eq!(needing.collect::<BTreeSet<_>>(), ids.split_whitespace().collect(), "{right}");
    }
}

#[tokio::test]
async fn each_role_is_tried_on_each_route() {
    for operation in operations(&document()) {
        for role in Role::ALL {
            let scene = Scene::closed().await;
            let answer = scene.send(example_request(&operation), Some(&token_of(role))).await;
            let (id, newest) = (operation.id(), scene.newest_actor().await);
            if let Some(right) = operation.right().filter(|right| !role.rights().has(*right)) {
                assert_eq!(answer.problem(403, "forbidden")["right"], right.as_str(), "{role} {id}");
                assert_eq!(newest, None, "{role} {id}");
            } else {
                assert!(answer.status.is_success(), "{role} {id}: {answer:?}");
                let is_audited = matches!(operation.right(), Some(Right::Operate | Right::Admin));
                assert_eq!(newest, is_audited.then(|| format!("the-{role}")), "{role} {id}");
            }
        }
    }
}

#[tokio::test]
async fn every_example_is_what_the_host_takes_and_answers() {
    let document = document();
    let mut written = Map::new();
    for operation in operations(&document) {
        let scene = Scene::closed().await;
        let answer = scene.send(example_request(&operation), Some(&token_of(Role::Admin))).await;
        let (id, status) = (operation.id(), answer.status.as_u16().to_string());
        let Some((_, success)) = operation.successes().find(|(known, _)| *known == status) else {
            panic!("{id} is not described to answer {answer:?}");
        };
        headers_are_described(&operation, &answer);
        let described = &success["content"]["application/json"];
        if described.is_null() || id == "description" {
            continue;
        }
        check_form(&document, &described["schema"], &answer.json()).unwrap_or_else(|problem| panic!("{id}: {problem}"));
        written.insert(id.to_owned(), json!({ "status": answer.status.as_u16(), "response": answer.json() }));
        if std::env::var_os("OUTBOX_WRITE_REFERENCE").is_none() {
            let shown = &described["example"];
            assert_eq!(forms::shape(shown), forms::shape(&answer.json()), "{id}: {shown}\n{}", answer.text);
        }
    }
    if std::env::var_os("OUTBOX_WRITE_REFERENCE").is_some() {
        scene::write_examples(&written);
    }
}

#[tokio::test]
async fn the_overview_in_words_has_the_form_that_is_described_and_is_there_when_it_is_asked_for() {
    let (document, scene, admin) = (document(), Scene::closed().await, token_of(Role::Admin));
    let operation = operations(&document).into_iter().find(|operation| operation.id() == "cockpit").unwrap();
    let (_, success) = operation.successes().next().unwrap();
    for (path, is_asked) in [("/status/cockpit?overview=true", true), ("/status/cockpit?overview=false", false)] {
        let answer = scene.send(request_to(&operation, &[], path, ""), Some(&admin)).await.json();
        check_form(&document, &success["content"]["application/json"]["schema"], &answer).unwrap();
        let needs = answer["overview"]["needs"].as_array().is_some_and(|needs| !needs.is_empty());
        assert_eq!((answer.get("overview").is_some(), needs), (is_asked, is_asked), "{answer}");
    }
}

#[tokio::test]
async fn every_problem_of_every_route_is_met() {
    let (document, mut hosts) = (document(), problems::Hosts::default());
    for operation in operations(&document) {
        for word in operation.problems() {
            // No request causes an error of the host itself, and SQLite says what time it is without its file.
            let asks_the_time = matches!(operation.id(), "login" | "logout");
            if word == "internal" || asks_the_time && word == "store-unavailable" {
                continue;
            }
            let answer = hosts.provoke(&operation, &word).await;
            let told = answer.json();
            assert_eq!(told["type"], format!("urn:outbox:problem:{word}"), "{} {word}: {answer:?}", operation.id());
            let status = answer.status.as_u16().to_string();
            let described = &operation.about["responses"][&status]["content"]["application/problem+json"];
            assert!(described["examples"].get(&word).is_some(), "{} {status} {word}", operation.id());
            headers_are_described(&operation, &answer);
            let form = &described["schema"];
            check_form(&document, form, &told).unwrap_or_else(|problem| panic!("{} {word}: {problem}", operation.id()));
        }
    }
}

/// Every header of the answer is described, but for those that all answers have.
fn headers_are_described(operation: &Operation, answer: &HttpResponse) {
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{} {answer:?}", operation.id());
    let described = &operation.about["responses"][answer.status.as_str()]["headers"];
    let names: BTreeSet<_> =
        described.as_object().into_iter().flat_map(Map::keys).map(|name| name.to_lowercase()).collect();
    let usual = [CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE];
    for name in answer.headers.keys().filter(|name| !usual.contains(name)) {
        assert!(names.contains(name.as_str()), "{} {} is not described to have {name}", operation.id(), answer.status);
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_its_answer_is_described() {
    let (document, mut hosts) = (document(), Vec::new());
    for settings in bad_requests::hosts() {
        hosts.push(Scene::with(settings, true).await);
    }
    let without_store = Scene::closed().await;
    std::fs::remove_file(without_store.host.folder.file()).unwrap();
    hosts.push(without_store);
    for operation in operations(&document) {
        for (number, scene) in hosts.iter().enumerate() {
            for (what, request) in bad_requests::of(&operation) {
                answer_is_described(&operation, &format!("host {number}, {what}"), &scene.send(request, None).await);
            }
        }
    }
}

fn answer_is_described(operation: &Operation, what: &str, answer: &HttpResponse) {
    let (id, status) = (operation.id(), answer.status.as_str());
    let described = &operation.about["responses"][status];
    assert!(described.is_object(), "{id}, {what}: {answer:?} is not described");
    headers_are_described(operation, answer);
    if answer.status.is_success() {
        return;
    }
    let told = answer.json();
    let word = told["type"].as_str().unwrap().trim_start_matches("urn:outbox:problem:").to_owned();
    let known = &described["content"]["application/problem+json"]["examples"];
    assert!(known.get(&word).is_some(), "{id}, {what}: {word} is not described: {told}");
}

/// The words in backticks that a message has, but for the one that was wrong.
fn quoted(problem: &Value) -> BTreeSet<String> {
    let words = problem["detail"].as_str().unwrap().split('`').skip(1).step_by(2);
    words.filter(|word| *word != "none_such").map(str::to_owned).collect()
}

#[tokio::test]
async fn members_and_parameters_are_described_as_they_are_read() {
    let document = document();
    let (scene, admin) = (Scene::closed().await, token_of(Role::Admin));
    let told = async |operation: &Operation, path: &str, body: &str, word: &str| {
        let answer = scene.send(request_to(operation, &[], path, body), Some(&admin)).await;
        answer.problem(400, word)
    };
    for operation in operations(&document) {
        let (id, path) = (operation.id(), example_path(&operation));
        let form = &operation.about["requestBody"]["content"]["application/json"]["schema"];
        let members = forms::members(&document, form);
        if !members.is_empty() {
            let problem = told(&operation, &path, r#"{"none_such":1}"#, "invalid-json").await;
            assert_eq!(quoted(&problem), members, "{id}");
        }
        if id == "replay_items" {
            let problem = told(&operation, &path, r#"{"filter":{"none_such":1}}"#, "invalid-json").await;
            assert_eq!(
                quoted(&problem),
                forms::members(&document, &json!({ "$ref": "#/components/schemas/FilterBody" }))
            );
        }
        let parameters = operation.about["parameters"].as_array().into_iter().flatten();
        let named: BTreeSet<_> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        if !named.is_empty() {
            let problem = told(&operation, &format!("{path}?none_such=1"), "", "invalid-request").await;
            let detail = problem["detail"].as_str().unwrap();
            let is_told =
                |name: &String| detail.split(|c: char| !c.is_ascii_lowercase() && c != '_').any(|word| word == name);
            assert!(named.iter().all(is_told), "{id}: {named:?}: {detail}");
            assert!(quoted(&problem).is_subset(&named), "{id}: {named:?}: {detail}");
        }
    }
}

#[test]
fn every_problem_type_has_an_example() {
    let documented = crate::documents::rows(&crate::documents::read("docs/errors.md"), "## Problem types");
    let document = document();
    let examples = document["components"]["examples"].as_object().unwrap();
    assert_eq!(examples.keys().cloned().collect::<BTreeSet<_>>(), documented);
    let mut met: BTreeSet<_> = operations(&document).iter().flat_map(Operation::problems).collect();
    // These two answer what is no route, and the last one a form of the cockpit, whose routes are not described.
    met.extend(["no-route", "wrong-method", "expired-form"].map(str::to_owned));
    assert_eq!(met, documented);
    for (word, example) in examples {
        let form = json!({ "$ref": "#/components/schemas/Problem" });
        check_form(&document, &form, &example["value"]).unwrap_or_else(|problem| panic!("{word}: {problem}"));
    }
}
