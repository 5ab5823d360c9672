//! Whether a component fits this host: the form of its bytes, its imports and exports, its description, and whether the
//! manifest grants what it imports. Every refusal says what was found and what to do.

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::bindings::exports::outbox::handler::handler::Description;
use crate::load::contract::{interface_name, package_name};
use crate::load::contract_diff;
use crate::load::manifest::limits::Limits;
use crate::load::manifest::value::show_size;
use crate::load::source::LoadError;
use crate::outgoing::grant::Grants;

/// Types that one component may describe. Each is a row wherever plugins are listed.
const TYPES_MAX: usize = 256;
/// Bytes of the name and of the version that a component reports. Both are shown in tables.
const WORD_MAX: usize = 128;

/// The interface of the contract that a handler exports.
const EXPORTED_INTERFACE: &str = "handler";

/// The interfaces that a component may import: those of the contract and those that language libraries need.
const ALLOWED_IMPORTS: [&str; 11] = [
    "outbox:handler/",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:config/store",
    "wasi:filesystem/",
    "wasi:http/types",
    "wasi:http/outgoing-handler",
    "wasi:io/",
    "wasi:logging/logging",
    "wasi:random/",
    "wasi:sockets/",
];

/// Refuses bytes that are no component, and a component that is larger than its manifest allows. Reads only the
/// header.
pub(crate) fn check_bytes(bytes: &[u8], limits: &Limits) -> Result<(), LoadError> {
    if bytes.len() as u64 > limits.component {
        let most = show_size(limits.component);
        return Err(LoadError::new(format!("it has {} bytes: `limits.component` is {most}", bytes.len())));
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(LoadError::new(
            "it is precompiled code, which is never taken from a plugin folder: put the .wasm there",
        ));
    }
    match bytes {
        [b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::new(
            "it is a core module, not a component: build it for wasm32-wasip2, or wrap it with `wasm-tools component new`",
        )),
        [b'\0', b'a', b's', b'm', ..] => {
            Err(LoadError::new("it is WebAssembly of a version that this host does not know"))
        }
        _ => Err(LoadError::new("it is not WebAssembly: its first bytes are not \\0asm")),
    }
}

/// The names of a component's imports.
pub(crate) fn imports(component: &Component) -> Vec<String> {
    let component_type = component.component_type();
    component_type.imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
}

/// The world that a component was built for, by the version in its exports.
pub(crate) fn target(component: &Component) -> Option<String> {
    let version = |name: &String| Some(name.strip_prefix("outbox:handler/handler@")?.to_owned());
    exports(component).iter().find_map(version).map(|version| format!("outbox:handler/plugin@{version}"))
}

/// The names of a component's exports.
pub(crate) fn exports(component: &Component) -> Vec<String> {
    let component_type = component.component_type();
    component_type.exports(component.engine()).map(|(name, _)| name.to_owned()).collect()
}

/// Refuses a component that was built for another world.
pub(crate) fn check_world(component: &Component) -> Result<(), LoadError> {
    if component.get_export_index(None, interface_name(EXPORTED_INTERFACE)).is_none() {
        return Err(wrong_export(component));
    }
    let is_foreign = |name: &String| !ALLOWED_IMPORTS.iter().any(|allowed| name.starts_with(allowed));
    match imports(component).into_iter().find(is_foreign) {
        Some(name) => Err(LoadError::new(format!(
            "it imports {name}, which this host does not offer: a handler targets the world `plugin` of {}",
            package_name()
        ))),
        None => Ok(()),
    }
}

/// Refuses a description that is too long to be shown in tables.
pub(crate) fn check_description(description: &Description) -> Result<(), LoadError> {
    let Description { name, version, types } = description;
    if types.len() > TYPES_MAX {
        return Err(LoadError::new(format!("it describes {} types: the most is {TYPES_MAX}", types.len())));
    }
    match [("name", name), ("version", version)].into_iter().find(|(_, word)| word.len() > WORD_MAX) {
        Some((what, word)) => {
            Err(LoadError::new(format!("it describes a {what} of {} bytes: the most is {WORD_MAX}", word.len())))
        }
        None => Ok(()),
    }
}

