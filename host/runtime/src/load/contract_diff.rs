//! How the contract that a component was built against differs from this host's, for messages.
//!
//! The types of a function are compared as paths, for example `handle: item.saga` is an option. Two contracts differ
//! where their paths do; what is below a difference is left out.

use std::collections::{BTreeMap, BTreeSet};

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Type};
use wit_parser::{Function, Resolve, TypeDefKind};

use crate::load::contract::{CONTRACT_VERSION, PACKAGE, WIT, interface_name};

/// The kind of type at each path of a function.
type TypePaths = BTreeMap<String, String>;

/// The differences between a component's contract and this host's, in words; none if they are the same.
pub(crate) fn differences(component: &Component) -> Vec<String> {
    let (component_type, engine) = (component.component_type(), component.engine());
    let imports = component_type.imports(engine).map(|(name, item)| (name, item.ty));
    let exports = component_type.exports(engine).map(|(name, item)| (name, item.ty));
    let mut differences = Vec::new();
    for (name, item) in imports.chain(exports) {
        let Some((interface, version)) = name.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@')) else {
            continue;
        };
        if version != CONTRACT_VERSION {
            differences.push(format!("{interface} is of version {version}; this host has {CONTRACT_VERSION}"));
        }
        if let ComponentItem::ComponentInstance(instance) = item {
            for (function, item) in instance.exports(engine) {
                if let ComponentItem::ComponentFunc(found) = item.ty {
                    differences.extend(compare(interface, function, &found_paths(&found)));
                }
            }
        }
    }
    differences
}

fn compare(interface: &str, function: &str, found: &TypePaths) -> Vec<String> {
    let function_path = format!("{interface}.{function}");
    let Some(expected) = expected_paths(interface, function) else {
        return vec![format!("{function_path} is unknown to this host")];
    };
    let differs = |path: &str| expected.get(path) != found.get(path);
    let paths: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let first = paths.into_iter().filter(|path| differs(path) && !parents(path).any(&differs));
    let differences = first.map(|path| match (expected.get(path), found.get(path)) {
        (Some(kind), Some(other)) => format!("{function_path}: {path} is {other} to it, and {kind} here"),
        (Some(kind), None) => format!("{function_path}: it does not know {path}, which is {kind} here"),
        (None, other) => {
            format!("{function_path}: {path}, to it {}, is unknown here", other.map_or("", String::as_str))
        }
    });
    differences.collect()
}

/// The paths that contain a path.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.char_indices().filter(|(_, c)| matches!(c, '.' | ' ')).map(|(at, _)| &path[..at])
}

fn found_paths(function: &wasmtime::component::types::ComponentFunc) -> TypePaths {
    let mut paths = TypePaths::new();
    function.params().for_each(|(name, ty)| found(name, &ty, &mut paths));
    function.results().for_each(|ty| found("result", &ty, &mut paths));
    paths
}

fn found(path: &str, ty: &Type, paths: &mut TypePaths) {
    let mut below = |name: &str, ty: &Type| found(&format!("{path}{name}"), ty, paths);
    let kind = match ty {
        Type::Record(record) => {
            record.fields().for_each(|field| below(&format!(".{}", field.name), &field.ty));
            "a record".to_owned()
        }
        Type::Variant(variant) => {
            let cases: Vec<_> = variant.cases().map(|case| case.name.to_owned()).collect();
            let payloads = variant.cases().filter_map(|case| Some((case.name, case.ty?)));
            payloads.for_each(|(name, ty)| below(&format!(".{name}"), &ty));
            listed("a variant", &cases)
        }
        Type::Enum(cases) => listed("an enum", &cases.names().map(str::to_owned).collect::<Vec<_>>()),
        Type::Tuple(tuple) => {
            tuple.types().enumerate().for_each(|(at, ty)| below(&format!(".{at}"), &ty));
            "a tuple".to_owned()
        }
        Type::Option(option) => {
            below(" value", &option.ty());
            "an option".to_owned()
        }
        Type::List(list) => {
            below(" element", &list.ty());
            "a list".to_owned()
        }
        Type::Result(result) => {
            result.ok().iter().for_each(|ty| below(" ok", ty));
            result.err().iter().for_each(|ty| below(" error", ty));
            "a result".to_owned()
        }
        Type::Float32 => "f32".to_owned(),
        Type::Float64 => "f64".to_owned(),
        other => format!("{other:?}").split('(').next().unwrap_or_default().to_lowercase(),
    };
    paths.insert(path.to_owned(), kind);
}

