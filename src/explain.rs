//! What each error code and each exit code means: a page for each in `docs/explain`, compiled in, so that the command line,
//! the documentation and the server show the same text. A test compares the pages with the codes that there are.

/// A page of Markdown about one code.
#[derive(Clone, Copy, Debug)]
pub struct ExplainPage {
    /// The code, such as `PHASE_FAILED` or `121`.
    pub code: &'static str,
    /// The page: cause, what to do, an example.
    pub text: &'static str,
}

macro_rules! pages {
    ($($code:literal,)*) => {
        &[$(ExplainPage { code: $code, text: include_str!(concat!("../docs/explain/", $code, ".md")) },)*]
    };
}

/// All pages: the exit codes by number, then the error codes in alphabetical order.
pub const PAGES: &[ExplainPage] = pages![
    "0",
    "1",
    "2",
    "69",
    "78",
    "121",
    "122",
    "123",
    "124",
    "125",
    "126",
    "127",
    "128",
    "130",
    "ABANDONED",
    "ARTIFACT_MISMATCH",
    "ARTIFACT_MISSING",
    "BAD_REQUEST",
    "BODY_TOO_LARGE",
    "CANCELLED",
    "CLIENT_FAULT",
    "CLIENT_TIMEOUT",
    "CLIENT_TIMEOUT_RUNNING",
    "CLIENT_TIMEOUT_UNCLAIMED",
    "CONFIG_INVALID",
    "DEADLINE_PASSED",
    "DEPLOYMENT_IN_PROGRESS",
    "DISK_FULL",
    "EXPIRED",
    "FORBIDDEN_ORIGIN",
    "HEADERS_TOO_LARGE",
    "HOLDER_ALIVE",
    "HOLDER_CHANGED",
    "HOST_NOT_ALLOWED",
    "INSIDE_HOLDER",
    "INTERNAL",
    "INTERRUPTED",
    "INVALID_BODY",
    "INVALID_PARAMETER",
    "INVALID_PROJECT",
    "ISSUER_UNREACHABLE",
    "KEY_REUSED",
    "LEASE_LOST",
    "LINE_FULL",
    "METHOD_NOT_ALLOWED",
    "MISSING_SCOPE",
    "NOTHING_TO_DO",
    "NOT_ACCEPTABLE",
    "NOT_CANCELLED",
    "NOT_FOUND",
    "NOT_OLDER",
    "NOT_SINGLETRACK",
    "NO_AGENT",
    "NO_OIDC_RULE",
    "OUTDATED",
    "OVERTAKEN",
    "PHASE_FAILED",
    "PHASE_TIMEOUT",
    "PREEMPTION_REFUSED",
    "PROJECT_IN_USE",
    "PROJECT_PAUSED",
    "PROXY_LIMIT",
    "PROXY_NEEDS_TOKENS",
    "RELEASED",
    "REPORT_GAP",
    "REQUEST_TIMEOUT",
    "ROLLBACK_FAILED",
    "ROLLBACK_IMPOSSIBLE",
    "SECRET_INPUTS_GONE",
    "SHUTTING_DOWN",
    "STALLED",
    "STILL_RUNNING",
    "STILL_WAITING",
    "SUCCESSOR_GONE",
    "SUPERSEDED",
    "TIMED_OUT",
    "TOKEN_CONFLICT",
    "TOKEN_EXPIRED",
    "TOKEN_NOT_ACCEPTED",
    "TOKEN_REVOKED",
    "TOO_MANY_ATTEMPTS",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNCLAIMED",
    "UNKNOWN_PARAMETER",
    "UNKNOWN_PIPELINE",
    "UNKNOWN_PROJECT",
    "UNREACHABLE",
    "UNSUPPORTED_MEDIA_TYPE",
    "UPLOAD_IN_PROGRESS",
    "UPLOAD_OFFSET",
    "URI_TOO_LONG",
    "USAGE",
    "VERIFY_FAILED",
    "WORKER_LOST",
];

/// The page of 128 + N: a signal ended the command.
const BY_SIGNAL: &str = "128";
/// The highest number of a signal.
const SIGNAL_MAX: u8 = 64;
/// From this similarity on (0 to 1) a name may be what was meant.
const SIMILARITY_MIN: f64 = 0.75;

impl ExplainPage {
    /// What the code means, in a sentence.
    pub fn title(&self) -> &'static str {
        let sentence = self.text.split("\n\n").nth(1).unwrap_or_default();
        let end = sentence.find(['.', '\n']).unwrap_or(sentence.len());
        &sentence[..end]
    }

    /// The code as people write it.
    pub fn heading(&self) -> &'static str {
        let first = self.text.lines().next().unwrap_or_default();
        first.trim_start_matches("# Exit code ").trim_start_matches("# ")
    }
}

/// The page about a code: in any case, with `-` or `_`, an exit code by its number.
pub fn find(code: &str) -> Option<&'static ExplainPage> {
    let code = normal(code);
    let by_name = |name: &str| PAGES.iter().find(|page| page.code == name);
    by_name(&code).or_else(|| {
        let number: u8 = code.parse().ok()?;
        (128..=128 + SIGNAL_MAX).contains(&number).then(|| by_name(BY_SIGNAL)).flatten()
    })
}

/// The codes that may have been meant, the most similar first.
pub fn nearest(code: &str) -> Vec<&'static str> {
    let code = normal(code);
    let mut found: Vec<_> = PAGES
        .iter()
        .map(|page| (strsim::jaro_winkler(&code, page.code), page.code))
        .filter(|(similarity, name)| *similarity >= SIMILARITY_MIN || (code.len() > 2 && name.contains(code.as_str())))
        .collect();
    found.sort_by(|one, other| other.0.total_cmp(&one.0));
    found.into_iter().map(|(_, name)| name).take(3).collect()
}

fn normal(code: &str) -> String {
    code.trim().to_uppercase().replace(['-', ' '], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_however_it_is_written() {
        let found = |code| find(code).map(|page| page.code);
        for (code, page) in [
            ("PHASE_FAILED", Some("PHASE_FAILED")),
            ("phase_failed", Some("PHASE_FAILED")),
            (" phase-failed ", Some("PHASE_FAILED")),
            ("121", Some("121")),
            ("130", Some("130")),
            ("128", Some("128")),
            ("137", Some("128")),
            ("193", None),
            ("120", None),
            ("", None),
        ] {
            assert_eq!(found(code), page, "{code}");
        }
    }

    #[test]
    fn what_is_mistyped_is_near() {
        assert_eq!(nearest("phase_faild").first(), Some(&"PHASE_FAILED"));
        assert_eq!(nearest("superceded").first(), Some(&"SUPERSEDED"));
        assert!(nearest("paused").contains(&"PROJECT_PAUSED"));
        assert!(nearest("").is_empty() && nearest("xyzzy").is_empty());
    }

    #[test]
    fn a_page_has_a_title() {
        let page = find("128").expect("a page");
        assert_eq!((page.heading(), page.title()), ("128 + N", "A signal ended the command"));
        assert_eq!(find("OUTDATED").expect("a page").title(), "A newer build was deployed already");
    }
}
