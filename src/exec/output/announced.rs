//! The lines by which commands announce a secret to a CI system. They count here as well: the announced value is masked
//! from then on, and the line itself is not copied, because it shows the value.
//!
//! GitHub, Gitea and Forgejo: `::add-mask::VALUE` and `##[add-mask]VALUE`. Azure Pipelines:
//! `##vso[task.setsecret]VALUE` and `##vso[task.setvariable variable=NAME;issecret=true]VALUE`, anywhere in a line.

use super::lines::COMMAND_PREFIX;

const GITHUB: &str = "::add-mask::";
const GITHUB_OLD: &str = "##[add-mask]";
const AZURE: &str = "##vso[task.set";

/// The prefixes of directives: lines for us, or lines that announce a secret to a CI system.
pub const SIGNS: [&str; 4] = [COMMAND_PREFIX, GITHUB, GITHUB_OLD, AZURE];

/// The secret that a line announces.
pub(super) fn announced(line: &str) -> Option<String> {
    let text = line.trim_start();
    if let Some(value) = text.strip_prefix(GITHUB).or(text.strip_prefix(GITHUB_OLD)) {
        return Some(unescape(value, &[("%0D", "\r"), ("%0A", "\n"), ("%25", "%")]));
    }
    let (_, rest) = line.split_once("##vso[")?;
    let (head, value) = rest.split_once(']')?;
    let (name, properties) = head.split_once(' ').unwrap_or((head, ""));
    let is_secret = |property: &str| {
        property.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("issecret") && value.trim().eq_ignore_ascii_case("true")
        })
    };
    let announces = name.eq_ignore_ascii_case("task.setsecret")
        || (name.eq_ignore_ascii_case("task.setvariable") && properties.split(';').any(is_secret));
    let escapes = [("%3B", ";"), ("%0D", "\r"), ("%0A", "\n"), ("%5D", "]"), ("%AZP25", "%")];
    announces.then(|| unescape(value, &escapes))
}

/// Whether this beginning of a line is a directive, or may become one.
pub(super) fn may_be_for_us(beginning: &[u8]) -> bool {
    let text = beginning.trim_ascii_start();
    SIGNS.iter().any(|sign| {
        let length = text.len().min(sign.len());
        text[..length] == sign.as_bytes()[..length]
    })
}

/// Whether a line may announce a secret, judged by its beginning alone.
pub fn begins_to_announce(beginning: &str) -> bool {
    let text = beginning.trim_start();
    text.starts_with(GITHUB) || text.starts_with(GITHUB_OLD) || beginning.contains(AZURE)
}

fn unescape(value: &str, escapes: &[(&str, &str)]) -> String {
    escapes.iter().fold(value.to_owned(), |value, (escaped, plain)| value.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_announced_as_github_and_azure_document_it() {
        for (line, value) in [
            ("::add-mask::s3cret", "s3cret"),
            ("  ::add-mask::two words%25%0Amore", "two words%\nmore"),
            ("##[add-mask]s3cret", "s3cret"),
            ("##vso[task.setvariable variable=key;issecret=true]s3cret", "s3cret"),
            ("x ##vso[task.setvariable variable=key;isOutput=true;isSecret=True]a%3Bb%5D", "a;b]"),
            ("##vso[task.setsecret]s3cret", "s3cret"),
        ] {
            assert_eq!(announced(line).as_deref(), Some(value), "{line}");
        }
        for line in [
            "add-mask::x",
            "x ::add-mask::x",
            "##vso[task.setvariable variable=key]plain",
            "##vso[task.setvariable variable=key;issecret=false]plain",
            "##vso[task.logissue type=error]x",
        ] {
            assert_eq!(announced(line), None, "{line}");
        }
    }
}
