//! The text of a token: 256 random bits, of which the server keeps only a hash. See decision 0007.
//!
//! Secret scanners find it by `\bst_[0-9a-f]{72}\b`, and tell a real one by its checksum: the last 8 digits are the first 8
//! of the SHA-256 of the 64 digits before them, as text.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

const PREFIX: &str = "st_";
const SECRET_DIGITS: usize = 64;
const CHECKSUM_DIGITS: usize = 8;

/// A token, to be shown once, and its hash for the server.
pub struct NewToken {
    /// The token itself: `st_`, 64 hexadecimal digits, and a checksum of eight digits, by which secret scanners
    /// recognize a real token.
    pub token: String,
    /// SHA-256 of it.
    pub sha256: [u8; 32],
}

impl NewToken {
    /// The hash, as `[[tokens]]` takes it.
    pub fn sha256_in_hex(&self) -> String {
        HEXLOWER.encode(&self.sha256)
    }
}

/// Makes a token.
///
/// # Errors
/// The system has no randomness.
pub fn new_token() -> Result<NewToken, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let secret = HEXLOWER.encode(&bytes);
    let token = format!("{PREFIX}{secret}{}", checksum(&secret));
    let sha256 = hash_of(&token);
    Ok(NewToken { token, sha256 })
}

/// What the server knows of a token.
pub fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether a text can be a token of ours at all. Nothing else is looked for in a store.
pub fn is_well_formed(token: &str) -> bool {
    let Some(digits) = token.strip_prefix(PREFIX) else { return false };
    let Some((secret, shown)) = digits.split_at_checked(SECRET_DIGITS) else { return false };
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    shown.len() == CHECKSUM_DIGITS && digits.bytes().all(is_digit) && checksum(secret) == shown
}

fn checksum(secret: &str) -> String {
    let mut checksum = HEXLOWER.encode(&Sha256::digest(secret.as_bytes()));
    checksum.truncate(CHECKSUM_DIGITS);
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_from_other_texts_by_its_checksum() {
        let token = new_token().expect("there is randomness").token;
        assert!(is_well_formed(&token), "{token}");
        let other = new_token().expect("there is randomness").token;
        let swapped = format!("{}{}", &token[..67], &other[67..]);
        for text in
            ["", "st_", &token[1..], &token[..74], &format!("{token}0"), &token.to_uppercase(), &swapped, "st_ü"]
        {
            assert!(!is_well_formed(text), "{text}");
        }
    }
}
