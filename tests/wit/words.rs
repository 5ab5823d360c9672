//! The text form of the contract's types and functions.

use wit_parser::{Function, InterfaceId, Resolve, Result_, Type, TypeDef, TypeDefKind, TypeOwner};

/// A function's signature in the syntax of WIT.
pub(super) fn function(resolve: &Resolve, function: &Function, home: InterfaceId) -> String {
    let params: Vec<_> =
        function.params.iter().map(|param| format!("{}: {}", param.name, name(resolve, &param.ty, home))).collect();
    let result = function.result.as_ref().map(|ty| format!(" -> {}", name(resolve, ty, home))).unwrap_or_default();
    format!("func({}){result}", params.join(", "))
}

/// A type at a place of use: its name, if it has one.
pub(super) fn name(resolve: &Resolve, ty: &Type, home: InterfaceId) -> String {
    match ty {
        Type::Id(id) => {
            let def = &resolve.types[*id];
            match &def.name {
                Some(name) => qualified(resolve, def, name, home),
                None => kind(resolve, &def.kind, home),
            }
        }
        primitive => format!("{primitive:?}").to_lowercase(),
    }
}

fn qualified(resolve: &Resolve, def: &TypeDef, name: &str, home: InterfaceId) -> String {
    match def.owner {
        TypeOwner::Interface(owner) if owner != home => {
            format!("{}.{name}", resolve.interfaces[owner].name.as_deref().unwrap_or_default())
        }
        _ => name.to_owned(),
    }
}

/// The definition of a type, without its name.
pub(super) fn kind(resolve: &Resolve, kind: &TypeDefKind, home: InterfaceId) -> String {
    let name = |ty: &Type| name(resolve, ty, home);
    let optional = |ty: &Option<Type>| ty.as_ref().map_or_else(|| "_".to_owned(), name);
    match kind {
        TypeDefKind::Record(record) => {
            listed("record", record.fields.iter().map(|field| format!("{}: {}", field.name, name(&field.ty))))
        }
        TypeDefKind::Variant(variant) => listed(
            "variant",
            variant.cases.iter().map(|case| match &case.ty {
                Some(ty) => format!("{}({})", case.name, name(ty)),
                None => case.name.clone(),
            }),
        ),
        TypeDefKind::Enum(cases) => listed("enum", cases.cases.iter().map(|case| case.name.clone())),
        TypeDefKind::Flags(flags) => listed("flags", flags.flags.iter().map(|flag| flag.name.clone())),
        TypeDefKind::Tuple(tuple) => format!("tuple<{}>", tuple.types.iter().map(name).collect::<Vec<_>>().join(", ")),
        TypeDefKind::Option(ty) => format!("option<{}>", name(ty)),
        TypeDefKind::List(ty) => format!("list<{}>", name(ty)),
        TypeDefKind::Result(Result_ { ok: Some(ok), err: None }) => format!("result<{}>", name(ok)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", optional(&result.ok), optional(&result.err)),
        TypeDefKind::Type(ty) => name(ty),
        other => panic!("the contract has no {}", other.as_str()),
    }
}

fn listed(word: &str, parts: impl Iterator<Item = String>) -> String {
    format!("{word} {{ {} }}", parts.collect::<Vec<_>>().join(", "))
}
