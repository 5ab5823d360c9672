//! Whether an object of a JSON document has two members of one name. Parsers keep one of them, so a document that is shown
//! as it was stored can show more than what was looked at.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Whether a name occurs twice in an object of the document. False where it is not JSON.
pub(crate) fn has_repeated_names(document: &[u8]) -> bool {
    serde_json::from_slice::<Repeats>(document).is_ok_and(|Repeats(any)| any)
}

/// Whether a name is repeated in a value.
struct Repeats(bool);

impl<'de> Deserialize<'de> for Repeats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Repeats;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Repeats, A::Error> {
        let (mut names, mut any) = (HashSet::new(), false);
        while let Some((name, Repeats(within))) = members.next_entry::<String, Repeats>()? {
            any |= within | !names.insert(name);
        }
        Ok(Repeats(any))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Repeats, A::Error> {
        let mut any = false;
        while let Some(Repeats(within)) = elements.next_element()? {
            any |= within;
        }
        Ok(Repeats(any))
    }

    fn visit_str<E>(self, _: &str) -> Result<Repeats, E> {
        Ok(Repeats(false))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Repeats, E> {
        Ok(Repeats(false))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Repeats, E> {
        Ok(Repeats(false))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Repeats, E> {
        Ok(Repeats(false))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Repeats, E> {
        Ok(Repeats(false))
    }

    fn visit_unit<E>(self) -> Result<Repeats, E> {
        Ok(Repeats(false))
    }
}

#[cfg(test)]
mod tests {
    use super::has_repeated_names;

    #[test]
    fn a_repeated_name_is_found_at_any_depth() {
        for (document, is_repeated) in [
            (r#"{"a":1,"b":{"a":[1.5,-2,null,true,"x"]}}"#, false),
            (r#"{"a":1,"\u0061":2}"#, true),
            (r#"[0,{"a":{"b":1,"b":2}}]"#, true),
            (r#"{"a":1,"a":"#, false),
        ] {
            assert_eq!(has_repeated_names(document.as_bytes()), is_repeated, "{document}");
        }
    }
}
