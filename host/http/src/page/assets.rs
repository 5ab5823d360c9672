//! The stylesheet, the script and the icon of the pages.
//!
//! The name of a file contains the digest of its content, so browsers keep it for ever and get a new one after an
//! upgrade. Anybody may read these files: they reveal nothing.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::Uri;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use outbox_core::sha256;

use crate::problem::ApiError;

/// Hexadecimal digits of the digest in a name. They tell versions apart.
const DIGITS: usize = 12;

/// A file of the pages.
pub(super) struct Asset {
    /// Its name with its digest.
    pub(super) name: String,
    media_type: &'static str,
    text: &'static str,
}

impl Asset {
    fn new(stem: &str, ending: &str, media_type: &'static str, text: &'static str) -> Self {
        let digest = sha256(text.as_bytes());
        Self { name: format!("{stem}.{}.{ending}", &digest[..DIGITS]), media_type, text }
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
pub(super) async fn asset(Path(name): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let known = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name == name);
    let asset = known.ok_or_else(|| ApiError::NoRoute(uri.path().to_owned()))?;
    let headers = [(CONTENT_TYPE, asset.media_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
    Ok((headers, asset.text).into_response())
}
