//! JSON objects whose numbers keep their digits: a number that a double would change is refused, or kept as its text.
//!
//! It knows JSON's numbers, and nothing of items.

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The characters of a number that an error shows.
const SHOWN: usize = 40;

/// Reads an object that a caller sends. Errors when one of its numbers would lose digits.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let json = Box::<RawValue>::deserialize(deserializer)?;
    if let Some(number) = numbers(json.get()).find(|number| !is_exact(number)) {
        let shown: String = number.chars().take(SHOWN).collect();
        let told = "has more digits than a number keeps: send it as a string";
        return Err(D::Error::custom(format!("the number {shown} in `metadata` {told}")));
    }
    serde_json::from_str(json.get()).map_err(D::Error::custom)
}

/// Reads an object that is stored. A number that would lose digits becomes a string with its digits. Errors for one that
/// is larger than every double.
pub fn exact_object(json: &str) -> Result<Map<String, Value>, serde_json::Error> {
    let loses_digits = |number: &&str| !is_exact(number) && number.parse().is_ok_and(f64::is_finite);
    if !numbers(json).any(|number| loses_digits(&number)) {
        return serde_json::from_str(json);
    }
    let mut kept = String::with_capacity(json.len() + 16);
    let mut copied = 0;
    for number in numbers(json).filter(loses_digits) {
        let begin = number.as_ptr() as usize - json.as_ptr() as usize;
        kept.push_str(&json[copied..begin]);
        kept.extend(["\"", number, "\""]);
        copied = begin + number.len();
    }
    kept.push_str(&json[copied..]);
    serde_json::from_str(&kept)
}

/// The numbers of a JSON text, in their order. Of a text that is no JSON it may return anything.
fn numbers(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        loop {
            let begin = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
            let found = &rest[begin..];
            if let Some(text) = found.strip_prefix('"') {
                rest = after_string(text);
                continue;
            }
            let is_part = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
            let (number, after) = found.split_at(found.find(|c| !is_part(c)).unwrap_or(found.len()));
            rest = after;
            return Some(number);
        }
    })
}

/// What follows a string whose first quotation mark is left out.
fn after_string(text: &str) -> &str {
    let mut is_escaped = false;
    let end = text.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.map_or("", |end| &text[end + 1..])
}

/// Whether the number is the same after it was read.
fn is_exact(number: &str) -> bool {
    if number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok() {
        return true;
    }
    let Ok(read) = number.parse::<f64>() else { return false };
    read.is_finite() && decimal(number) == decimal(&format!("{read:e}"))
}

/// The digits of a number without zeros at either end, and the power of ten of the last one.
fn decimal(number: &str) -> (String, i64) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.trim_start_matches('-').split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let significant = digits.trim_end_matches('0');
    let cut = i64::try_from(digits.len() - significant.len()).unwrap_or(i64::MAX);
    let behind = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let significant = significant.trim_start_matches('0').to_owned();
    if significant.is_empty() {
        return (significant, 0);
    }
    let exponent: i64 = exponent.trim_start_matches('+').parse().unwrap_or(i64::MIN);
    (significant, exponent.saturating_sub(behind).saturating_add(cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_exact_when_a_double_or_an_integer_of_64_bits_has_its_digits() {
        for exact in
            ["0", "-0", "-0.0", "1.50", "1e3", "-9223372036854775808", "18446744073709551615", "0.1", "1E-7", "0e999"]
        {
            assert!(is_exact(exact), "{exact}");
        }
        for inexact in ["18446744073709551616", "12345678901234567890123", "1e400", "1e-400", "0.12345678901234567890"]
        {
            assert!(!is_exact(inexact), "{inexact}");
        }
    }

    #[test]
    fn a_stored_number_that_would_lose_digits_is_kept_as_a_string() {
        let json = r#"{"a": [12345678901234567890123, 1.5], "b": "1e400 \" 1e400", "c": {"d": 1e-400}}"#;
        let kept = exact_object(json).unwrap();
        assert_eq!(
            Value::Object(kept),
            serde_json::json!({
                "a": ["12345678901234567890123", 1.5], "b": "1e400 \" 1e400", "c": { "d": "1e-400" }
            })
        );
        assert!(exact_object(r#"{"a": 12345678901234567890123"#).is_err());
        assert!(exact_object(r#"{"a": [12345678901234567890123, 1e400]}"#).is_err(), "no double is so large");
        assert!(exact_object("[1]").is_err());
    }
}
