//! A form that came without a session, such as one that was filled in for longer than the session lasted. The page of the
//! log-in carries it along, so that nothing that was typed is lost.
//!
//! The host never carries such a form out: the person who logs in sees it again, with a new token. This file does not know
//! what a form is about.

use std::time::Duration;

use axum::body::to_bytes;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::access::check_page;
use crate::body::{FORM, UnreadBody, media_type};
use crate::page::form::FormFields;

/// The largest form that is kept, in bytes as it was sent: that of the longest payload that a page offers for editing.
const KEPT_MAX: usize = 256 << 10;

/// The most bytes that a kept form adds to a log-in.
pub(super) const ENCODED_MAX: usize = KEPT_MAX.div_ceil(3) * 4 + 1_024;

/// A form as it was sent.
pub(super) struct KeptForm {
    /// Where to, from the root of the host.
    pub(super) path: String,
    body: Vec<u8>,
}

impl KeptForm {
    /// The form of a request that was refused before anybody read it; `None` where another site may have caused the
    /// request, or where the form is large or slow.
    pub(super) async fn of_refused(
        answer: &mut Response,
        (uri, headers): (&Uri, &HeaderMap),
        limit: Duration,
    ) -> Option<Self> {
        let body = answer.extensions_mut().remove::<UnreadBody>()?.take()?;
        if check_page(headers, uri).is_err() || media_type(headers) != FORM {
            return None;
        }
        let body = tokio::time::timeout(limit, to_bytes(body, KEPT_MAX)).await.ok()?.ok()?;
        Some(Self { path: uri.path().trim_start_matches('/').to_owned(), body: body.into() })
    }

    /// The form that a log-in carries along.
    pub(super) fn of_login(fields: &FormFields) -> Option<Self> {
        let body = BASE64.decode(fields.get("kept")?).ok()?;
        Some(Self { path: fields.get("kept_path")?.to_owned(), body })
    }

    /// The form as the log-in carries it: a page shows these characters as they are.
    pub(super) fn encoded(&self) -> String {
        BASE64.encode(&self.body)
    }

    /// What was typed.
    pub(super) fn fields(&self) -> FormFields {
        FormFields::new(serde_urlencoded::from_bytes(&self.body).unwrap_or_default())
    }
}
