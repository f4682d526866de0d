//! Variables of the environment, read by name.

use super::run::{System, line};
use crate::model::bounds;

/// An environment: a variable's value by its name; empty ones count as not set.
pub struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl<'a> Environment<'a> {
    /// The environment that `get` reads.
    pub fn new(get: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Environment(get)
    }

    /// The user of this machine.
    pub fn user(&self) -> Option<String> {
        self.first(&["USER", "LOGNAME"]).and_then(|user| line(user, bounds::ACTOR))
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim().parse().ok()
    }

    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    /// Whether the variable is not set, or has one of these values.
    pub(super) fn is_unset_or(&self, name: &str, values: &[&str]) -> bool {
        self.get(name).is_none_or(|found| values.contains(&found.as_str()))
    }

    /// The values of these variables with their names, as an identity. `required` ones must all be set, or the identity is
    /// empty: without one of them two attempts of a job could have the same identity.
    pub(super) fn identity(&self, system: System, required: &[&str], further: &[&str]) -> Vec<String> {
        if !required.iter().all(|name| self.has(name)) {
            return Vec::new();
        }
        let names = required.iter().chain(further);
        let values = names.map(|name| format!("{name}={}", self.get(name).unwrap_or_default()));
        std::iter::once(system.name().to_owned()).chain(values).collect()
    }
}
