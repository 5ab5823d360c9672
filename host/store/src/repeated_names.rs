//! Whether an object of a JSON document has two members of one name. Parsers keep one of them, so a document that is shown
//! as it was stored can show more than what was looked at.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Whether a name occurs twice in an object of the document. False where it is not JSON.
pub(crate) fn has_repeated_names(document: &[u8]) -> bool {
    serde_json::from_slice::<RepeatedNames>(document).is_ok_and(|RepeatedNames(any)| any)
}

/// Whether a name is repeated in a value.
struct RepeatedNames(bool);

impl<'de> Deserialize<'de> for RepeatedNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = RepeatedNames;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<RepeatedNames, A::Error> {
        let (mut names, mut any) = (HashSet::new(), false);
        while let Some((name, RepeatedNames(within))) = members.next_entry::<String, RepeatedNames>()? {
            any |= within | !names.insert(name);
        }
        Ok(RepeatedNames(any))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<RepeatedNames, A::Error> {
        let mut any = false;
        while let Some(RepeatedNames(within)) = elements.next_element()? {
            any |= within;
        }
        Ok(RepeatedNames(any))
    }

    fn visit_str<E>(self, _: &str) -> Result<RepeatedNames, E> {
        Ok(RepeatedNames(false))
    }

    fn visit_bool<E>(self, _: bool) -> Result<RepeatedNames, E> {
        Ok(RepeatedNames(false))
    }

    fn visit_i64<E>(self, _: i64) -> Result<RepeatedNames, E> {
        Ok(RepeatedNames(false))
    }

    fn visit_u64<E>(self, _: u64) -> Result<RepeatedNames, E> {
        Ok(RepeatedNames(false))
    }

    fn visit_f64<E>(self, _: f64) -> Result<RepeatedNames, E> {
        Ok(RepeatedNames(false))
    }

    fn visit_unit<E>(self) -> Result<RepeatedNames, E> {
        Ok(RepeatedNames(false))
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
