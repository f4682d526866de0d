//! A line of output as HTML: its colours become classes, and everything else by which a terminal is steered is taken out.

use std::fmt::Write as _;

use super::words::escaped;
use crate::clean::{clean_log, turns_text};

/// How many characters of a line are shown. The download has all of it.
const SHOWN_LIMIT: usize = 8 << 10;

/// How text looks. Each line begins with none of it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct TextLook {
    is_bold: bool,
    text: Option<u8>,
    ground: Option<u8>,
}

impl TextLook {
    /// After the numbers of one SGR sequence. Only the 16 colours and bold are kept.
    fn after(mut self, numbers: &str) -> Self {
        let mut numbers = numbers.split([';', ':']).map(|number| match number {
            "" => Some(0),
            number => number.parse::<u16>().ok(),
        });
        while let Some(number) = numbers.next() {
            let Some(number) = number else { continue };
            match number {
                0 => self = TextLook::default(),
                1 => self.is_bold = true,
                22 => self.is_bold = false,
                30..=37 => self.text = Some(low(number - 30)),
                90..=97 => self.text = Some(low(number - 90 + 8)),
                39 => self.text = None,
                40..=47 => self.ground = Some(low(number - 40)),
                100..=107 => self.ground = Some(low(number - 100 + 8)),
                49 => self.ground = None,
                38 | 48 => {
                    let colour = match numbers.next().flatten() {
                        // One of 256, of which the first 16 are those that have names.
                        Some(5) => numbers.next().flatten().filter(|colour| *colour < 16).map(low),
                        Some(2) => {
                            numbers.by_ref().take(3).for_each(drop);
                            None
                        }
                        Some(_) | None => None,
                    };
                    if number == 38 { self.text = colour } else { self.ground = colour }
                }
                _ => {}
            }
        }
        self
    }

    /// The classes for it; empty for plain text.
    fn classes(self) -> String {
        let mut classes = Vec::new();
        classes.extend(self.is_bold.then(|| "strong".to_owned()));
        classes.extend(self.text.map(|colour| format!("c{colour}")));
        classes.extend(self.ground.map(|colour| format!("g{colour}")));
        classes.join(" ")
    }
}

fn low(number: u16) -> u8 {
    u8::try_from(number).unwrap_or(0)
}

/// What a line consists of.
enum LinePiece<'a> {
    Letter(char),
    /// The numbers of an SGR sequence.
    Look(&'a str),
}

/// A line as a terminal shows it at last, as HTML.
pub fn line_html(line: &str) -> String {
    let (mut html, mut look, mut shown_look) =
        (String::with_capacity(line.len() + 16), TextLook::default(), TextLook::default());
    let (mut plain, mut count) = (String::new(), 0);
    let put = |html: &mut String, plain: &mut String, look: TextLook| {
        if plain.is_empty() {
            return;
        }
        match look.classes() {
            classes if classes.is_empty() => html.push_str(&escaped(plain)),
            // A write to a text cannot fail.
            classes => _ = write!(html, "<span class=\"{classes}\">{}</span>", escaped(plain)),
        }
        plain.clear();
    };
    pieces(line, &mut |piece| match piece {
        LinePiece::Look(numbers) => look = look.after(numbers),
        LinePiece::Letter(letter) => {
            count += 1;
            if count > SHOWN_LIMIT {
                return;
            }
            if look != shown_look {
                put(&mut html, &mut plain, shown_look);
                shown_look = look;
            }
            plain.push(letter);
        }
    });
    put(&mut html, &mut plain, shown_look);
    if count > SHOWN_LIMIT {
        let rest = count - SHOWN_LIMIT;
        _ = write!(html, "<span class=\"cut\"> … {rest} more characters; the download has them</span>");
    }
    html
}

/// A line as a terminal shows it at last, as plain text.
pub fn line_plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    pieces(line, &mut |piece| match piece {
        LinePiece::Letter(letter) => plain.push(letter),
        LinePiece::Look(_) => {}
    });
    plain
}

