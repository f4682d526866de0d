//! Free text in a form that PostgreSQL can store, because its text type cannot hold NUL.

use std::borrow::Cow;

/// The escape character before NUL's replacement, and before itself.
const ESCAPE: char = '\u{1a}';

/// Free text in the form that the database stores.
pub(super) fn escaped(text: &str) -> String {
    if !text.contains(['\0', ESCAPE]) {
        return text.to_owned();
    }
    text.replace(ESCAPE, "\u{1a}1").replace('\0', "\u{1a}0")
}

pub(super) fn unescaped(text: &str) -> String {
    let plain: Cow<'_, str> = if text.contains(ESCAPE) {
        text.replace("\u{1a}0", "\0").replace("\u{1a}1", "\u{1a}").into()
    } else {
        text.into()
    };
    plain.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_nul_comes_back() {
        for kept in ["", "plain", "\0", "\u{1a}", "\u{1a}0", "a\0\u{1a}1\0\0b\u{1a}"] {
            let stored = escaped(kept);
            assert!(!stored.contains('\0'), "{stored:?}");
            assert_eq!(unescaped(&stored), kept);
        }
    }
}
