//! `docs/reference.md`, generated from the comments of `wit/handler.wit`.

use std::fmt::Write as _;

use wit_parser::{Docs, Function, InterfaceId, Resolve, Type, TypeDef, TypeDefKind, World, WorldItem, WorldKey};

use super::compare::Contract;
use super::{present, root, text, words};

/// The environment variable that `make reference` sets: the test then writes the document instead of comparing it.
const WRITE: &str = "OUTBOX_WRITE_REFERENCE";

#[test]
fn the_reference_says_what_the_contract_says() {
    let (file, reference) = (root().join("docs/reference.md"), reference());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(file, reference).unwrap();
    } else {
        assert!(text(&file) == reference, "docs/reference.md is not of this contract: run `make reference`");
    }
}

/// The whole document.
fn reference() -> String {
    let wit = present();
    let Contract { resolve, package, .. } = Contract::parse(&wit);
    let package = &resolve.packages[package];
    let mut page = format!("# The contract of handlers\n\n{}\n\n", paragraphs(&package.docs));
    writeln!(
        page,
        "This is `{}`, made by `make reference` from [`wit/handler.wit`](../wit/handler.wit).",
        package.name
    )
    .unwrap();
    page += "How to write a handler is told in [handlers.md](handlers.md), and what to write in [patterns.md](patterns.md).\n";
    for world in package.worlds.values().map(|id| &resolve.worlds[*id]) {
        write!(page, "\n## World `{}`\n\n{}\n\n{}", world.name, paragraphs(&world.docs), imports(&resolve, world))
            .unwrap();
    }
    for (name, id) in &package.interfaces {
        write!(page, "\n## Interface `{name}`\n\n{}\n", paragraphs(&resolve.interfaces[*id].docs)).unwrap();
        page += &interface(&resolve, name, *id);
    }
    page
}

/// The imports and exports that the world itself names. The imports that these bring with them have no comments.
fn imports(resolve: &Resolve, world: &World) -> String {
    let rows = [rows(resolve, "import", &world.imports), rows(resolve, "export", &world.exports)].concat();
    table(["", "interface", "meaning"], rows.into_iter())
}

fn rows<'a>(
    resolve: &Resolve,
    word: &str,
    items: impl IntoIterator<Item = (&'a WorldKey, &'a WorldItem)>,
) -> Vec<[String; 3]> {
    let row = |(key, item): (&WorldKey, &WorldItem)| match item {
        WorldItem::Interface { docs, id, .. } if !docs.is_empty() => {
            let (name, own) =
                (resolve.name_world_key(key), resolve.interfaces[*id].name.as_deref().unwrap_or_default());
            let is_own = name.starts_with("outbox:");
            let name = if is_own { format!("[`{own}`](#interface-{own})") } else { format!("`{name}`") };
            Some([word.to_owned(), name, line(docs)])
        }
        _ => None,
    };
    items.into_iter().filter_map(row).collect()
}

fn interface(resolve: &Resolve, home: &str, id: InterfaceId) -> String {
    let interface = &resolve.interfaces[id];
    let functions = interface.functions.values().map(|function| described(resolve, home, id, function));
    let types = interface.types.iter().filter_map(|(name, ty)| defined(resolve, home, id, name, &resolve.types[*ty]));
    functions.chain(types).collect()
}

fn described(resolve: &Resolve, home: &str, id: InterfaceId, function: &Function) -> String {
    let (name, signature) = (&function.name, words::function(resolve, function, id));
    format!("\n### `{home}.{name}`\n\n```wit\n{name}: {signature};\n```\n\n{}\n", paragraphs(&function.docs))
}

/// A type with its parts. A type that another interface defines under the same name is left out.
fn defined(resolve: &Resolve, home: &str, id: InterfaceId, name: &str, def: &TypeDef) -> Option<String> {
    let shown = |ty: &Type| format!("`{}`", words::name(resolve, ty, id));
    let (kind, parts) = match &def.kind {
        TypeDefKind::Record(record) => {
            let row = |field: &wit_parser::Field| [format!("`{}`", field.name), shown(&field.ty), line(&field.docs)];
            ("record", table(["field", "type", "meaning"], record.fields.iter().map(row)))
        }
        TypeDefKind::Variant(variant) => {
            let row = |case: &wit_parser::Case| {
                [format!("`{}`", case.name), case.ty.as_ref().map(shown).unwrap_or_default(), line(&case.docs)]
            };
            ("variant", table(["case", "carries", "meaning"], variant.cases.iter().map(row)))
        }
        TypeDefKind::Enum(cases) => {
            let row = |case: &wit_parser::EnumCase| [format!("`{}`", case.name), line(&case.docs)];
            ("enum", table(["case", "meaning"], cases.cases.iter().map(row)))
        }
        TypeDefKind::Type(Type::Id(_)) => return None,
        kind => ("type", format!("```wit\ntype {name} = {};\n```\n", words::kind(resolve, kind, id))),
    };
    Some(format!("\n### {kind} `{home}.{name}`\n\n{}\n\n{parts}", paragraphs(&def.docs)))
}

fn table<const N: usize>(heads: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(N));
    rows.for_each(|row| writeln!(table, "| {} |", row.join(" | ")).unwrap());
    table
}

fn paragraphs(docs: &Docs) -> String {
    let text = docs.contents.as_deref().expect("every part of the contract is commented");
    let paragraphs = text.trim().split("\n\n").map(|paragraph| sentences(&paragraph.replace('\n', " ")));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// Puts each sentence on a line of its own, as all documents of this repository do.
fn sentences(paragraph: &str) -> String {
    let mut text = String::new();
    let mut rest = paragraph;
    while let Some(end) =
        rest.match_indices(". ").map(|(at, _)| at).find(|at| rest[at + 2..].starts_with(char::is_uppercase))
    {
        text += &rest[..=end];
        text.push('\n');
        rest = &rest[end + 2..];
    }
    text + rest
}

fn line(docs: &Docs) -> String {
    paragraphs(docs).replace('\n', " ").replace('|', "\\|")
}
