//! What a rule of `[[oidc]]` wants of a claim, and which claims say for whom a token was made.

use std::fmt;

/// A text that a claim must be, or a pattern of such texts: `*` stands for any characters except `/` and `:`, and `**` for
/// any characters. So `acme/*` is every repository of acme, and no part of a subject is skipped by accident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPattern(String);

impl ClaimPattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a claim with this text is meant. Upper and lower case are different.
    pub fn fits(&self, text: &str) -> bool {
        fits(self.0.as_bytes(), text.as_bytes())
    }

    /// Whether more than one text fits.
    pub fn is_open(&self) -> bool {
        self.0.contains('*')
    }

    /// What each text that fits begins with.
    fn beginning(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }
}

impl From<String> for ClaimPattern {
    fn from(text: String) -> Self {
        ClaimPattern(text)
    }
}

impl fmt::Display for ClaimPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Goes back to the last star only: what an earlier star could take, the last one can take as well, as long as it is
/// allowed to. A single star that meets a separator hands back to the double star before it.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    // Where the pattern goes on after a star, and up to where the star has taken the text.
    let mut single: Option<(usize, usize)> = None;
    let mut double: Option<(usize, usize)> = None;
    loop {
        if pattern[at..].starts_with(b"**") {
            at += 2;
            (double, single) = (Some((at, from)), None);
        } else if pattern.get(at) == Some(&b'*') {
            at += 1;
            single = Some((at, from));
        } else if from < text.len() && pattern.get(at) == Some(&text[from]) {
            (at, from) = (at + 1, from + 1);
        } else if from == text.len() && at == pattern.len() {
            return true;
        } else if let Some((after, taken)) =
            single.filter(|(_, taken)| text.get(*taken).is_some_and(|b| !is_separator(*b)))
        {
            single = Some((after, taken + 1));
            (at, from) = (after, taken + 1);
        } else if let Some((after, taken)) = double.filter(|(_, taken)| *taken < text.len()) {
            (double, single) = (Some((after, taken + 1)), None);
            (at, from) = (after, taken + 1);
        } else {
            return false;
        }
    }
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b':')
}

/// The CI systems whose claims are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownIssuer {
    /// GitHub Actions, also of a GitHub Enterprise Server.
    GitHub,
    /// GitLab, also one's own.
    GitLab,
    /// Any other.
    Other,
}

impl KnownIssuer {
    /// The system that most likely stands behind an issuer's address.
    pub fn of(issuer: &str) -> Self {
        let rest = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = authority.split(':').next().unwrap_or_default();
        if host.ends_with("actions.githubusercontent.com") || path.trim_end_matches('/') == "_services/token" {
            KnownIssuer::GitHub
        } else if host.split('.').any(|part| part.starts_with("gitlab")) {
            KnownIssuer::GitLab
        } else {
            KnownIssuer::Other
        }
    }

