//! Parsers of single manifest values. Each returns the value, or as its error the accepted values in words.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Value;

/// Parses a string.
pub(crate) fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("a string".to_owned()),
    }
}

/// Parses an array of strings.
pub(crate) fn texts(value: Value) -> Result<Vec<String>, String> {
    let Value::Array(values) = value else { return Err("an array of strings".to_owned()) };
    values.into_iter().map(|value| text(value).map_err(|_| "an array of strings".to_owned())).collect()
}

/// Parses `true` or `false`.
pub(crate) fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "true or false".to_owned())
}

/// A value as errors show it: its text, or only its kind if it is an array or a table.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(time) => time.to_string(),
        Value::Array(_) => "an array".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

/// Parses a whole number within a range.
pub(crate) fn count(range: RangeInclusive<u32>) -> impl Fn(Value) -> Result<u32, String> {
    move |value| {
        let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
        let accepted = || format!("a whole number from {} to {}", range.start(), range.end());
        number.filter(|number| range.contains(number)).ok_or_else(accepted)
    }
}

/// Parses a number from 0 to 1.
pub(crate) fn ratio(value: &Value) -> Result<f64, String> {
    match value {
        Value::Float(ratio) if (0.0..=1.0).contains(ratio) => Ok(*ratio),
        Value::Integer(0) => Ok(0.0),
        Value::Integer(1) => Ok(1.0),
        _ => Err("a number from 0 to 1".to_owned()),
    }
}

/// Parses a duration above zero and up to `most`.
pub(crate) fn duration(most: Duration) -> impl Fn(Value) -> Result<Duration, String> {
    move |value| {
        let parsed = text(value).ok().and_then(|text| humantime::parse_duration(&text).ok());
        let accepted = || {
            let most = humantime::format_duration(most);
            format!(r#"a duration such as "30s", "250ms" or "5m", at most {most}"#)
        };
        parsed.filter(|duration| !duration.is_zero() && *duration <= most).ok_or_else(accepted)
    }
}

/// Parses a number of bytes from 1 to `most`.
pub(crate) fn size(most: u64) -> impl Fn(Value) -> Result<u64, String> {
    move |value| {
        let parsed = text(value).ok().and_then(|text| bytes(&text));
        let accepted = || format!(r#"a size such as "64MiB", "512KiB" or "100B", at most {}"#, show_size(most));
        parsed.filter(|bytes| (1..=most).contains(bytes)).ok_or_else(accepted)
    }
}

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

fn bytes(text: &str) -> Option<u64> {
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
    number.checked_mul(*factor)
}

/// Formats a number of bytes in the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// Parses a rate. Returns how many per second.
pub(crate) fn rate(value: Value) -> Result<f64, String> {
    let parsed = text(value).ok().and_then(|text| {
        let (number, unit) = text.split_once('/')?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        number.trim().parse::<f64>().ok().map(|number| number / seconds)
    });
    parsed
        .filter(|rate| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| r#"a rate such as "100/s", "30/m" or "5/h""#.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_rates_and_durations_are_read_with_their_units() {
        assert_eq!(size(u64::MAX)("64MiB".into()), Ok(64 << 20));
        assert_eq!(size(u64::MAX)("1 KiB".into()), Ok(1024));
        assert_eq!(rate("30/m".into()), Ok(0.5));
        assert_eq!(duration(Duration::MAX)("1m 30s".into()), Ok(Duration::from_secs(90)));
        assert_eq!(show_size(64 << 20), "64MiB");
        assert_eq!(show_size(1500), "1500B");
    }

    #[test]
    fn what_has_no_unit_or_no_sense_is_refused() {
        for bad in ["64", "64MB", "-1KiB", "0B", "2GiB"] {
            assert!(size(1 << 30)(bad.into()).is_err(), "{bad}");
        }
        for bad in ["100", "0/s", "inf/s", "1/day"] {
            assert!(rate(bad.into()).is_err(), "{bad}");
        }
        for bad in ["0s".into(), "61s".into(), Value::Integer(5)] {
            assert!(duration(Duration::from_mins(1))(bad).is_err());
        }
        assert_eq!(count(1..=3)(Value::Integer(4)).unwrap_err(), "a whole number from 1 to 3");
    }
}
