//! `secret_inputs`: which inputs of deployments are secret, by their names. See decision 0071.

use super::reader::ConfigTable;
use crate::model::Glob;

/// Patterns of the names of inputs. A `*` stands for any characters, and capital letters do not count: the inputs `db_token` and
/// `DB_TOKEN` are the same variable to a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretInputs(Vec<Glob>);

impl SecretInputs {
    /// Whether the input of this name is secret.
    pub fn has(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.0.iter().any(|pattern| pattern.matches(&name))
    }

    /// These patterns, together with those of one project.
    #[must_use]
    pub(super) fn with(&self, more: SecretInputs) -> SecretInputs {
        SecretInputs(self.0.iter().cloned().chain(more.0).collect())
    }
}

pub(super) fn read(section: &mut ConfigTable<'_>) -> SecretInputs {
    let mut patterns = Vec::new();
    for pattern in section.strings("secret_inputs") {
        let text = pattern.get_ref();
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.*".contains(&byte));
        let Some(glob) = text.to_ascii_lowercase().parse::<Glob>().ok().filter(|_| is_plain) else {
            let message = format!(
                "`{}` lists names of inputs: letters, digits, `_`, `-` and `.`, and `*` for any of them, such as \"*_TOKEN\"",
                section.path_of("secret_inputs")
            );
            section.document.problem(pattern.span(), message);
            continue;
        };
        patterns.push(glob);
    }
    SecretInputs(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capital_letters_do_not_count() {
        let glob = |text: &str| text.parse().expect("a pattern");
        let patterns = SecretInputs(["*_token", "password*", "exact"].map(glob).to_vec());
        for name in ["DB_TOKEN", "_token", "password", "PasswordOfAlice", "EXACT"] {
            assert!(patterns.has(name), "{name}");
        }
        for name in ["token", "DB_TOKENS", "my_password", "exactly", ""] {
            assert!(!patterns.has(name), "{name}");
        }
    }
}
