//! No two files of a crate import each other, directly or through others.
//!
//! An edge goes from a file to the file of the module that a path names. A declaration of a child module, or a
//! `pub use` of something in it, is not an edge, because a parent that only re-exports its children does not depend
//! on them. Test modules do not count.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::sources::sources;

/// The path of a module within its crate; empty for the crate's root.
type Module = Vec<String>;

/// The files of one crate, by module.
struct Crate {
    files: BTreeMap<Module, String>,
}

/// For each file, the files that it imports from.
type Edges = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_file_imports_from_itself_by_way_of_others() {
    let cycles = cycles(&sources());
    assert!(cycles.is_empty(), "these files import each other in a circle:\n{}", cycles.join("\n"));
}

#[test]
fn an_edge_is_found_in_every_way_to_write_a_path() {
    let import = |a: &str| {
        let files = [
            ("c/src/lib.rs", "mod a;\nmod b;\n"),
            ("c/src/a.rs", a),
            ("c/src/a/d.rs", "struct D;\n"),
            ("c/src/b.rs", "fn f() {}\n"),
            ("c/src/b/e.rs", "use crate::a::A;\n"),
        ];
        edges(&files.map(|(file, code)| (file.to_owned(), code.to_owned())).into())["c/src/a.rs"].clone()
    };
    let to = |files: &[&str]| files.iter().map(|file| format!("c/src/{file}")).collect::<BTreeSet<_>>();
    assert_eq!(import("use crate::b::{X, e::{self, Y}};\n"), to(&["b.rs", "b/e.rs"]));
    assert_eq!(import("use super::b::X;\n"), to(&["b.rs"]));
    assert_eq!(import("fn f() { crate::b::e::g() }\n"), to(&["b/e.rs"]));
    assert_eq!(import("use crate::X;\n"), to(&["lib.rs"]));
    assert_eq!(import("use self::d::D;\n"), to(&["a/d.rs"]));
    assert_eq!(import("mod d;\nfn f() { d::g() }\n"), to(&["a/d.rs"]));
    assert_eq!(import("mod d;\npub use d::D;\npub(crate) use crate::a::d::E;\n"), to(&[]));
    assert_eq!(import("use std::fmt;\npub(in crate::b) fn f() {}\n"), to(&[]));
}

/// Each cycle once: the shortest path around it, with all of its files.
fn cycles(sources: &BTreeMap<String, String>) -> Vec<String> {
    let edges = edges(sources);
    let (mut seen, mut cycles) = (BTreeSet::new(), Vec::new());
    for file in edges.keys() {
        let Some(around) = way_around(file, &edges) else { continue };
        if seen.insert(file) {
            let members: Vec<_> = edges.keys().filter(|other| is_reached(file, other, &edges)).collect();
            let members: Vec<_> = members.into_iter().filter(|other| is_reached(other, file, &edges)).collect();
            cycles.push(format!("{}   ({} files: {members:?})", around.join(" -> "), members.len()));
            seen.extend(members);
        }
    }
    cycles
}

fn is_reached(from: &str, to: &str, edges: &Edges) -> bool {
    way(from, to, edges).is_some()
}

/// The shortest path from a file back to itself.
fn way_around(file: &str, edges: &Edges) -> Option<Vec<String>> {
    way(file, file, edges)
}

/// The shortest path that has at least one edge.
fn way(from: &str, to: &str, edges: &Edges) -> Option<Vec<String>> {
    let (mut queue, mut reached) = (VecDeque::from([vec![from.to_owned()]]), BTreeSet::new());
    while let Some(way) = queue.pop_front() {
        for next in edges.get(way.last()?).into_iter().flatten() {
            let longer = || way.iter().chain([next]).cloned().collect::<Vec<_>>();
            if next == to {
                return Some(longer());
            }
            if reached.insert(next) {
                queue.push_back(longer());
            }
        }
    }
    None
}

fn edges(sources: &BTreeMap<String, String>) -> Edges {
    let mut crates: BTreeMap<&str, Crate> = BTreeMap::new();
    for file in sources.keys() {
        let Some((krate, module)) = place(file) else { continue };
        crates.entry(krate).or_insert_with(|| Crate { files: BTreeMap::new() }).files.insert(module, file.clone());
    }
    let imports = |(file, code): (&String, &String)| {
        let (krate, module) = place(file)?;
        let mut imports = crates[krate].imports(code, &module);
        imports.remove(file);
        Some((file.clone(), imports))
    };
    sources.iter().filter_map(imports).collect()
}

