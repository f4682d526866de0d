//! Makes lines fit a terminal: what is read at a glance is cut, and what is read in full is folded between words. Wide
//! characters take two columns.

use std::os::fd::AsFd;

use rustix::termios::{isatty, tcgetwinsize};
use unicode_width::UnicodeWidthStr as _;

/// Narrower terminals are taken to be so wide: less holds no word.
const COLUMNS_MIN: usize = 20;

/// How many columns this terminal has, if it is one that tells.
pub fn columns(of: impl AsFd) -> Option<usize> {
    if !isatty(&of) {
        return None;
    }
    let columns = usize::from(tcgetwinsize(&of).ok()?.ws_col);
    (columns > 0).then_some(columns.max(COLUMNS_MIN))
}

/// How many columns a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The text, cut at its end where it takes more columns than that.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        // The mark of the cut takes one. A character can make the one before it wider, such as a heart red.
        if width(&cut) >= columns {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

/// The line as lines that take no more columns than that, folded between words; those after the first are indented deeper. A
/// word that is longer, such as a URL, stays whole, since half of it is no use.
pub fn fold(line: &str, columns: usize) -> Vec<String> {
    if width(line) <= columns {
        return vec![line.to_owned()];
    }
    let indent = line.chars().take_while(|c| *c == ' ').count() + 4;
    let (mut lines, mut last) = (Vec::new(), String::new());
    // Blanks in a row, as between a name and its value, stay where the line is not folded.
    for piece in line.split_inclusive(' ') {
        let is_first = last.trim().is_empty();
        if !is_first && width(&last) + width(piece.trim_end()) > columns {
            lines.push(last.trim_end().to_owned());
            last = " ".repeat(indent);
        }
        if !(lines.is_empty() || last.trim().is_empty() && piece.trim().is_empty()) || lines.is_empty() {
            last.push_str(piece);
        }
    }
    lines.push(last.trim_end().to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_takes_no_more_columns_than_there_are() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        // Each of these takes two columns.
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(width("日本…"), 5);
        for text in ["❤️❤️❤️❤️", "a❤️b❤️c", "a\tb\tc", "e\u{301}e\u{301}e\u{301}e", "👩‍👩‍👧‍👦👩‍👩‍👧‍👦"]
        {
            for columns in 1..8 {
                assert!(width(&cut(text, columns)) <= columns, "{text:?} in {columns}");
            }
        }
    }

    #[test]
    fn a_folded_line_loses_nothing_and_fits() {
        let line =
            "  the slot is held by alice, running since 12:00:00 UTC, about 日本語 left https://ci.example/a/long/one";
        for columns in [20, 24, 40] {
            let folded = fold(line, columns);
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&folded.join(" ")), words(line));
            let is_fitting = |line: &&String| width(line) <= columns || line.split_whitespace().count() == 1;
            assert!(folded.iter().all(|line| is_fitting(&line)), "{folded:?}");
            assert!(folded[1..].iter().all(|line| line.starts_with("      ")), "{folded:?}");
        }
        assert_eq!(fold("status      RUNNING", 40), ["status      RUNNING"]);
    }
}
