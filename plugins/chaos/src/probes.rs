//! Orders that look for things which a sandbox should hide. Each returns what it found.

use std::{env, fs, net};

use outbox_handler::Item;
use serde_json::{Value, json};

pub(crate) fn item(item: &Item) -> Value {
    json!({
        "id": item.id,
        "type": item.type_,
        "idem_key": item.idem_key,
        "cid": item.cid,
        "saga": item.saga,
        "ordering_key": item.ordering_key,
        "attempt": item.attempt,
        "maybe_executed": item.maybe_executed,
        "content_type": item.content_type,
        "headers": item.headers,
        "created_at": item.created_at,
        "deadline": item.deadline,
        "attributes": item.attributes,
    })
}

pub(crate) fn environment() -> Value {
    json!({ "vars": env::vars().collect::<Vec<_>>(), "args": env::args().collect::<Vec<_>>() })
}

pub(crate) fn files() -> Value {
    let entries = fs::read_dir("/").map(|entries| entries.filter_map(Result::ok).count());
    json!({
        "passwd": found(&fs::read_to_string("/etc/passwd")),
        "entries": found(&entries),
        "written": found(&fs::write("chaos.txt", "chaos")),
    })
}

pub(crate) fn socket(address: &str) -> Value {
    json!({ "connected": found(&net::TcpStream::connect(address)) })
}

fn found<T>(result: &std::io::Result<T>) -> Value {
    match result {
        Ok(_) => true.into(),
        Err(error) => error.to_string().into(),
    }
}