fn wrong_export(component: &Component) -> LoadError {
    let exports = exports(component);
    let found = match exports.iter().find(|name| name.starts_with("outbox:handler/handler")) {
        Some(other) => format!("it was built for another version of the contract: it exports {other}"),
        None if exports.is_empty() => "it exports nothing".to_owned(),
        None => format!("it was built for another world: it exports {}", exports.join(", ")),
    };
    LoadError::new(format!("{found}; a handler exports {}", interface_name(EXPORTED_INTERFACE)))
}

/// The refusal of a component whose imports have the right names and the wrong types.
pub(crate) fn incompatible(component: &Component, reason: &wasmtime::Error) -> LoadError {
    let (differences, contract) = (contract_diff::differences(component), package_name());
    if !differences.is_empty() {
        let differences = differences.join("; ");
        return LoadError::new(format!(
            "it was built for another contract than {contract}: {differences}; rebuild it against this host's wit/"
        ));
    }
    let imports = imports(component).join(", ");
    LoadError::new(format!(
        "it does not fit {contract}: {reason:#}; rebuild it against this host's wit/ (it imports {imports})"
    ))
}

/// The manifest lines that would grant what a component imports and is not granted.
pub(crate) fn missing_grants(imports: &[String], grants: &Grants) -> Option<String> {
    let wants = |interface: &str| imports.iter().any(|name| name.split('@').next() == Some(interface));
    let mut table = Vec::new();
    if wants("outbox:handler/state") && !grants.state {
        table.push("state = true");
    }
    if wants("outbox:handler/followups") && grants.emit.is_empty() {
        table.push("emit = [\"TYPE\"]");
    }
    let mut lines = Vec::new();
    if !table.is_empty() {
        lines.push(format!("[grant]\n{}", table.join("\n")));
    }
    if wants("wasi:http/outgoing-handler") && grants.http.is_empty() {
        lines.push("[[grant.http]]\norigin = \"https://HOST\"\nmethods = [\"POST\"]\npath = \"/PATH\"".to_owned());
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_refused_for_what_it_is() {
        let refusal = |bytes: &[u8]| check_bytes(bytes, &Limits::default()).unwrap_err().to_string();
        assert!(refusal(&wat::parse_str("(module)").unwrap()).contains("core module"));
        assert!(refusal(b"hello").contains("not WebAssembly"));
        let code = Engine::default().precompile_component(&wat::parse_str("(component)").unwrap()).unwrap();
        assert!(refusal(&code).contains("precompiled"));
    }

    #[test]
    fn a_component_may_be_as_large_as_its_manifest_allows() {
        let bytes = wat::parse_str("(component)").unwrap();
        let most = |component: usize| Limits { component: component as u64, ..Limits::default() };
        assert!(check_bytes(&bytes, &most(bytes.len())).is_ok());
        let refusal = check_bytes(&bytes, &most(bytes.len() - 1)).unwrap_err().to_string();
        assert_eq!(refusal, format!("it has {} bytes: `limits.component` is {}B", bytes.len(), bytes.len() - 1));
    }

    #[test]
    fn a_description_is_short_enough_to_be_shown() {
        let description = |types: usize, name: usize| Description {
            name: "n".repeat(name),
            version: "1".to_owned(),
            types: vec!["t".to_owned(); types],
        };
        assert!(check_description(&description(TYPES_MAX, WORD_MAX)).is_ok());
        let refusal = |description| check_description(&description).unwrap_err().to_string();
        assert!(refusal(description(TYPES_MAX + 1, 1)).contains("the most is 256"));
        assert!(refusal(description(1, WORD_MAX + 1)).contains("the most is 128"));
    }

    #[test]
    fn only_imports_that_are_not_granted_are_missing() {
        let imports = ["outbox:handler/state@0.1.0", "wasi:http/types@0.2.3", "wasi:http/outgoing-handler@0.2.3"];
        let imports = imports.map(str::to_owned);
        let lines = missing_grants(&imports, &Grants::default()).unwrap();
        assert!(lines.starts_with("[grant]\nstate = true\n[[grant.http]]\norigin ="), "{lines}");
        let granted = Grants { state: true, ..Grants::default() };
        assert!(missing_grants(&imports[..2], &granted).is_none());
    }
}
