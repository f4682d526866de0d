//! Reads TOML tables key by key and remembers everything that is wrong with them.
//!
//! A `ConfigTable` knows which keys were asked for, so an unknown key is an error that names the nearest known one. All
//! problems of a file are collected, because a person who mends a configuration wants to run the check once.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration::parse_duration;
use crate::model::{Glob, InvalidId, ProjectName};

/// How much of a wrong name a problem repeats, in characters.
const SHOWN_LIMIT: usize = 64;

/// One thing that is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The problem, and the text to write instead.
    pub message: String,
}

/// The text that is being read, and the problems found so far.
pub(super) struct Document<'a> {
    text: &'a str,
    problems: RefCell<Vec<ConfigProblem>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Document { text, problems: RefCell::default() }
    }

    /// Remembers a problem at a place in the text.
    pub(super) fn problem(&self, span: Range<usize>, message: impl Into<String>) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.problems.borrow_mut().push(ConfigProblem {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        });
    }

    /// The project's name that stands at this place, or the problem that it is none.
    pub(super) fn project_name(&self, name: &Spanned<String>) -> Option<ProjectName> {
        let parsed: Result<ProjectName, InvalidId> = name.get_ref().parse();
        if let Err(error) = &parsed {
            let shown: String = name.get_ref().chars().take(SHOWN_LIMIT).collect();
            self.problem(name.span(), format!("invalid project name {shown:?}: {error}"));
        }
        parsed.ok()
    }

    /// A project's name, or a pattern for several.
    pub(super) fn project_pattern(&self, pattern: &Spanned<String>) -> Option<Glob> {
        let text = pattern.get_ref();
        if !text.contains('*') {
            return self.project_name(pattern).map(|name| Glob::from(&name));
        }
        let parsed = Glob::of_projects(text);
        if let Err(error) = &parsed {
            let shown: String = text.chars().take(SHOWN_LIMIT).collect();
            self.problem(pattern.span(), format!("invalid pattern {shown:?}: {error}"));
        }
        parsed.ok()
    }

    /// Every problem, in the order of the text.
    pub(super) fn into_problems(self) -> Vec<ConfigProblem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }
}

