//! Makes text that others wrote safe to print: it can neither move a terminal's cursor nor command a CI's runner.

use anstream::adapter::strip_str;

/// The text without terminal control sequences and control characters. Tabs stay; a line break becomes a space.
pub fn clean(text: &str) -> String {
    let harmless = text.chars().filter(|c| !turns_text(*c)).map(|c| match c {
        // What the sequences that are taken out next begin and end with.
        '\u{1b}' | '\u{7}' | '\t' => c,
        '\n' | '\r' | '\u{2028}' | '\u{2029}' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    });
    strip_str(&harmless.collect::<String>()).to_string()
}

/// Marks that turn the direction of text can make a line read as another.
pub fn turns_text(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

/// Of a line of output what follows the last carriage return, as a terminal shows it.
pub fn clean_log(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    line.rsplit('\r').next().unwrap_or_default()
}

/// The text with commands to a CI's runner broken up by an invisible character: `::warning::` at the begin of a line is one of
/// GitHub's, `##[group]` of GitHub's and Azure's, `##vso[` of Azure's, `##teamcity[` of TeamCity's, wherever they stand.
pub fn defuse(text: String) -> String {
    let text = if text.contains("##") { text.replace("##", "#\u{2060}#").replace("##", "#\u{2060}#") } else { text };
    if text.trim_start().starts_with("::") { text.replacen("::", ":\u{2060}:", 1) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_taken_out() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("grün \u{2713} 🚀", "grün \u{2713} 🚀"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[2J\u{1b}[1;1Hgone", "gone"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://evil\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}Pq#0\u{1b}\\x", "x"),
            ("\u{9b}31mred", "\u{fffd}31mred"),
            ("\u{1b}(Bx", "x"),
            ("\u{1b}cx", "x"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
            ("\u{1b}[31\u{7}x", ""),
            ("a\u{0}b\u{8}c\u{7f}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("two\nlines", "two lines"),
            ("tab\there", "tab\there"),
            ("abc\u{202e}cba", "abccba"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
            assert!(!clean(text).chars().any(|c| c.is_control() && c != '\t'), "{text:?}");
        }
    }

    #[test]
    fn of_a_log_line_the_last_text_is_shown() {
        assert_eq!(clean_log("10 %\r50 %\r100 %\r"), "100 %");
        assert_eq!(clean_log("plain"), "plain");
    }

    #[test]
    fn a_text_commands_no_runner() {
        let shown = |text: &str| defuse(clean(text));
        assert_eq!(shown("  ::error::b"), "  :\u{2060}:error::b");
        assert_eq!(shown("std::io::Error"), "std::io::Error");
        assert_eq!(shown("x ##vso[task.setvariable]y"), "x #\u{2060}#vso[task.setvariable]y");
        // A sequence in the middle must not put a command together.
        assert_eq!(shown(":\u{1b}[0m:error::b"), ":\u{2060}:error::b");
        for text in ["###[a]", "####vso[b]", "#\u{0}##x", "#\u{202e}##x"] {
            assert!(!shown(text).contains("##"), "{text}");
        }
    }
}
