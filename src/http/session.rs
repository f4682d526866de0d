//! The session of a browser: the cookies that carry it, and the proof by which a form shows that it came from a screen of this
//! server. See decision 0089.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::validity::Validity;
use crate::model::TokenId;

/// A session that gave somebody access.
#[derive(Debug)]
pub struct PageSession {
    /// Its id in the store.
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// Until when it holds, whatever its token does.
    pub validity: Validity,
}

/// A cookie of ours. Where the browser came by TLS, its name begins so that a browser takes it from this host alone, and
/// by TLS alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCookie {
    /// Carries the session.
    Session,
    /// Stands for a browser without a session in the proof of its forms.
    Form,
    /// Keeps what a browser needs when its person comes back from an OIDC issuer.
    LogIn,
    /// Says that a page was just loaded again, because a link of another site led to it.
    Again,
}

impl PageCookie {
    const fn plain(self) -> &'static str {
        match self {
            PageCookie::Session => "singletrack",
            PageCookie::Form => "singletrack-form",
            PageCookie::LogIn => "singletrack-log-in",
            PageCookie::Again => "singletrack-again",
        }
    }

    fn name(self, is_encrypted: bool) -> String {
        if is_encrypted { format!("__Host-{}", self.plain()) } else { self.plain().to_owned() }
    }

    /// The other sites whose links may carry it here.
    const fn same_site(self) -> &'static str {
        match self {
            PageCookie::Session => "Strict",
            PageCookie::Form | PageCookie::LogIn | PageCookie::Again => "Lax",
        }
    }

    /// Its value in a request. Where the browser surely came by TLS, only the name counts that others cannot give.
    pub fn of(self, headers: &HeaderMap, is_encrypted: bool) -> Option<&str> {
        let named = |wanted: &str| {
            let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
            let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
        };
        named(&self.name(true)).or_else(|| if is_encrypted { None } else { named(self.plain()) })
    }

    /// Sets it for so long; without a time, until the browser is closed.
    pub fn set(self, value: &str, is_encrypted: bool, max_age: Option<Duration>) -> Option<HeaderValue> {
        let (name, same_site) = (self.name(is_encrypted), self.same_site());
        let secure = if is_encrypted { "; Secure" } else { "" };
        let max_age = max_age.map(|max_age| format!("; Max-Age={}", max_age.as_secs())).unwrap_or_default();
        let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite={same_site}{secure}{max_age}");
        // Our values are letters, digits and `.-_`.
        HeaderValue::from_str(&cookie).ok()
    }

    /// Makes the browser forget it, under both of its names.
    pub fn clear(self) -> impl Iterator<Item = HeaderValue> {
        [true, false].into_iter().filter_map(move |is_encrypted| self.set("", is_encrypted, Some(Duration::ZERO)))
    }
}

/// What a form of the browser with this secret carries.
pub fn form_proof(secret: &str) -> String {
    HEXLOWER.encode(&Sha256::new_with_prefix("csrf").chain_update(secret).finalize())
}

/// Whether a form carries what it should.
pub fn is_proof(shown: &str, wanted: &str) -> bool {
    shown.as_bytes().ct_eq(wanted.as_bytes()).into()
}

/// A path of this server to which a browser may be sent, of all that somebody may have written into a link.
pub fn own_path(text: &str) -> Option<&str> {
    let is_local = text.starts_with('/') && !text[1..].starts_with('/');
    // Browsers take a backslash for a slash, and skip control characters.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_for_signing = ["/sign-in", "/sign-out"].iter().any(|path| text.starts_with(path));
    (is_local && is_plain && !is_for_signing && text.len() <= OWN_PATH_LIMIT).then_some(text)
}

/// The longest path to which a browser is sent back.
const OWN_PATH_LIMIT: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookies: &[&str]) -> HeaderMap {
        cookies.iter().map(|line| (header::COOKIE, line.parse().expect("a header"))).collect()
    }

    #[test]
    fn only_local_paths_are_gone_back_to() {
        for path in ["/", "/projects/web?find=a%20b", "/projects/web/deployments/1", "/a//b", "/a/..//b"] {
            assert_eq!(own_path(path), Some(path));
        }
        let long = format!("/{}", "x".repeat(OWN_PATH_LIMIT));
        for text in [
            "",
            "projects",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example",
            "/\t/evil.example",
            " /x",
            "/ü",
            "/a\r\nset-cookie: x",
            "/sign-in?to=/",
            "/sign-out",
            "javascript:alert(1)",
            &long,
        ] {
            assert_eq!(own_path(text), None, "{text}");
        }
    }

    #[test]
    fn a_cookie_that_another_host_could_have_set_does_not_count_where_the_browser_came_by_tls() {
        let both = headers(&["a=b; singletrack=plain", "__Host-singletrack=safe;singletrack-form=x"]);
        assert_eq!(PageCookie::Session.of(&both, false), Some("safe"));
        assert_eq!(PageCookie::Session.of(&both, true), Some("safe"));
        assert_eq!(PageCookie::Form.of(&both, false), Some("x"));
        let plain = headers(&["singletrack=plain; xsingletrack=y"]);
        assert_eq!(PageCookie::Session.of(&plain, false), Some("plain"));
        assert_eq!(PageCookie::Session.of(&plain, true), None);
        assert_eq!(PageCookie::Again.of(&plain, false), None);
    }
}
