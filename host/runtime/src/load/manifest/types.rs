//! `types` of a manifest: which types of items a plugin gets, and what the component is told that they are.
//!
//! It does not know which types a component describes.

use std::collections::BTreeMap;

use toml::Value;

use crate::load::manifest::value::{text, texts};

/// The types of items that a plugin gets, each with the type of the component that handles it.
pub(crate) type TypeNames = BTreeMap<String, String>;

/// Reads the list form, in which both are the same, or the table `ITEM_TYPE = "COMPONENT_TYPE"`.
pub(crate) fn read(value: Value) -> Result<TypeNames, String> {
    let accepted = |_| {
        "an array of types such as [\"webhook\"], or a table of types of items with those of the component, such as \
         alert = \"webhook\""
            .to_owned()
    };
    match value {
        Value::Table(table) => {
            let names = table.into_iter().map(|(item_type, handled_as)| Ok((item_type, text(handled_as)?)));
            names.collect::<Result<_, String>>().map_err(accepted)
        }
        list => Ok(texts(list).map_err(accepted)?.into_iter().map(|name| (name.clone(), name)).collect()),
    }
}
