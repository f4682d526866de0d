//! The forms in which tools print a secret: as it is, quoted for a shell, escaped for JSON, XML and URLs, in
//! hexadecimal and in base64. A form holds no line ends, because masking skips them: so one form covers every width at
//! which it is wrapped. The search ignores upper and lower case.

use std::fmt::Write as _;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, Encoding, HEXLOWER};

/// A longer value is searched only line by line, because its other forms would cost too much memory.
pub(super) const WHOLE_LIMIT: usize = 8 << 10;

/// Every form of this value, in lower case, each of at least `length_min` bytes.
pub(super) fn forms(value: &str, length_min: usize) -> Vec<Vec<u8>> {
    let value = value.trim();
    let mut texts: Vec<String> = value.lines().map(|line| line.trim().to_owned()).collect();
    if value.len() <= WHOLE_LIMIT {
        texts.push(value.to_owned());
        texts.extend([value.to_uppercase(), value.to_lowercase()]);
        texts.extend(in_urls(value));
        texts.extend(in_json(value));
        texts.extend(in_shells(value));
        texts.push(in_xml(value));
        let bytes = value.as_bytes();
        texts.extend(["", ":", " ", "\\x"].map(|separator| hex(bytes, separator)));
        for encoding in [BASE64_NOPAD, BASE64URL_NOPAD] {
            texts.extend((0..3).map(|offset| base64_core(bytes, offset, &encoding)));
        }
    }
    let mut forms: Vec<Vec<u8>> =
        texts.iter().map(|text| without_line_ends(text).to_ascii_lowercase().into_bytes()).collect();
    forms.retain(|form| form.len() >= length_min);
    forms.sort();
    forms.dedup();
    forms
}

/// The text as it is compared: without line ends and the white space after each, and without the characters that a log
/// never shows.
fn without_line_ends(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let joined = lines.fold(first, |joined, line| joined + line.trim_start_matches([' ', '\t']));
    joined.chars().filter(|character| !character.is_control() || *character == '\t').collect()
}

/// Percent-encoded. Libraries differ in the characters that they leave unencoded.
fn in_urls(value: &str) -> Vec<String> {
    ["", "*", "~", "~/", "~!'()*", "~!'()*;,/?:@&=+$#"]
        .into_iter()
        .flat_map(|spared| [percent(value, spared, false), percent(value, spared, true)])
        .collect()
}

fn percent(value: &str, spared: &str, plus: bool) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => text.push(char::from(byte)),
            b' ' if plus => text.push('+'),
            _ if spared.as_bytes().contains(&byte) => text.push(char::from(byte)),
            _ => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

/// In a JSON string: as most libraries write it, with `/` escaped (PHP), safe in HTML (Go), in ASCII alone (Python);
/// and JSON within JSON.
fn in_json(value: &str) -> Vec<String> {
    let plain = json(value);
    let html = plain.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    let more = html.replace('\'', "\\u0027");
    let mut ascii = String::new();
    for character in plain.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            let mut units = [0; 2];
            character.encode_utf16(&mut units).iter().for_each(|unit| _ = write!(ascii, "\\u{unit:04x}"));
        }
    }
    vec![json(&plain), plain.replace('/', "\\/"), ascii.replace('/', "\\/"), html, more, ascii, plain]
}

fn json(value: &str) -> String {
    let quoted = serde_json::to_string(value).unwrap_or_default();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

/// Quoted for a shell: within `'…'` (as `set -x` prints it), within `"…"`, within `$'…'`, and with each special character
/// escaped by itself (`printf %q`).
fn in_shells(value: &str) -> Vec<String> {
    let escaped = |special: &str| -> String {
        let escape = |character| special.contains(character).then_some('\\').into_iter().chain([character]);
        value.chars().flat_map(escape).collect()
    };
    let controls = |text: String| text.replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
    vec![
        value.replace('\'', r"'\''"),
        value.replace('\'', r#"'"'"'"#),
        escaped("\"\\$`"),
        controls(escaped("'\\")),
        escaped(" \t\"\\$`'!&|;<>(){}[]*?~#^,="),
        escaped(" \t\"\\$`'!&|;<>(){}[]*?~#^"),
        escaped(" \t\"\\$`'&|;<>()*?[]#~=%"),
    ]
}

fn in_xml(value: &str) -> String {
    let text = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

fn hex(bytes: &[u8], separator: &str) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| HEXLOWER.encode(&[*byte])).collect();
    digits.join(separator)
}

/// The base64 characters that depend on these bytes alone, if `offset` other bytes (modulo 3) stand before them and any
/// others after them.
fn base64_core(bytes: &[u8], offset: usize, encoding: &Encoding) -> String {
    let text = encoding.encode(&[&[0; 2][..offset], bytes].concat());
    text.get((offset * 8).div_ceil(6)..(offset + bytes.len()) * 8 / 6).unwrap_or_default().to_owned()
}
