//! The language and the tool of a component, as its tools recorded them in it. For display only.

use wasmparser::{KnownCustom, Parser, Payload, ProducersSectionReader};

/// The name of a module that componentize-py adds. The tool leaves no other trace.
const PYTHON_PART: &str = "componentize_py_runtime.wasm";

/// The entries of the producers sections, the outermost section first.
#[derive(Debug, Default)]
struct ProducerInfo {
    /// Languages, each with whether the component itself is written in it, and not a part of it.
    languages: Vec<(String, bool)>,
    /// Tools, each with its version.
    tools: Vec<String>,
    has_python: bool,
}

/// The language and the tool of a component, or `None` if it does not say.
pub(crate) fn made_with(wasm: &[u8]) -> Option<String> {
    let producers = read(wasm);
    let own = producers.languages.iter().find(|(_, is_outer)| *is_outer);
    let tool = |name: &str| producers.tools.iter().find(|tool| tool.starts_with(name));
    let with = |language: &str, tool: Option<&String>| match tool {
        Some(tool) => format!("{language} ({tool})"),
        None => language.to_owned(),
    };
    if let Some((language, _)) = own {
        return Some(with(language, tool("ComponentizeJS")));
    }
    if producers.has_python {
        return Some("Python (componentize-py)".to_owned());
    }
    if let Some(rust) = tool("wit-bindgen-rust") {
        return Some(with("Rust", Some(rust)));
    }
    producers.languages.first().map(|(language, _)| language.clone())
}

/// Leaves out what it cannot read, because the result is only displayed.
fn read(wasm: &[u8]) -> ProducerInfo {
    let (mut producers, mut depth) = (ProducerInfo::default(), 0_u32);
    for payload in Parser::new(0).parse_all(wasm).filter_map(Result::ok) {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) => match section.as_known() {
                KnownCustom::Producers(section) => producers.add(section, depth == 0),
                KnownCustom::ComponentName(_) | KnownCustom::Name(_) => {
                    producers.has_python |= contains(section.data(), PYTHON_PART.as_bytes());
                }
                _ => {}
            },
            _ => {}
        }
    }
    producers
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

impl ProducerInfo {
    fn add(&mut self, producers: ProducersSectionReader<'_>, is_outer: bool) {
        for field in producers.into_iter().filter_map(Result::ok) {
            for value in field.values.into_iter().filter_map(Result::ok) {
                match field.name {
                    "language" => self.languages.push((value.name.to_owned(), is_outer)),
                    "processed-by" => self.tools.push(format!("{} {}", value.name, value.version)),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Option<String> {
        made_with(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn the_language_is_that_of_the_component_before_that_of_its_parts() {
        let part = r#"(core module (@producers (language "Rust" "") (processed-by "wit-bindgen-rust" "0.45.0")))"#;
        assert_eq!(made(&format!("(component {part})")).as_deref(), Some("Rust (wit-bindgen-rust 0.45.0)"));
        let python = format!("(component {part} (core module $componentize_py_runtime.wasm))");
        assert_eq!(made(&python).as_deref(), Some("Python (componentize-py)"));
        assert_eq!(made("(component)"), None);
        assert_eq!(made_with(b"nothing"), None);
    }
}