    /// The claims that say whose job it is, the most usual one first; empty where any claim may.
    pub fn owner_claims(self) -> &'static [&'static str] {
        match self {
            KnownIssuer::GitHub => &["repository", "repository_owner", "repository_id", "repository_owner_id", "sub"],
            KnownIssuer::GitLab => &["project_path", "namespace_path", "project_id", "namespace_id", "sub"],
            KnownIssuer::Other => &[],
        }
    }

    /// Whether a claim that fits this pattern says whose job it is.
    pub fn pins_owner(self, claim: &str, pattern: &ClaimPattern) -> bool {
        let owner_claims = self.owner_claims();
        if !owner_claims.is_empty() && !owner_claims.contains(&claim) {
            return false;
        }
        let beginning = pattern.beginning();
        match claim {
            _ if pattern.as_str().is_empty() => false,
            _ if !pattern.is_open() => true,
            // The owner stands before the first slash. A pattern such as `acme*` would fit other owners as well.
            "repository" | "project_path" | "namespace_path" => beginning.find('/').is_some_and(|slash| slash > 0),
            // `repo:acme/web:…`, `project_path:acme/web:…`: the owner ends with a slash or a colon.
            "sub" => {
                let owner = beginning.split_once(':').map_or(beginning, |(_, owner)| owner);
                owner.find(['/', ':']).is_some_and(|end| end > 0)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> ClaimPattern {
        ClaimPattern::from(text.to_owned())
    }

    #[test]
    fn one_star_stays_within_a_part_and_two_go_anywhere() {
        for (written, text, wanted) in [
            ("acme/web", "acme/web", true),
            ("acme/web", "acme/web2", false),
            ("acme/web", "Acme/web", false),
            ("acme/*", "acme/web", true),
            ("acme/*", "acme/", true),
            ("acme/*", "acme/group/web", false),
            ("acme/*", "acme-evil/web", false),
            ("acme/**", "acme/group/web", true),
            ("repo:acme/*:ref:refs/heads/main", "repo:acme/web:ref:refs/heads/main", true),
            ("repo:acme/*:ref:refs/heads/main", "repo:acme/web:environment:x:ref:refs/heads/main", false),
            ("repo:acme/**:main", "repo:acme/web:ref:main", true),
            ("**/main", "refs/heads/main", true),
            ("refs/heads/release-*", "refs/heads/release-1.2", true),
            ("refs/heads/release-*", "refs/heads/release-1/2", false),
            ("*-*-x", "a-b-c-x", true),
            ("**a*b", "x/a/ab", true),
            ("**a*b", "x/a/b", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("**", "a/b:c", true),
            ("a**", "b", false),
            ("***", "a", true),
        ] {
            assert_eq!(pattern(written).fits(text), wanted, "{written} {text}");
        }
        // A pattern with many stars takes no longer than the text is long.
        assert!(!pattern(&"**a".repeat(200)).fits(&"a".repeat(199)));
    }

    #[test]
    fn an_issuer_is_known_by_its_address() {
        for (issuer, wanted) in [
            ("https://token.actions.githubusercontent.com", KnownIssuer::GitHub),
            ("https://token.actions.githubusercontent.com/acme", KnownIssuer::GitHub),
            ("https://github.acme.example/_services/token", KnownIssuer::GitHub),
            ("https://gitlab.com", KnownIssuer::GitLab),
            ("https://gitlab.acme.example:8443/", KnownIssuer::GitLab),
            ("https://agent.buildkite.com", KnownIssuer::Other),
            ("http://127.0.0.1:8080", KnownIssuer::Other),
        ] {
            assert_eq!(KnownIssuer::of(issuer), wanted, "{issuer}");
        }
    }

    #[test]
    fn only_a_claim_that_nobody_else_can_have_pins_the_owner() {
        for (issuer, claim, written, wanted) in [
            (KnownIssuer::GitHub, "repository", "acme/web", true),
            (KnownIssuer::GitHub, "repository", "acme/*", true),
            (KnownIssuer::GitHub, "repository", "acme*", false),
            (KnownIssuer::GitHub, "repository", "*/web", false),
            (KnownIssuer::GitHub, "repository", "**", false),
            (KnownIssuer::GitHub, "repository", "", false),
            (KnownIssuer::GitHub, "repository_owner", "acme", true),
            (KnownIssuer::GitHub, "repository_owner", "acme*", false),
            (KnownIssuer::GitHub, "repository_owner_id", "123", true),
            (KnownIssuer::GitHub, "ref", "refs/heads/main", false),
            (KnownIssuer::GitHub, "sub", "repo:acme/web:ref:refs/heads/main", true),
            (KnownIssuer::GitHub, "sub", "repo:acme/**", true),
            (KnownIssuer::GitHub, "sub", "repo:**", false),
            (KnownIssuer::GitHub, "sub", "repo:acme**", false),
            (KnownIssuer::GitLab, "project_path", "acme/**", true),
            (KnownIssuer::GitLab, "namespace_path", "acme", true),
            (KnownIssuer::GitLab, "repository", "acme/web", false),
            (KnownIssuer::Other, "pipeline_slug", "web", true),
            (KnownIssuer::Other, "pipeline_slug", "web-*", false),
        ] {
            assert_eq!(issuer.pins_owner(claim, &pattern(written)), wanted, "{issuer:?} {claim} {written}");
        }
    }
}
