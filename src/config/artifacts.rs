//! The `[artifacts]` table: how large artifacts may be, and how long they are kept.

use std::time::Duration;

use super::reader::ConfigTable;

/// How artifacts are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Artifacts {
    /// One artifact as it is uploaded.
    pub max_bytes: u64,
    /// One artifact as it is unpacked.
    pub max_unpacked_bytes: u64,
    /// All artifacts together.
    pub max_total_bytes: u64,
    /// How long one stays after it was last wanted, unless a deployment needs it.
    pub keep: Duration,
}

impl Default for Artifacts {
    fn default() -> Self {
        Artifacts {
            max_bytes: 1 << 30,
            max_unpacked_bytes: 4 << 30,
            max_total_bytes: 20 << 30,
            keep: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

pub(super) fn read(mut section: ConfigTable<'_>) -> Artifacts {
    let default = Artifacts::default();
    let artifacts = Artifacts {
        max_bytes: section.parsed("max_bytes", parse_bytes).unwrap_or(default.max_bytes),
        max_unpacked_bytes: section.parsed("max_unpacked_bytes", parse_bytes).unwrap_or(default.max_unpacked_bytes),
        max_total_bytes: section.parsed("max_total_bytes", parse_bytes).unwrap_or(default.max_total_bytes),
        keep: section.duration("keep").unwrap_or(default.keep),
    };
    if artifacts.max_total_bytes < artifacts.max_bytes {
        let (total, one) = (section.path_of("max_total_bytes"), section.path_of("max_bytes"));
        section.document.problem(section.span_of("max_total_bytes"), format!("`{total}` must not be below `{one}`"));
    }
    section.finish();
    artifacts
}

/// Reads a size such as `1GiB` or `500MB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, bytes)| *bytes);
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "must be a size such as 1GiB, 500MB or 4096B".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_whole_number_and_a_unit() {
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("500 MB"), Ok(500_000_000));
        for text in ["", "1", "0B", "GiB", "1.5GiB", "-1B", "1gib", "99999999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text:?} was taken");
        }
    }
}
