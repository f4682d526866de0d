//! Patterns for names: `web-*`, `*_TOKEN`. A `*` stands for any characters, also for none; all else stands for itself.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

use super::ids::{InvalidId, ProjectName};

/// A pattern for names. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(Arc<str>);

impl Glob {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for this name.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // Each part as early as possible, which leaves the most for those that follow.
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.len() >= last.len() && rest.ends_with(last)
    }

    /// Whether it stands for every name for which the other one stands. Names have no `*`.
    pub fn covers(&self, other: &Glob) -> bool {
        // A `*` of the other one can be any characters, so only a `*` of this one can stand for it, as for a character
        // that occurs nowhere else.
        self.matches(&other.0)
    }

    /// The one name for which it stands, if it has no `*`.
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&*self.0)
    }
}

impl From<&ProjectName> for Glob {
    fn from(name: &ProjectName) -> Glob {
        Glob(name.as_str().into())
    }
}

/// A text that stands for no names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidGlob {
    /// It is empty, or too long.
    #[error("a pattern is 1 to 255 characters")]
    Length,
    /// Without its stars it cannot be a part of a project's name.
    #[error("a pattern for projects is a project's name with `*` for any characters, such as web-*")]
    Project,
    /// It has no star, and is no project's name either.
    #[error(transparent)]
    Name(#[from] InvalidId),
}

impl FromStr for Glob {
    type Err = InvalidGlob;

    fn from_str(text: &str) -> Result<Self, InvalidGlob> {
        if (1..=255).contains(&text.len()) { Ok(Glob(text.into())) } else { Err(InvalidGlob::Length) }
    }
}

impl Glob {
    /// A pattern for names of projects.
    ///
    /// # Errors
    /// No project's name fits it.
    pub fn of_projects(text: &str) -> Result<Self, InvalidGlob> {
        let glob: Glob = text.parse()?;
        if glob.literal().is_some() {
            return Ok(Glob::from(&text.parse::<ProjectName>()?));
        }
        // The name that is there when each star stands for one letter.
        text.replace('*', "a").parse::<ProjectName>().map_err(|_| InvalidGlob::Project)?;
        Ok(glob)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Glob {
        text.parse().expect("it is a pattern")
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, fitting, others) in [
            ("web", &["web"][..], &["", "web1", "aweb", "WEB"][..]),
            ("*", &["", "web"], &[]),
            ("web-*", &["web-", "web-eu", "web-*"], &["web", "aweb-"]),
            ("*-eu", &["-eu", "web-eu"], &["eu", "web-eu1"]),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            ("a*b*c", &["abc", "a1b2c", "abbc", "abcbc"], &["ac", "acb"]),
            ("*b*", &["b", "abc"], &["", "ac"]),
            ("a**b", &["ab", "acb"], &["a", "b"]),
        ] {
            let pattern = glob(pattern);
            assert!(fitting.iter().all(|name| pattern.matches(name)), "{pattern}: {fitting:?}");
            assert!(!others.iter().any(|name| pattern.matches(name)), "{pattern}: {others:?}");
        }
    }

    #[test]
    fn a_pattern_covers_those_that_stand_for_no_other_names() {
        for (wide, narrow) in
            [("*", "web"), ("*", "*"), ("web-*", "web-eu-*"), ("web*", "web-*"), ("*-*", "web-*"), ("w*b", "w*e*b")]
        {
            assert!(glob(wide).covers(&glob(narrow)), "{wide} {narrow}");
        }
        for (one, other) in
            [("web", "*"), ("web", "web*"), ("web-*", "web*"), ("web-*", "*"), ("*-eu", "web-*"), ("a*b", "a*")]
        {
            assert!(!glob(one).covers(&glob(other)), "{one} {other}");
        }
    }

    #[test]
    fn a_pattern_for_projects_fits_some_project() {
        for text in ["web", "*", "web-*", "*-eu", "a*b*", "0.*"] {
            assert_eq!(Glob::of_projects(text).expect("it fits").as_str(), text);
        }
        for text in ["", "-web", "web/*", "we b*", "ü*", "*/x", "team:*"] {
            assert!(Glob::of_projects(text).is_err(), "{text}");
        }
    }
}
