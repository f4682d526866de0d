//! The files that every screen loads. A file's path carries a hash of it, so that a browser keeps it for good and still
//! gets the new one from a new server.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::http::error::ErrorAnswer;

/// The path of every file.
pub const PATH: &str = "/assets/{name}";

/// The style of all screens.
pub static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("style.css", "text/css; charset=utf-8", include_str!("../../../assets/style.css")));
/// What keeps a screen live.
pub static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page.js", "text/javascript; charset=utf-8", include_str!("../../../assets/page.js")));
/// What keeps the output on a deployment's screen live.
pub static LOG_SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("log.js", "text/javascript; charset=utf-8", include_str!("../../../assets/log.js")));
/// The icon.
pub static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon.svg", "image/svg+xml", include_str!("../../../assets/icon.svg")));

/// A file.
pub struct Asset {
    path: String,
    kind: &'static str,
    text: &'static str,
}

impl Asset {
    fn new(name: &str, kind: &'static str, text: &'static str) -> Self {
        let hash = HEXLOWER.encode(&Sha256::digest(text)[..6]);
        let (stem, end) = name.split_once('.').unwrap_or((name, ""));
        Asset { path: format!("/assets/{stem}.{hash}.{end}"), kind, text }
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// A file. One of another version of the server is not here; the page that asks for it loads itself again.
pub async fn asset(Path(name): Path<String>) -> Result<Response, ErrorAnswer> {
    let all = [&*STYLE, &*SCRIPT, &*LOG_SCRIPT, &*ICON];
    let found = all.into_iter().find(|asset| asset.path.strip_prefix("/assets/") == Some(&*name));
    let Asset { kind, text, .. } = found.ok_or_else(ErrorAnswer::not_found)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((StatusCode::OK, headers, *text).into_response())
}