/// The crate of a file and its module. Test modules and the root of a binary have none.
fn place(file: &str) -> Option<(&str, Module)> {
    let (krate, path) = file.split_once("/src/")?;
    let module: Module = path.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    match module.last()?.as_str() {
        "lib" => Some((krate, Module::new())),
        "main" | "tests" => None,
        _ => Some((krate, module)),
    }
}

impl Crate {
    /// The files that the code of a module imports from.
    fn imports(&self, code: &str, module: &Module) -> BTreeSet<String> {
        let (uses, rest) = split_uses(code);
        let mut imports = BTreeSet::new();
        for Use { is_reexport, tree } in uses {
            let mut paths = Vec::new();
            expand(&tree, &Module::new(), &mut paths);
            let targets = paths.iter().filter_map(|path| self.target(path, module));
            imports.extend(targets.filter(|target| !(is_reexport && is_below(target, module))));
        }
        imports.extend(inline_paths(&rest).iter().filter_map(|path| self.target(path, module)));
        imports.into_iter().map(|target| self.files[&target].clone()).collect()
    }

    /// The module that a path names, or that defines the item which it names; none when it is outside the crate.
    fn target(&self, path: &[String], module: &Module) -> Option<Module> {
        let absolute = self.absolute(path, module)?;
        (0..=absolute.len())
            .rev()
            .map(|length| absolute[..length].to_vec())
            .find(|start| self.files.contains_key(start))
    }

    fn absolute(&self, path: &[String], module: &Module) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module, rest].concat()),
            "super" => {
                let supers = path.iter().take_while(|segment| *segment == "super").count();
                Some([&module[..module.len().checked_sub(supers)?], &path[supers..]].concat())
            }
            _ => {
                let child = [module.as_slice(), std::slice::from_ref(first)].concat();
                self.files.contains_key(&child).then(|| [module, path].concat())
            }
        }
    }
}

fn is_below(target: &Module, module: &Module) -> bool {
    target.len() > module.len() && target.starts_with(module)
}

/// A `use` declaration.
struct Use {
    is_reexport: bool,
    /// What follows the word `use`.
    tree: String,
}

/// Splits source code into its `use` declarations and its other lines.
fn split_uses(code: &str) -> (Vec<Use>, String) {
    let (mut uses, mut rest, mut open) = (Vec::new(), String::new(), None);
    for line in code.lines() {
        match (&mut open, line.trim()) {
            (None, line) if used(line).is_none() => rest.extend([line, "\n"]),
            (None, line) => {
                let tree = used(line).unwrap_or_default().to_owned();
                open = Some(Use { is_reexport: line.starts_with("pub"), tree });
            }
            (Some(Use { tree, .. }), line) => tree.push_str(line),
        }
        uses.extend(open.take_if(|declaration| declaration.tree.ends_with(';')));
    }
    (uses, rest)
}

/// What follows the word `use` in the first line of a declaration.
fn used(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    line.strip_prefix("use ")
}

/// Collects the paths of a tree such as `crate::{a::B, c::{self, D as E}}`.
fn expand(tree: &str, prefix: &Module, paths: &mut Vec<Module>) {
    let tree = tree.trim().trim_end_matches(';');
    let (head, group) = tree.split_once('{').map_or((tree, None), |(head, group)| (head, Some(group)));
    let segments = head.split(" as ").next().unwrap().split("::").map(str::trim);
    let named = segments.filter(|segment| !segment.is_empty() && *segment != "*").map(str::to_owned);
    let mut path: Module = prefix.iter().cloned().chain(named).collect();
    let Some(group) = group else {
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        return paths.push(path);
    };
    for part in parts(group.trim_end().strip_suffix('}').unwrap()) {
        expand(part, &path, paths);
    }
}

/// The parts of a group. The commas of inner groups do not separate parts.
fn parts(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (index, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// The paths in source code that has no `use` declarations.
fn inline_paths(code: &str) -> Vec<Module> {
    let is_path = |char: char| char.is_alphanumeric() || matches!(char, '_' | ':');
    let mut paths = Vec::new();
    let mut start = 0;
    while let Some(length) = code[start..].find(|char| !is_path(char)) {
        let (before, path) = (&code[..start], &code[start..start + length]);
        let is_visibility = before.ends_with("(in ") || before.ends_with('$');
        if path.contains("::") && !path.starts_with(':') && !is_visibility {
            paths.push(path.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect());
        }
        start += length + code[start + length..].chars().next().map_or(0, char::len_utf8);
    }
    paths
}
