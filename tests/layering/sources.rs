//! The source files of the host, as the other tests of this folder read them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::guests::root;

/// Every source file of the host, with its path below `host/`, without its test module and comments.
pub(crate) fn sources() -> BTreeMap<String, String> {
    texts().into_iter().map(|(file, text)| (file, code(&text))).collect()
}

/// Every source file of the host, with its path below `host/`, unchanged.
pub(crate) fn texts() -> BTreeMap<String, String> {
    let host = root().join("host");
    let crates = std::fs::read_dir(&host).unwrap().map(|entry| entry.unwrap().path().join("src"));
    let mut folders: Vec<_> = crates.collect();
    let mut texts = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                texts.insert(name(&path, &host), text);
            }
        }
    }
    texts
}

fn name(path: &Path, host: &Path) -> String {
    path.strip_prefix(host).unwrap().to_str().unwrap().to_owned()
}

fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" // ").next().unwrap()).collect::<Vec<_>>().join("\n")
}
