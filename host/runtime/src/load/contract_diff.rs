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
    function.params().for_each(|(name, ty)| add_paths(name, &ty, &found_shape, &mut paths));
    function.results().for_each(|ty| add_paths("result", &ty, &found_shape, &mut paths));
    paths
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
        add_paths(name, &ty, &|ty| expected_shape(&contract, *ty), &mut paths);
    }
    Some(paths)
}

/// Adds the path of a type and those below it.
fn add_paths<T>(path: &str, ty: &T, shape_of: &impl Fn(&T) -> Shape<T>, paths: &mut TypePaths) {
    let Shape { kind, members } = shape_of(ty);
    for (name, ty) in members {
        add_paths(&format!("{path}{name}"), &ty, shape_of, paths);
    }
    paths.insert(path.to_owned(), kind);
}

fn found_shape(ty: &Type) -> Shape<Type> {
    match ty {
        Type::Record(record) => Shape::record(record.fields().map(|field| (field.name, field.ty))),
        Type::Variant(variant) => Shape::variant(variant.cases().map(|case| (case.name, case.ty))),
        Type::Enum(cases) => Shape::enumeration(cases.names()),
        Type::Tuple(tuple) => Shape::tuple(tuple.types()),
        Type::Option(option) => Shape::option(option.ty()),
        Type::List(list) => Shape::list(list.ty()),
        Type::Result(result) => Shape::result(result.ok(), result.err()),
        Type::Float32 => Shape::plain("f32".to_owned()),
        Type::Float64 => Shape::plain("f64".to_owned()),
        other => Shape::plain(format!("{other:?}").split('(').next().unwrap_or_default().to_lowercase()),
    }
}

fn expected_shape(contract: &Resolve, ty: wit_parser::Type) -> Shape<wit_parser::Type> {
    let wit_parser::Type::Id(id) = ty else { return Shape::plain(format!("{ty:?}").to_lowercase()) };
    match &contract.types[id].kind {
        TypeDefKind::Type(ty) => expected_shape(contract, *ty),
        TypeDefKind::Record(record) => Shape::record(record.fields.iter().map(|field| (field.name.as_str(), field.ty))),
        TypeDefKind::Variant(variant) => Shape::variant(variant.cases.iter().map(|case| (case.name.as_str(), case.ty))),
        TypeDefKind::Enum(cases) => Shape::enumeration(cases.cases.iter().map(|case| case.name.as_str())),
        TypeDefKind::Tuple(tuple) => Shape::tuple(tuple.types.iter().copied()),
        TypeDefKind::Option(ty) => Shape::option(*ty),
        TypeDefKind::List(ty) => Shape::list(*ty),
        TypeDefKind::Result(result) => Shape::result(result.ok, result.err),
        other => Shape::plain(format!("a {}", other.as_str())),
    }
}

/// One level of a type: what it is, in words, and the types in it.
struct Shape<T> {
    kind: String,
    /// Each with what its path has after the path of this type.
    members: Vec<(String, T)>,
}

impl<T> Shape<T> {
    fn plain(kind: String) -> Self {
        Self { kind, members: Vec::new() }
    }

    fn of(kind: &str, members: impl IntoIterator<Item = (String, T)>) -> Self {
        Self { kind: kind.to_owned(), members: members.into_iter().collect() }
    }

    fn record<'a>(fields: impl Iterator<Item = (&'a str, T)>) -> Self {
        Self::of("a record", fields.map(|(name, ty)| (format!(".{name}"), ty)))
    }

    fn variant<'a>(cases: impl Iterator<Item = (&'a str, Option<T>)>) -> Self {
        let (names, payloads): (Vec<_>, Vec<_>) = cases.map(|(name, ty)| (name, (name, ty))).unzip();
        let payloads = payloads.into_iter().filter_map(|(name, ty)| Some((format!(".{name}"), ty?)));
        Self::of(&format!("a variant of {}", names.join(", ")), payloads)
    }

    fn enumeration<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self::plain(format!("an enum of {}", names.collect::<Vec<_>>().join(", ")))
    }

    fn tuple(types: impl Iterator<Item = T>) -> Self {
        Self::of("a tuple", types.enumerate().map(|(at, ty)| (format!(".{at}"), ty)))
    }

    fn option(value: T) -> Self {
        Self::of("an option", [(" value".to_owned(), value)])
    }

    fn list(element: T) -> Self {
        Self::of("a list", [(" element".to_owned(), element)])
    }

    fn result(ok: Option<T>, err: Option<T>) -> Self {
        let members = [(" ok", ok), (" error", err)];
        Self::of("a result", members.into_iter().filter_map(|(name, ty)| Some((name.to_owned(), ty?))))
    }
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
