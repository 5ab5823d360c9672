//! The stylesheet, the script and the icon of the pages.
//!
//! The name of a file contains the digest of its content, so browsers keep it for ever and get a new one after an
//! upgrade. Anybody may read these files: they reveal nothing.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};

use outbox_core::sha256;

use crate::page::compression::{GZIP, accepts_gzip, smallest};
use crate::problem::ApiError;

/// Hexadecimal digits of the digest in a name. They tell versions apart.
const DIGITS: usize = 12;

/// A file of the pages.
pub(super) struct Asset {
    /// Its name with its digest.
    pub(super) name: String,
    media_type: &'static str,
    text: &'static str,
    /// The text in fewer bytes, where that is worth it.
    compressed: Option<Bytes>,
}

impl Asset {
    fn new(stem: &str, ending: &str, media_type: &'static str, text: &'static str) -> Self {
        let digest = sha256(text.as_bytes());
        let name = format!("{stem}.{}.{ending}", &digest[..DIGITS]);
        Self { name, media_type, text, compressed: smallest(text.as_bytes()).map(Bytes::from) }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let about = [(CONTENT_TYPE, self.media_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
        match self.compressed.as_ref().filter(|_| accepts_gzip(headers)) {
            Some(bytes) => (about, [(CONTENT_ENCODING, GZIP)], bytes.clone()).into_response(),
            None => (about, self.text).into_response(),
        }
    }
}

/// The one stylesheet.
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("cockpit", "css", "text/css; charset=utf-8", include_str!("../../assets/cockpit.css")));

/// The one script, which refreshes what the pages show.
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("cockpit", "js", "text/javascript; charset=utf-8", include_str!("../../assets/cockpit.js"))
});

/// The icon.
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("../../assets/icon.svg")));

/// Answers with the file of this name.
pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap, uri: Uri) -> Result<Response, ApiError> {
    let known = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name == name);
    known.map(|asset| asset.answer(&headers)).ok_or_else(|| ApiError::NoRoute(uri.path().to_owned()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::http::header::ACCEPT_ENCODING;

    use super::*;

    #[tokio::test]
    async fn a_file_is_compressed_once_and_sent_from_memory() {
        let gzip = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
        let body = async |headers: &HeaderMap| {
            axum::body::to_bytes(STYLE.answer(headers).into_body(), usize::MAX).await.unwrap()
        };
        let [first, second] = [body(&gzip).await, body(&gzip).await];
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert!(first.len() * 2 < STYLE.text.len());
        assert_eq!(body(&HeaderMap::new()).await, STYLE.text);
    }
}
