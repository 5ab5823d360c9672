//! How differences and findings show bytes to people.

/// The most characters of a value that are shown, so that a line stays readable.
const DISPLAYED_MAX: usize = 400;

/// Bytes as text: shortened when they are long, `nothing` when there are none.
pub(crate) fn displayed(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(DISPLAYED_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], bytes.len()),
        None => text.into_owned(),
    }
}
