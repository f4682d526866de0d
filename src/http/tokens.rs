//! Tokens for callers from other machines: 256 random bits, of which the server keeps only a hash. See decision 0007.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// A token, to be shown once, and its hash for the configuration.
pub struct NewToken {
    /// The token itself: `st_`, 64 hexadecimal digits, and a checksum of eight digits, by which secret scanners
    /// recognize a real token.
    pub token: String,
    /// SHA-256 of it, for `[[tokens]]`.
    pub sha256: String,
}

/// Makes a token.
///
/// # Errors
/// The system has no randomness.
pub fn new_token() -> Result<NewToken, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let secret = HEXLOWER.encode(&bytes);
    let checksum = &HEXLOWER.encode(&Sha256::digest(secret.as_bytes()))[..8];
    let token = format!("st_{secret}{checksum}");
    let sha256 = HEXLOWER.encode(&Sha256::digest(token.as_bytes()));
    Ok(NewToken { token, sha256 })
}