/// Takes a line to pieces. What steers a terminal in any other way than by looks is left out.
fn pieces<'a>(line: &'a str, take: &mut dyn FnMut(LinePiece<'a>)) {
    let line = clean_log(line);
    let mut rest = line.char_indices().peekable();
    while let Some((_, letter)) = rest.next() {
        match letter {
            '\u{1b}' => match rest.peek().map(|(_, next)| *next) {
                Some('[') => {
                    rest.next();
                    let begin = rest.peek().map_or(line.len(), |(at, _)| *at);
                    while rest.next_if(|(_, next)| matches!(next, ' '..='?')).is_some() {}
                    if let Some((end, last)) = rest.next_if(|(_, next)| matches!(next, '@'..='~'))
                        && last == 'm'
                    {
                        take(LinePiece::Look(&line[begin..end]));
                    }
                }
                // A text for the terminal itself, up to its end.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while let Some((_, next)) = rest.next() {
                        if next == '\u{7}' || (next == '\u{1b}' && rest.next_if(|(_, end)| *end == '\\').is_some()) {
                            break;
                        }
                    }
                }
                Some(' '..='~') => {
                    while rest.next_if(|(_, next)| matches!(next, ' '..='/')).is_some() {}
                    rest.next_if(|(_, next)| matches!(next, '0'..='~'));
                }
                Some(_) | None => {}
            },
            letter if turns_text(letter) => {}
            '\t' => take(LinePiece::Letter(letter)),
            '\n' | '\r' | '\u{2028}' | '\u{2029}' => take(LinePiece::Letter(' ')),
            letter if letter.is_control() => take(LinePiece::Letter(char::REPLACEMENT_CHARACTER)),
            letter => take(LinePiece::Letter(letter)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_classes_and_everything_is_escaped() {
        for (line, html) in [
            ("plain <b>&\"'", "plain &#60;b&#62;&#38;&#34;&#39;"),
            ("\u{1b}[31mred\u{1b}[0m plain", "<span class=\"c1\">red</span> plain"),
            (
                "\u{1b}[1;92mbold green\u{1b}[22m green\u{1b}[m.",
                "<span class=\"strong c10\">bold green</span><span class=\"c10\"> green</span>.",
            ),
            (
                "\u{1b}[38;5;3myellow\u{1b}[38;5;200m none\u{1b}[38;2;1;31;4m none",
                "<span class=\"c3\">yellow</span> none none",
            ),
            ("\u{1b}[41;37mwhite on red", "<span class=\"c7 g1\">white on red</span>"),
            // A quote is a part of the sequence, which ends with the next letter.
            ("\u{1b}[31;\"onclick=1mx", "nclick=1mx"),
            ("10 %\r50 %\r100 %\r", "100 %"),
            ("a\u{0}b\u{202e}c\u{7f}", "a\u{fffd}bc\u{fffd}"),
            ("\u{1b}[2J\u{1b}[1;1Hgone\u{1b}", "gone"),
            ("\u{1b}]0;title\u{7}after\u{1b}]8;;http://evil\u{1b}\\link\u{1b}]8;;\u{1b}\\", "afterlink"),
            ("\u{1b}Pq#0\u{1b}\\x\u{1b}(By\u{1b}cz\u{1b}[", "xyz"),
            ("\u{9b}31mx", "\u{fffd}31mx"),
            ("tab\there", "tab\there"),
        ] {
            assert_eq!(line_html(line), html, "{line:?}");
        }
    }

    #[test]
    fn a_giant_line_is_cut_and_says_so() {
        let html = line_html(&"<".repeat(64 << 10));
        assert!(html.ends_with("57344 more characters; the download has them</span>"), "{}", html.len());
        assert!(html.len() < 50_000);
    }

    #[test]
    fn text_is_searched_without_its_colours() {
        assert_eq!(line_plain("\u{1b}[31mre\u{1b}[0md\u{1b}[K x"), "red x");
    }
}
