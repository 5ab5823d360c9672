//! The WIT world of a handler in an interpreted language.
//!
//! Such a component imports everything in its world, used or not. So this file makes a world of exactly what the
//! manifest grants: an operator need not grant what the handler does not use.

use std::path::Path;

use anyhow::Context as _;

use outbox_runtime::WIT;

use crate::cli::plugin::build::project::Project;
use crate::cli::plugin::kit;

/// Imports that need no grant.
const ALWAYS: [&str; 2] = ["wasi:config/store@0.2.0-rc.1", "wasi:logging/logging@0.1.0-draft"];

/// Keys of the table `[grant]`, each with the import that it grants.
const GRANTED: [(&str, &str); 3] =
    [("state", "state"), ("emit", "followups"), ("http", "wasi:http/outgoing-handler@0.2.12")];

/// Writes the contract and the world `guest` of the project into a folder.
pub(crate) fn write(project: &Project, folder: &Path) -> anyhow::Result<()> {
    let manifest = toml::from_str(&project.manifest).with_context(|| format!("reading {}.toml", project.name))?;
    kit::write(folder, &WIT)?;
    kit::write_one(&folder.join("guest.wit"), &guest(&manifest))
}

fn guest(manifest: &toml::Table) -> String {
    let grants = manifest.get("grant").and_then(toml::Value::as_table);
    let is_granted = |key: &str| grants.and_then(|grants| grants.get(key)).is_some_and(grants_something);
    let granted = GRANTED.iter().filter(|(key, _)| is_granted(key)).map(|(_, import)| *import);
    let imports: Vec<_> = ALWAYS.into_iter().chain(granted).map(|import| format!("    import {import};")).collect();
    format!("package outbox:handler@0.1.0;\n\nworld guest {{\n{}\n    export handler;\n}}\n", imports.join("\n"))
}

fn grants_something(value: &toml::Value) -> bool {
    value.as_bool().unwrap_or_default() || value.as_array().is_some_and(|values| !values.is_empty())
}

/// Advice for a failed build: the handler may use an import that its world does not have.
pub(crate) fn advice(project: &Project) -> String {
    let name = &project.name;
    format!(
        "building {name}; if a module of `outbox` could not be loaded, {name}.toml does not grant what it wraps: \
         state needs `grant.state = true`, followups `grant.emit`, http a `[[grant.http]]`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_has_what_its_manifest_grants() {
        let imports = |manifest| {
            let world = guest(&toml::from_str(manifest).unwrap());
            GRANTED.map(|(_, import)| world.contains(&format!("import {import};")))
        };
        assert_eq!(imports(""), [false, false, false]);
        assert_eq!(imports("[grant]\nstate = false\nemit = []"), [false, false, false]);
        assert_eq!(imports("[grant]\nstate = true\nemit = ['a']"), [true, true, false]);
        assert_eq!(imports("[[grant.http]]\norigin = 'http://a'"), [false, false, true]);
    }
}
