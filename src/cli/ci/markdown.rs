//! Escapes untrusted text for Markdown, so that it stays text.

use crate::cli::screen::clean::clean;

/// The most characters of one text.
const TEXT_LIMIT: usize = 1_000;

/// The text with every character that Markdown or HTML could read as structure replaced by a character reference, which both
/// show as that character.
pub fn text(text: &str) -> String {
    let text = clean(text);
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        if at == TEXT_LIMIT {
            out.push('…');
            break;
        }
        match c {
            '.' | ',' | '-' | '/' | ' ' => out.push(c),
            c if c.is_ascii_punctuation() || c == '\t' => out.push_str(&format!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
    // At the begin of a text these characters would make a list or a rule.
    if out.starts_with(['-', ' ']) { format!("&#{};{}", u32::from(out.as_bytes()[0]), &out[1..]) } else { out }
}

/// The same for a URL; it becomes a link if it has only characters of URLs.
pub fn address(url: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:?#=&%+,@".contains(c);
    let is_http = url.starts_with("https://") || url.starts_with("http://");
    if is_http && url.len() <= TEXT_LIMIT && url.chars().all(is_plain) { format!("<{url}>") } else { text(url) }
}

/// A row of a table.
pub fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// The head of a table.
pub fn head(cells: &[&str]) -> String {
    format!("{}{}", row(cells), row(&vec!["---"; cells.len()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_text() {
        for (hostile, shown) in [
            ("a | b", "a &#124; b"),
            ("<script>x</script>", "&#60;script&#62;x&#60;/script&#62;"),
            ("![x](https://evil.example/y)", "&#33;&#91;x&#93;&#40;https&#58;//evil.example/y&#41;"),
            ("a\n\n# b", "a  &#35; b"),
            ("`a` *b* _c_ ~d~ \\e", "&#96;a&#96; &#42;b&#42; &#95;c&#95; &#126;d&#126; &#92;e"),
            ("- a", "&#45; a"),
            ("@octocat &lt;", "&#64;octocat &#38;lt&#59;"),
            ("\u{1b}[31mgrün", "grün"),
        ] {
            assert_eq!(text(hostile), shown);
        }
        assert_eq!(address("https://web.example/a?b=c#d"), "<https://web.example/a?b=c#d>");
        for hostile in ["javascript:x", "https://a>b", "https://a|b", "https://a b"] {
            assert!(!address(hostile).starts_with('<'), "{hostile}");
        }
        assert_eq!(text(&"a".repeat(2_000)), format!("{}…", "a".repeat(1_000)));
    }
}
