//! Compares two versions of the contract, part by part, and reports the promises that the newer one breaks.

use std::collections::BTreeMap;

use wit_parser::{
    Interface, InterfaceId, PackageId, Resolve, SourceMap, Stability, UnresolvedPackageGroup, WorldItem, WorldKey,
};

use super::words;
use crate::support::guests::root;

/// Major, minor and patch.
type Version = (u64, u64, u64);

/// A version of the contract, as compiled components see it.
pub(super) struct Contract {
    pub(super) resolve: Resolve,
    pub(super) package: PackageId,
    version: Version,
    parts: BTreeMap<String, Part>,
}

/// A function, a type, an import or an export.
struct Part {
    definition: String,
    since: Option<Version>,
    /// Whether existing components keep working when a new version adds this part.
    may_be_new: bool,
}

impl Contract {
    /// Parses a version of `handler.wit`, with the dependencies in `wit/`.
    pub(super) fn parse(text: &str) -> Self {
        let mut resolve = Resolve::default();
        let package =
            resolve.push_groups(group("handler.wit", text), dependencies()).unwrap_or_else(|err| panic!("{err}"));
        let version = resolve.packages[package].name.version.as_ref().expect("the contract has a version");
        let version = (version.major, version.minor, version.patch);
        let mut contract = Self { resolve, package, version, parts: BTreeMap::new() };
        contract.read();
        contract
    }

    fn read(&mut self) {
        let package = &self.resolve.packages[self.package];
        let mut parts = BTreeMap::new();
        for (name, world) in &package.worlds {
            let world = &self.resolve.worlds[*world];
            for (word, items) in [("import", &world.imports), ("export", &world.exports)] {
                for key in items.keys() {
                    let part = Part { definition: word.to_owned(), since: None, may_be_new: false };
                    parts.insert(format!("world {name}: {word} {}", self.key(key)), part);
                }
            }
        }
        for id in package.interfaces.values() {
            parts.extend(self.interface(*id));
        }
        self.parts = parts;
    }

    /// The name of an interface. For the contract's own interfaces it omits the version, which every release changes.
    fn key(&self, key: &WorldKey) -> String {
        match key {
            WorldKey::Interface(id) if self.resolve.interfaces[*id].package == Some(self.package) => {
                self.resolve.interfaces[*id].name.clone().expect("it is no inline interface")
            }
            key => self.resolve.name_world_key(key),
        }
    }

    fn interface(&self, id: InterfaceId) -> Vec<(String, Part)> {
        let (resolve, interface) = (&self.resolve, &self.resolve.interfaces[id]);
        let (home, may_be_new) = (interface.name.as_deref().unwrap_or_default(), self.is_only_imported(interface));
        let part = |definition: String, stability: &Stability| Part { definition, since: since(stability), may_be_new };
        let functions = interface.functions.iter().map(|(name, function)| {
            (format!("{home}.{name}"), part(words::function(resolve, function, id), &function.stability))
        });
        let types = interface.types.iter().map(|(name, ty)| {
            let def = &resolve.types[*ty];
            (format!("{home}.{name}"), part(words::kind(resolve, &def.kind, id), &def.stability))
        });
        functions.chain(types).collect()
    }

    fn is_only_imported(&self, interface: &Interface) -> bool {
        let worlds = self.resolve.packages[self.package].worlds.values().map(|id| &self.resolve.worlds[*id]);
        let is_it = |item: &WorldItem| matches!(item, WorldItem::Interface { id, .. } if self.resolve.interfaces[*id].name == interface.name);
        worlds.into_iter().all(|world| world.imports.values().any(is_it) && !world.exports.values().any(is_it))
    }
}

fn group(file: &str, text: &str) -> UnresolvedPackageGroup {
    let mut sources = SourceMap::default();
    sources.push_str(file, text);
    sources.parse().unwrap_or_else(|(sources, err)| panic!("{}", err.render(&sources)))
}

fn dependencies() -> Vec<UnresolvedPackageGroup> {
    let files = std::fs::read_dir(root().join("wit/deps")).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| group(file.to_str().unwrap(), &std::fs::read_to_string(&file).unwrap())).collect()
}

fn since(stability: &Stability) -> Option<Version> {
    match stability {
        Stability::Stable { since, .. } => Some((since.major, since.minor, since.patch)),
        _ => None,
    }
}

/// The reasons why components of the released version might not work with the present one, and the reasons against
/// releasing the present one.
pub(super) fn problems(released: &Contract, present: &Contract) -> Vec<String> {
    let mut problems: Vec<_> = released.parts.iter().filter_map(|(path, old)| changed(path, old, present)).collect();
    let new: Vec<_> = present.parts.iter().filter(|(path, _)| !released.parts.contains_key(*path)).collect();
    problems.extend(new.iter().filter_map(|(path, part)| unfit(path, part, present.version)));
    let (then, now) = (released.version, present.version);
    if (then.0, then.1) != (now.0, now.1) || now < then {
        problems.push(format!("the version {} does not follow {} compatibly", shown(now), shown(then)));
    } else if !new.is_empty() && now == then {
        problems.push(format!("the contract has grown since {}: raise the version of its package", shown(then)));
    }
    problems
}

fn changed(path: &str, old: &Part, present: &Contract) -> Option<String> {
    match present.parts.get(path) {
        None => Some(format!("`{path}` was removed")),
        Some(new) if new.definition != old.definition => {
            Some(format!("`{path}` was `{}` and is `{}`", old.definition, new.definition))
        }
        Some(_) => None,
    }
}

fn unfit(path: &str, part: &Part, version: Version) -> Option<String> {
    if !part.may_be_new {
        return Some(format!("`{path}` is new: only imported interfaces grow, by functions and their types"));
    }
    let version = shown(version);
    (part.since.map(shown).as_ref() != Some(&version))
        .then(|| format!("`{path}` is new: it needs `@since(version = {version})`"))
}

fn shown((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}
