//! Makes text that others wrote safe to print: it can neither move a terminal's cursor nor command a CI's runner.

/// The text without terminal control sequences and control characters. Tabs stay; a line break becomes a space.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                Some('[') => skip_csi(&mut chars),
                // OSC, DCS, SOS, PM and APC carry text up to their terminator.
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut chars),
                // Two-character sequences, some with one more in between.
                Some(' '..='/') => {
                    chars.next();
                }
                Some(_) | None => {}
            },
            '\u{9b}' => skip_csi(&mut chars),
            '\u{9d}' | '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}' => skip_string(&mut chars),
            '\t' => out.push('\t'),
            '\n' | '\r' | '\u{2028}' | '\u{2029}' => out.push(' '),
            // Marks that turn the direction of text can make a line read as another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => {}
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
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

fn skip_csi(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    // Parameters and intermediates, up to the final byte; anything else ends a broken sequence and is kept.
    while let Some(c) = chars.peek().copied() {
        match c {
            '\u{20}'..='\u{3f}' => {
                chars.next();
            }
            '\u{40}'..='\u{7e}' => {
                chars.next();
                return;
            }
            _ => return,
        }
    }
}

fn skip_string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while let Some(c) = chars.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                chars.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
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
            ("\u{9b}31mred", "red"),
            ("\u{1b}(Bx", "x"),
            ("\u{1b}cx", "x"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
            ("\u{1b}[31\u{7}x", "\u{fffd}x"),
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
