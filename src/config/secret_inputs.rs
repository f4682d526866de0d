//! `secret_inputs`: which inputs of deployments are secret, by their names. See decision 0071.

use super::reader::ConfigTable;

/// Patterns of the names of inputs. A `*` stands for any characters, and capital letters do not count: the inputs `db_token` and
/// `DB_TOKEN` are the same variable to a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretInputs(Vec<String>);

impl SecretInputs {
    /// Whether the input of this name is secret.
    pub fn has(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.0.iter().any(|pattern| fits(pattern, &name))
    }

    /// These patterns, together with those of one project.
    #[must_use]
    pub(super) fn with(&self, more: SecretInputs) -> SecretInputs {
        SecretInputs(self.0.iter().cloned().chain(more.0).collect())
    }
}

/// Whether a pattern fits a name; both are in lower case.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((begin, mut rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(begin) else { return false };
    while let Some((part, after)) = rest.split_once('*') {
        let Some(at) = name.find(part) else { return false };
        (name, rest) = (&name[at + part.len()..], after);
    }
    name.ends_with(rest)
}

pub(super) fn read(section: &mut ConfigTable<'_>) -> SecretInputs {
    let mut patterns = Vec::new();
    for pattern in section.strings("secret_inputs") {
        let text = pattern.get_ref();
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.*".contains(&byte));
        if text.is_empty() || !is_plain {
            let message = format!(
                "`{}` lists names of inputs: letters, digits, `_`, `-` and `.`, and `*` for any of them, such as \"*_TOKEN\"",
                section.path_of("secret_inputs")
            );
            section.document.problem(pattern.span(), message);
        } else {
            patterns.push(text.to_ascii_lowercase());
        }
    }
    SecretInputs(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_capital_letters_do_not_count() {
        let patterns = SecretInputs(["*_token", "password*", "a*b*c", "exact"].map(str::to_owned).to_vec());
        for name in ["DB_TOKEN", "_token", "password", "PasswordOfAlice", "abc", "aXbYc", "abbcc", "EXACT"] {
            assert!(patterns.has(name), "{name}");
        }
        for name in ["token", "DB_TOKENS", "my_password", "ac", "acb", "exactly", ""] {
            assert!(!patterns.has(name), "{name}");
        }
        assert!(SecretInputs(vec!["*".to_owned()]).has("anything"));
    }
}
