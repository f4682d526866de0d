//! JSON in plain ASCII. Streams need it because no character may be taken for the end of a line; terminals need it
//! because some characters beyond ASCII move or turn around the text. Everything but printable ASCII is escaped.

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

/// JSON in one line.
///
/// # Errors
/// The value has no JSON form.
pub fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    write(&mut bytes, value)?;
    Ok(bytes)
}

/// The same, appended to `bytes`.
///
/// # Errors
/// The value has no JSON form.
pub fn write(bytes: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(bytes, Ascii(CompactFormatter)))
}

/// JSON for people.
///
/// # Errors
/// The value has no JSON form.
pub fn to_string_pretty(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(256);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Ascii(PrettyFormatter::new())))?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// JSON in one line, as text.
///
/// # Errors
/// The value has no JSON form.
pub fn to_string(value: &impl Serialize) -> serde_json::Result<String> {
    String::from_utf8(to_vec(value)?).map_err(serde::ser::Error::custom)
}

/// Writes as `F` does, except for strings.
struct Ascii<F>(F);

macro_rules! as_inner {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        $(fn $name<W: ?Sized + io::Write>(&mut self, writer: &mut W, $($argument: $kind),*) -> io::Result<()> {
            self.0.$name(writer, $($argument),*)
        })*
    };
}

impl<F: Formatter> Formatter for Ascii<F> {
    as_inner! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(|c: char| !c.is_ascii() || c == '\u{7f}') {
            let (plain, tail) = rest.split_at(at);
            self.0.write_string_fragment(writer, plain)?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        self.0.write_string_fragment(writer, rest)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nothing_but_printable_ascii_is_written_and_all_of_it_can_be_read_again() {
        let wild: String = (0..0x3000).chain([0xfeff, 0x1f680, 0xe0001]).filter_map(char::from_u32).collect();
        let value = json!({ "plain": [1, true, null, {}], wild.clone(): wild });
        for text in [to_string(&value).unwrap(), to_string_pretty(&value).unwrap()] {
            assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{text}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
        assert_eq!(to_string_pretty(&json!({ "a": [1] })).unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    }
}