/// One table of the document, and the keys that it may have.
pub(super) struct ConfigTable<'a> {
    /// The document that collects the problems.
    pub(super) document: &'a Document<'a>,
    /// The table's full name, empty for the whole file.
    pub(super) path: String,
    /// Where the table stands.
    pub(super) span: Range<usize>,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> ConfigTable<'a> {
    pub(super) fn new(document: &'a Document<'a>, path: String, span: Range<usize>, table: &'a DeTable<'a>) -> Self {
        ConfigTable { document, path, span, table, known: Vec::new() }
    }

    /// The full name of one of this table's keys.
    pub(super) fn path_of(&self, key: &str) -> String {
        let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let key =
            if bare { key.to_owned() } else { format!("{:?}", key.chars().take(SHOWN_LIMIT).collect::<String>()) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// Where a key's value stands, or the table if the key is not there: for problems between several keys.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.value(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Whether the key is there, be its value right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Whether the key's value is an array without items.
    pub(super) fn is_empty_array(&self, key: &str) -> bool {
        self.value(key).and_then(|value| value.get_ref().as_array()).is_some_and(|items| items.is_empty())
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.value(key)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.document.problem(value.span(), format!("`{}` must be {wanted}, not {found}", self.path_of(key)));
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<String> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => {
                self.wrong_type(key, value, "a string in quotes");
                None
            }
        }
    }

    /// A string that `parse` understands; its error becomes a problem.
    pub(super) fn parsed<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.document.problem(self.span_of(key), format!("`{}`: {why}", self.path_of(key)));
                None
            }
        }
    }

    /// A duration longer than zero.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.parsed(key, |text| match parse_duration(text)? {
            Duration::ZERO => Err("must be longer than zero".to_owned()),
            duration => Ok(duration),
        })
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.wrong_type(key, value, "true or false");
                None
            }
        }
    }

    /// A whole number within the range.
    pub(super) fn number(&mut self, key: &'static str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let value = self.take(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            let wanted = format!("must be a whole number from {} to {}", range.start(), range.end());
            self.document.problem(value.span(), format!("`{}` {wanted}", self.path_of(key)));
        }
        number
    }

    /// The strings of an array.
    pub(super) fn strings(&mut self, key: &'static str) -> Vec<Spanned<String>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, "an array of strings");
            return Vec::new();
        };
        let mut strings = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => strings.push(Spanned::new(item.span(), text.to_string())),
                _ => self.wrong_type(key, item, "an array of strings"),
            }
        }
        strings
    }

    /// The keys of a table whose names the user chose, each with its values as text: one string, whole number or boolean,
    /// or several of them in an array.
    pub(super) fn named_texts(&mut self, key: &'static str) -> Vec<(Spanned<String>, Vec<Spanned<String>>)> {
        let Some(parent) = self.section(key) else { return Vec::new() };
        let text = |name: &str, value: &Spanned<DeValue<'_>>| {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                DeValue::Boolean(flag) => flag.to_string(),
                _ => {
                    parent.wrong_type(name, value, "a string, a whole number, true, false, or an array of these");
                    return None;
                }
            };
            Some(Spanned::new(value.span(), text))
        };
        let mut found = Vec::new();
        for (name, value) in parent.table.iter() {
            let texts = match value.get_ref() {
                DeValue::Array(items) => items.iter().filter_map(|item| text(name.get_ref(), item)).collect(),
                _ => text(name.get_ref(), value).into_iter().collect(),
            };
            found.push((Spanned::new(name.span(), name.get_ref().to_string()), texts));
        }
        found
    }

    /// The table under a key.
    pub(super) fn section(&mut self, key: &'static str) -> Option<ConfigTable<'a>> {
        let value = self.take(key)?;
        self.section_at(key, value)
    }

    /// The value under a key as a table, if it is one; another type is left for the caller to read and not a problem.
    pub(super) fn section_if_table(&mut self, key: &'static str) -> Option<ConfigTable<'a>> {
        let value = self.take(key)?;
        value.get_ref().is_table().then(|| self.section_at(key, value)).flatten()
    }

    /// The tables of an array of tables, in order.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<ConfigTable<'a>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, &format!("an array of tables, written [[{}]]", self.path_of(key)));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            match item.get_ref() {
                DeValue::Table(table) => sections.push(ConfigTable::new(self.document, path, item.span(), table)),
                _ => self.wrong_type(key, item, "an array of tables"),
            }
        }
        sections
    }

    /// The tables under a key whose names the user chose, each with its name and the place of the name.
    pub(super) fn named_sections(&mut self, key: &'static str) -> Vec<(Spanned<String>, ConfigTable<'a>)> {
        let Some(parent) = self.section(key) else { return Vec::new() };
        let mut sections = Vec::new();
        for (name, value) in parent.table.iter() {
            if let Some(section) = parent.section_at(name.get_ref(), value) {
                sections.push((Spanned::new(name.span(), name.get_ref().to_string()), section));
            }
        }
        sections
    }

    fn section_at(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<ConfigTable<'a>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(ConfigTable::new(self.document, self.path_of(key), value.span(), table)),
            _ => {
                self.wrong_type(key, value, "a table");
                None
            }
        }
    }

    /// Ends the reading: every key that was not asked for is a problem that names the nearest one.
    pub(super) fn finish(self) {
        for (name, _) in self.table.iter().filter(|(name, _)| !self.known.contains(&name.get_ref().as_ref())) {
            let hint = match nearest(name.get_ref(), &self.known) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known keys here: {}", self.known.join(", ")),
            };
            let path = self.path_of(name.get_ref());
            self.document.problem(name.span(), format!("unknown key `{path}`; {hint}"));
        }
    }
}

/// The known name that the unknown one was most likely meant to be.
pub fn nearest<'k>(unknown: &str, known: &[&'k str]) -> Option<&'k str> {
    // Below this likeness a suggestion confuses more than the list of all keys.
    const LIKENESS_LIMIT: f64 = 0.7;
    let unknown: String = unknown.chars().take(64).collect::<String>().to_lowercase();
    // One or two slips of the fingers, such as two letters in the wrong order.
    let slips = |key: &str| strsim::osa_distance(&unknown, &key.to_lowercase());
    let closest = known.iter().copied().min_by_key(|key| slips(key))?;
    if slips(closest) <= 1 + unknown.chars().count() / 8 {
        return Some(closest);
    }
    let likeness = |key: &str| strsim::jaro_winkler(&unknown, key);
    let best = known.iter().copied().max_by(|left, right| likeness(left).total_cmp(&likeness(right)))?;
    (likeness(best) >= LIKENESS_LIMIT).then_some(best)
}