fn expected_paths(interface: &str, function: &str) -> Option<TypePaths> {
    let mut contract = Resolve::default();
    for (path, text) in WIT {
        contract.push_source(path, text).ok()?;
    }
    let mut interfaces = contract.interfaces.iter().map(|(id, interface)| (contract.id_of(id), interface));
    let (_, known) = interfaces.find(|(id, _)| *id == Some(interface_name(interface)))?;
    let Function { params, result, .. } = known.functions.get(function)?;
    let mut paths = TypePaths::new();
    let params = params.iter().map(|param| (param.name.as_str(), param.ty));
    for (name, ty) in params.chain(result.iter().map(|ty| ("result", *ty))) {
        expected(&contract, name, ty, &mut paths);
    }
    Some(paths)
}

fn expected(contract: &Resolve, path: &str, ty: wit_parser::Type, paths: &mut TypePaths) {
    let wit_parser::Type::Id(id) = ty else {
        paths.insert(path.to_owned(), format!("{ty:?}").to_lowercase());
        return;
    };
    let mut below = |name: &str, ty| expected(contract, &format!("{path}{name}"), ty, paths);
    let kind = match &contract.types[id].kind {
        TypeDefKind::Type(ty) => return below("", *ty),
        TypeDefKind::Record(record) => {
            record.fields.iter().for_each(|field| below(&format!(".{}", field.name), field.ty));
            "a record".to_owned()
        }
        TypeDefKind::Variant(variant) => {
            let payloads = variant.cases.iter().filter_map(|case| Some((&case.name, case.ty?)));
            payloads.for_each(|(name, ty)| below(&format!(".{name}"), ty));
            listed("a variant", &variant.cases.iter().map(|case| case.name.clone()).collect::<Vec<_>>())
        }
        TypeDefKind::Enum(cases) => {
            listed("an enum", &cases.cases.iter().map(|case| case.name.clone()).collect::<Vec<_>>())
        }
        TypeDefKind::Tuple(tuple) => {
            tuple.types.iter().enumerate().for_each(|(at, ty)| below(&format!(".{at}"), *ty));
            "a tuple".to_owned()
        }
        TypeDefKind::Option(ty) => {
            below(" value", *ty);
            "an option".to_owned()
        }
        TypeDefKind::List(ty) => {
            below(" element", *ty);
            "a list".to_owned()
        }
        TypeDefKind::Result(result) => {
            result.ok.iter().for_each(|ty| below(" ok", *ty));
            result.err.iter().for_each(|ty| below(" error", *ty));
            "a result".to_owned()
        }
        other => format!("a {}", other.as_str()),
    };
    paths.insert(path.to_owned(), kind);
}

fn listed(kind: &str, cases: &[String]) -> String {
    format!("{kind} of {}", cases.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences_of(text: &str) -> Vec<String> {
        let mut config = wasmtime::Config::new();
        config.wasm_component_model(true);
        let engine = wasmtime::Engine::new(&config).unwrap();
        differences(&Component::new(&engine, wat::parse_str(text).unwrap()).unwrap())
    }

    /// A component that imports a function of the state interface.
    fn importing(version: &str, function: &str) -> String {
        format!("(component (import \"outbox:handler/state@{version}\" (instance {function})))")
    }

    const ERROR: &str = r#"(type $e' (variant (case "denied") (case "too-large") (case "quota") (case "other" string)))
        (export "error" (type $e (eq $e')))"#;

    #[test]
    fn a_component_that_fits_differs_in_nothing() {
        let get = format!(
            "{ERROR} (export \"get\" (func (param \"key\" string) (result (result (option (list u8)) (error $e)))))"
        );
        assert_eq!(differences_of(&importing(CONTRACT_VERSION, &get)), [""; 0]);
    }

    #[test]
    fn what_differs_is_told_where_it_begins() {
        let get =
            r#"(export "get" (func (param "key" u32) (param "from" (option string)) (result (option (list u8)))))"#;
        let differences = differences_of(&importing("0.2.0", get));
        assert_eq!(
            differences,
            [
                "state is of version 0.2.0; this host has 0.1.0",
                "state.get: from, to it an option, is unknown here",
                "state.get: key is u32 to it, and string here",
                "state.get: result is an option to it, and a result here",
            ]
        );
        let list = differences_of(&importing(CONTRACT_VERSION, "(export \"list\" (func (result (list string))))"));
        assert_eq!(list, ["state.list is unknown to this host"]);
    }
}
