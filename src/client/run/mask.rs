//! Takes secrets out of what is sent to the server, however the output is cut into pieces, and in the forms in which
//! tools print them: as they are, percent-encoded, in base64 (also within longer text), and escaped for JSON.

/// What stands for a secret.
const MASK: &[u8] = b"***";

/// The shortest value that is masked: a shorter one would be found everywhere.
pub(super) const LENGTH_MIN: usize = 4;

/// The forms of all secrets; shared by the maskers of both streams.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// The longest first.
    patterns: Vec<Vec<u8>>,
}

impl Secrets {
    /// The forms of these values, each of at least [`LENGTH_MIN`] bytes.
    pub(super) fn new(values: impl IntoIterator<Item = String>) -> Self {
        let mut patterns: Vec<Vec<u8>> = values.into_iter().flat_map(|value| forms(&value)).collect();
        patterns.retain(|pattern| pattern.len() >= LENGTH_MIN);
        patterns.sort_by(|one, other| other.len().cmp(&one.len()).then(one.cmp(other)));
        patterns.dedup();
        Secrets { patterns }
    }

    /// How long the longest form is.
    pub(super) fn longest(&self) -> usize {
        self.patterns.first().map_or(0, Vec::len)
    }
}

/// Masks one stream. What may be the beginning of a secret is kept back until it is clear.
#[derive(Debug)]
pub(super) struct Masker<'a> {
    secrets: &'a Secrets,
    begins: [bool; 256],
    kept: Vec<u8>,
}

impl<'a> Masker<'a> {
    pub(super) fn new(secrets: &'a Secrets) -> Self {
        let mut begins = [false; 256];
        for first in secrets.patterns.iter().filter_map(|pattern| pattern.first()) {
            begins[usize::from(*first)] = true;
        }
        Masker { secrets, begins, kept: Vec::new() }
    }

    /// What of the stream can be shown now that these bytes have come.
    pub(super) fn push(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        if self.secrets.patterns.is_empty() {
            return bytes;
        }
        let mut input = std::mem::take(&mut self.kept);
        input.extend_from_slice(&bytes);
        let mut shown = Vec::with_capacity(input.len());
        let mut rest = input.as_slice();
        while let Some(first) = rest.first() {
            if !self.begins[usize::from(*first)] {
                shown.push(*first);
                rest = &rest[1..];
                continue;
            }
            // The longest first: one that may still come whole goes before a shorter one that is here.
            let found = self.secrets.patterns.iter().find(|pattern| {
                let length = pattern.len().min(rest.len());
                rest[..length] == pattern[..length]
            });
            match found {
                Some(pattern) if pattern.len() > rest.len() => break,
                Some(pattern) => {
                    shown.extend_from_slice(MASK);
                    rest = &rest[pattern.len()..];
                }
                None => {
                    shown.push(*first);
                    rest = &rest[1..];
                }
            }
        }
        self.kept = rest.to_vec();
        shown
    }

    /// What is left when the stream has ended, or a part of it is missing.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let kept = std::mem::take(&mut self.kept);
        // Most of a secret is nearly as good as the secret. A shorter one may stand in it whole.
        if kept.len() >= LENGTH_MIN { MASK.to_vec() } else { kept }
    }
}

fn forms(value: &str) -> Vec<Vec<u8>> {
    let bytes = value.as_bytes();
    let mut forms = vec![bytes.to_vec(), percent(bytes, true, false), percent(bytes, false, false)];
    forms.push(percent(bytes, true, true));
    // Output is looked at line by line, and so is a key that has many.
    forms.extend(value.lines().map(|line| line.trim().as_bytes().to_vec()));
    if let Ok(json) = serde_json::to_string(value) {
        forms.push(json.as_bytes()[1..json.len() - 1].to_vec());
    }
    for alphabet in [STANDARD, URL_SAFE] {
        for offset in 0..3 {
            forms.push(base64_core(bytes, offset, alphabet));
        }
    }
    forms
}

fn percent(bytes: &[u8], upper: bool, plus: bool) -> Vec<u8> {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(*byte)),
            b' ' if plus => text.push('+'),
            _ if upper => text.push_str(&format!("%{byte:02X}")),
            _ => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text.into_bytes()
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The characters that these bytes alone decide when they are encoded behind `offset` other bytes (modulo 3) and before
/// any others.
fn base64_core(bytes: &[u8], offset: usize, alphabet: &[u8; 64]) -> Vec<u8> {
    let bit = |at: usize| (bytes[at / 8] >> (7 - at % 8)) & 1;
    let bit_count = bytes.len() * 8;
    // Of the first character that is ours alone.
    let begin = (6 - offset * 8 % 6) % 6;
    (begin..)
        .step_by(6)
        .take_while(|at| at + 6 <= bit_count)
        .map(|at| {
            let index = (at..at + 6).fold(0, |index, at| index << 1 | bit(at));
            alphabet[usize::from(index)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cret/pass word+\"x";

    fn mask(pieces: &[&[u8]]) -> String {
        let secrets = Secrets::new([SECRET.to_owned(), "first line\nsecond line".to_owned()]);
        let mut masker = Masker::new(&secrets);
        let mut shown = Vec::new();
        for piece in pieces {
            shown.extend(masker.push(piece.to_vec()));
        }
        shown.extend(masker.finish());
        String::from_utf8(shown).expect("text")
    }

    #[test]
    fn a_secret_is_found_wherever_it_is_cut() {
        let text = format!("a {SECRET} b {SECRET}{SECRET} s3cret s3cs3cret");
        let wanted = "a *** b ****** s3cret s3cs3cret";
        for at in 0..text.len() {
            let (head, tail) = text.as_bytes().split_at(at);
            assert_eq!(mask(&[head, tail, b"."]), format!("{wanted}."), "cut at {at}");
        }
        let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(mask(&[single.as_slice(), &[b"."]].concat()), format!("{wanted}."));
    }

    #[test]
    fn a_secret_is_found_in_the_forms_in_which_tools_print_it() {
        for form in ["s3cret%2Fpass%20word%2B%22x", "s3cret%2fpass%20word%2b%22x", "s3cret%2Fpass+word%2B%22x"] {
            assert_eq!(mask(&[b"<", form.as_bytes(), b">"]), "<***>", "{form}");
        }
        assert_eq!(mask(&[br#"{"a":"s3cret/pass word+\"x"}"#]), r#"{"a":"***"}"#);
        assert_eq!(mask(&[b"first line\n  second line\n"]), "***\n  ***\n");
        // `printf %s "user:$SECRET!" | base64`, with each number of characters before it.
        for (encoded, left) in [
            ("czNjcmV0L3Bhc3Mgd29yZCsieA==", "***eA=="),
            ("dTpzM2NyZXQvcGFzcyB3b3JkKyJ4IQ==", "dTpz"),
            ("dXM6czNjcmV0L3Bhc3Mgd29yZCsieCE=", "dXM6***"),
        ] {
            let masked = mask(&[encoded.as_bytes()]);
            assert!(masked.contains("***") && masked.len() < 16, "{encoded}: {masked}, wanted about {left}");
        }
    }

    #[test]
    fn the_larger_part_of_a_secret_is_not_shown_at_the_end() {
        assert_eq!(mask(&[b"so s3cret/pass"]), "so ***");
        assert_eq!(mask(&[b"so s3"]), "so s3");
    }
}
