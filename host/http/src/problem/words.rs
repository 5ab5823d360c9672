//! The words of the JSON parser for people: without the names of types of this program.

/// The message of the parser in words that a caller knows. What it quotes of the document stays as it is.
pub(super) fn plain(err: &serde_json::Error) -> String {
    let text = err.to_string();
    let Some((before, expected)) = text.rsplit_once("expected ") else { return text };
    let found = before.replace("invalid type: map, ", "invalid type: an object, ");
    let found = found.replace("invalid type: sequence, ", "invalid type: a list, ");
    format!("{found}expected {}", without_types(expected))
}

fn without_types(expected: &str) -> String {
    let (mut plain, mut words) = (Vec::new(), expected.split(' '));
    while let Some(word) = words.next() {
        match word {
            "struct" => {
                words.next();
                plain.push("an object".to_owned());
            }
            _ => plain.push(number_kind(word)),
        }
    }
    plain.join(" ")
}

/// A type of numbers is a whole number to callers.
fn number_kind(word: &str) -> String {
    match word {
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its errors are looked at")]
    struct Inner {
        count: u32,
        at: i64,
    }

    fn told(json: &str) -> String {
        plain(&serde_json::from_str::<Inner>(json).unwrap_err())
    }

    #[test]
    fn no_message_names_a_type_of_this_program() {
        for (json, expected) in [
            ("[]", "invalid length 0, expected an object with 2 elements"),
            ("7", "invalid type: integer `7`, expected an object"),
            (r#"{"count": -1}"#, "invalid value: integer `-1`, expected a whole number that is not negative"),
            (r#"{"at": "x"}"#, "invalid type: string \"x\", expected a whole number"),
            (r#"{"at": []}"#, "invalid type: a list, expected a whole number"),
            (r#"{"at": {}}"#, "invalid type: an object, expected a whole number"),
        ] {
            let told = told(json);
            assert!(told.starts_with(expected) && !told.contains("Inner"), "{told}");
        }
    }
}
