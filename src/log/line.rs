//! One line of the log, as text and as JSON. Values may come from clients, so whatever could end a line, move a terminal's
//! cursor or turn the text around is escaped, and a value that could be read as more than one field is quoted.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::Level;

/// How the log is written: as lines for people, or as one JSON object a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// One line. Its keys are a contract: `docs/operations.md` lists them.
pub struct Line<'a> {
    pub timestamp: String,
    pub level: Level,
    pub target: &'a str,
    pub message: String,
    pub request_id: Option<String>,
    pub fields: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    timestamp: &'a str,
    level: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: &'a Map<String, Value>,
    target: &'a str,
}

impl Line<'_> {
    /// The line as one JSON object.
    pub fn to_json(&self) -> String {
        let level = match self.level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let Line { timestamp, target, message, request_id, fields, .. } = self;
        let told = Told { timestamp, level, message, request_id: request_id.as_deref(), fields, target };
        // A map with keys that are text has a JSON form, always.
        let json = serde_json::to_string(&told).unwrap_or_default();
        if json.chars().all(is_harmless) {
            return json;
        }
        // JSON escapes only the control characters of ASCII, and not all of those. The others stand within strings, where they can be escaped.
        let mut escaped = String::with_capacity(json.len() + 16);
        for c in json.chars() {
            if is_harmless(c) {
                escaped.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
        escaped
    }

    /// The line for people: when, how grave, what, then the fields as `name=value`.
    pub fn to_text(&self, is_coloured: bool) -> String {
        let level = match self.level {
            Level::ERROR => ("ERROR", "31"),
            Level::WARN => (" WARN", "33"),
            Level::INFO => (" INFO", "32"),
            Level::DEBUG => ("DEBUG", "34"),
            Level::TRACE => ("TRACE", "35"),
        };
        let in_colour = |colour: &str, text: &str| match is_coloured {
            true => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        };
        let mut text = in_colour("2", &self.timestamp);
        text.push(' ');
        text.push_str(&in_colour(level.1, level.0));
        text.push(' ');
        // A line begins with its timestamp, so what is indented is seen to belong to the line above.
        for (number, line) in self.message.lines().enumerate() {
            if number > 0 {
                text.push_str("\n    ");
            }
            escape(&mut text, line);
        }
        let request = self.request_id.as_ref().map(|id| ("request", Value::from(id.as_str())));
        let fields = self.fields.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in fields.chain(request) {
            text.push(' ');
            text.push_str(&in_colour("3", name));
            text.push('=');
            match &value {
                Value::String(value) if is_one_word(value) => text.push_str(value),
                Value::String(value) => {
                    text.push('"');
                    escape(&mut text, &value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
                    text.push('"');
                }
                value => _ = write!(text, "{value}"),
            }
        }
        text
    }
}

/// Whether a value can stand without quotes.
fn is_one_word(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|c| is_harmless(c) && !c.is_whitespace() && !matches!(c, '"' | '=' | '\\'))
}

/// Appends a text; the characters that are not harmless become `\u{…}`.
fn escape(to: &mut String, text: &str) {
    for c in text.chars() {
        if is_harmless(c) { to.push(c) } else { to.extend(c.escape_unicode()) }
    }
}

/// Whether a character neither controls a terminal, nor ends a line, nor turns or hides text.
fn is_harmless(c: char) -> bool {
    let turns_text = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' | '\u{61c}' | '\u{feff}');
    !c.is_control() && !turns_text && !matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(message: &str, fields: Value) -> Line<'_> {
        let Value::Object(fields) = fields else { panic!("an object") };
        let (timestamp, message) = ("2026-11-30T19:00:00.000000Z".to_owned(), message.to_owned());
        Line { timestamp, level: Level::WARN, target: "t", message, request_id: Some("ab".to_owned()), fields }
    }

    #[test]
    fn a_value_stands_for_one_value_whatever_is_in_it() {
        let shown = |value: &str| {
            let text = line("m", json!({ "reason": value })).to_text(false);
            let text = text.strip_prefix("2026-11-30T19:00:00.000000Z  WARN m reason=").unwrap().to_owned();
            text.strip_suffix(" request=ab").unwrap().to_owned()
        };
        for (value, expected) in [
            ("plain", "plain"),
            ("grün", "grün"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("a b=c", "\"a b=c\""),
            ("x\" caller=root \"", "\"x\\\" caller=root \\\"\""),
            ("x\n2026-11-30T19:00:00Z ERROR forged", "\"x\\n2026-11-30T19:00:00Z ERROR forged\""),
            ("\u{1b}[31mred", "\"\\u{1b}[31mred\""),
            ("a\rb", "\"a\\u{d}b\""),
            ("abc\u{202e}cba\u{2028}\u{9b}", "\"abc\\u{202e}cba\\u{2028}\\u{9b}\""),
        ] {
            assert_eq!(shown(value), expected, "{value:?}");
        }
    }

    #[test]
    fn a_message_of_several_lines_is_indented_so_that_each_line_of_the_log_begins_with_its_time() {
        let text = line("panicked\n2026-11-30T19:00:00Z ERROR forged\r\nlast", json!({})).to_text(false);
        assert_eq!(text.lines().filter(|line| line.starts_with("2026")).count(), 1, "{text}");
    }

    #[test]
    fn a_json_line_is_one_line_and_says_what_was_given() {
        let wild: String = (0..0x3000).chain([0xfeff, 0x1f680]).filter_map(char::from_u32).collect();
        let json = line(&wild, json!({ "reason": wild, "count": 3 })).to_json();
        assert!(json.chars().all(is_harmless), "{json}");
        let read: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&read["message"], &read["fields"]["reason"]), (&json!(wild), &json!(wild)));
        assert_eq!(
            (&read["level"], &read["requestId"], &read["fields"]["count"]),
            (&json!("warn"), &json!("ab"), &json!(3))
        );
    }
}
