//! Orders that reach outside through the contract.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, http, log, state};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::order::one;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpCall {
    #[serde(default = "post")]
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// How often the body is repeated.
    #[serde(default = "one")]
    body_times: usize,
    effect: Option<String>,
    timeout_ms: Option<u64>,
    /// Fail as the answer's status requires, instead of returning the answer.
    #[serde(default)]
    classify: bool,
}

fn post() -> String {
    "POST".to_owned()
}

impl HttpCall {
    pub(crate) fn send(self) -> Result<Value, Failure> {
        let classify = self.classify;
        let response = self.request().send()?;
        let response = if classify { response.ok_or_failure()? } else { response };
        Ok(json!({ "status": response.status, "body": String::from_utf8_lossy(&response.body) }))
    }

    /// Follows redirects, as the HTTP client of a programming language would.
    pub(crate) fn follow(mut self) -> Result<Value, Failure> {
        loop {
            let response = self.clone().request().send()?;
            match response.header("location") {
                Some(location) => location.clone_into(&mut self.url),
                None => {
                    return Ok(json!({ "status": response.status, "body": String::from_utf8_lossy(&response.body) }));
                }
            }
        }
    }

    /// Keeps the request alive until the instance ends, because dropping it would cancel it.
    pub(crate) fn forget(self) -> Result<Value, Failure> {
        std::mem::forget(self.request().start()?);
        Ok(Value::Null)
    }

    fn request(self) -> http::Request {
        let mut request = http::Request::new(self.method, self.url).body(self.body.repeat(self.body_times));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(name) = &self.effect {
            request = request.effect(name);
        }
        match self.timeout_ms {
            Some(ms) => request.timeout(Duration::from_millis(ms)),
            None => request,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Emit {
    #[serde(rename = "type")]
    item_type: String,
    #[serde(default)]
    payload: Value,
    name: Option<String>,
    ordering_key: Option<String>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default = "one")]
    count: usize,
}

impl Emit {
    pub(crate) fn send(self) -> Result<Value, Failure> {
        let item = NewItem {
            name: self.name,
            ordering_key: self.ordering_key,
            delay_ms: self.delay_ms,
            ..NewItem::json(self.item_type, &self.payload)?
        };
        (0..self.count).try_for_each(|_| followups::emit(&item))?;
        Ok(Value::Null)
    }
}

pub(crate) fn state_get(key: &str) -> Result<Value, Failure> {
    Ok(state::get_json(key)?.unwrap_or_default())
}

pub(crate) fn state_put(key: &str, value: &Value) -> Result<Value, Failure> {
    state::put_json(key, value)?;
    Ok(Value::Null)
}

pub(crate) fn state_fill(keys: usize, bytes: usize) -> Result<Value, Failure> {
    (0..keys).try_for_each(|key| state::put(&format!("fill-{key}"), &vec![0; bytes]))?;
    Ok(Value::Null)
}

pub(crate) fn state_incr(key: &str) -> Result<Value, Failure> {
    let sum = state::get_json::<u64>(key)?.unwrap_or_default() + 1;
    state::put_json(key, &sum)?;
    Ok(sum.into())
}

pub(crate) fn state_delete(key: &str) -> Result<Value, Failure> {
    state::delete(key)?;
    Ok(Value::Null)
}

pub(crate) fn log(message: &str, lines: usize) -> Value {
    (0..lines).for_each(|_| log::info(message));
    Value::Null
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the host does with them is under test")]
pub(crate) fn stderr(message: &str, lines: usize) -> Value {
    for _ in 0..lines {
        eprintln!("{message}");
        println!("{message}");
    }
    Value::Null
}
