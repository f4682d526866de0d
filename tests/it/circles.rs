//! No file of `src/` needs another one that needs it: what two files need of each other has a file of its own.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::{Source, words_of_code};

type Path = Vec<String>;

/// The files, by their module's path.
struct Files {
    by_module: BTreeMap<Path, Source>,
    /// What a module passes on: its path and a name, and where that comes from.
    passed_on: BTreeMap<(Path, String), Path>,
}

/// A path that a file names, and whether the file only passes it on.
struct Named {
    path: Path,
    is_passed_on: bool,
}

impl Files {
    fn read() -> Self {
        let by_module: BTreeMap<_, _> =
            Source::all().into_iter().map(|source| (module_of(&source.path), source)).collect();
        let mut files = Files { by_module, passed_on: BTreeMap::new() };
        let mut passed_on = BTreeMap::new();
        for (module, source) in &files.by_module {
            for named in files.named_in(module, source).into_iter().filter(|named| named.is_passed_on) {
                if let Some(name) = named.path.last() {
                    passed_on.insert((module.clone(), name.clone()), named.path);
                }
            }
        }
        files.passed_on = passed_on;
        files
    }

    /// The paths that a file names, from the crate's root.
    fn named_in(&self, module: &Path, source: &Source) -> Vec<Named> {
        let code = source.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let words = words_of_code(code);
        let mut found = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let is_use = words[at] == "use";
            let is_path = ["crate", "super", "self"].contains(&words[at].as_str())
                && words.get(at + 1).is_some_and(|next| next == "::");
            if is_use {
                let is_passed_on = at > 0 && (words[at - 1] == "pub" || words[at - 1] == ")");
                let mut paths = Vec::new();
                at = tree(&words, at + 1, &mut Vec::new(), &mut paths);
                let paths = paths.into_iter().filter_map(|path| self.absolute(module, &path));
                found.extend(paths.map(|path| Named { path, is_passed_on }));
            } else if is_path {
                let mut path = vec![words[at].clone()];
                while words.get(at + 1).is_some_and(|next| next == "::")
                    && words.get(at + 2).is_some_and(|word| is_name(word))
                {
                    path.push(words[at + 2].clone());
                    at += 2;
                }
                found.extend(self.absolute(module, &path).map(|path| Named { path, is_passed_on: false }));
                at += 1;
            } else {
                at += 1;
            }
        }
        found
    }

    fn absolute(&self, module: &Path, path: &Path) -> Option<Path> {
        let climbs = path.iter().take_while(|word| *word == "super").count();
        let from = |base: &[String], rest: &[String]| Some([base, rest].concat());
        match path.first()?.as_str() {
            "crate" => from(&[], &path[1..]),
            "self" => from(module, &path[1..]),
            "super" => from(module.get(..module.len().checked_sub(climbs)?)?, &path[climbs..]),
            child => {
                let below = from(module, &[child.to_owned()])?;
                self.by_module.contains_key(&below).then(|| from(module, path)).flatten()
            }
        }
    }

    /// The module in which the thing of this path stands.
    fn home_of(&self, path: &Path, depth: usize) -> Option<&Path> {
        let (module, _) = (0..=path.len()).rev().find_map(|length| self.by_module.get_key_value(&path[..length]))?;
        let passed_on = path.get(module.len()).and_then(|name| self.passed_on.get(&(module.clone(), name.clone())));
        match passed_on {
            Some(path) if depth < 4 => self.home_of(path, depth + 1),
            Some(_) | None => Some(module),
        }
    }

    /// Which files each file needs. What it only passes on, it does not need.
    fn needs(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let needs_of = |(module, source): (_, &Source)| {
            let named = self.named_in(module, source).into_iter().filter(|named| !named.is_passed_on);
            let homes: BTreeSet<_> = named.filter_map(|named| self.home_of(&named.path, 0)).collect();
            (module, homes.into_iter().filter(|home| *home != module).collect())
        };
        self.by_module.iter().map(needs_of).collect()
    }
}

/// Reads the tree of a `use` whose first word is at `at`; answers where it ends.
fn tree(words: &[String], mut at: usize, before: &mut Path, found: &mut Vec<Path>) -> usize {
    let length = before.len();
    while let Some(word) = words.get(at) {
        match word.as_str() {
            "{" => {
                at += 1;
                while words.get(at).is_some_and(|word| word != "}") {
                    at = tree(words, at, before, found);
                    at += usize::from(words.get(at).is_some_and(|word| word == ","));
                }
                before.truncate(length);
                return at + 1;
            }
            "::" => at += 1,
            "as" => at += 2,
            word if is_name(word) || word == "*" => {
                before.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    if before.len() > length {
        let is_itself = before.last().is_some_and(|word| word == "self" || word == "*") && before.len() > 1;
        found.push(before[..before.len() - usize::from(is_itself)].to_vec());
    }
    before.truncate(length);
    at
}

fn is_name(word: &str) -> bool {
    word.chars().all(|char| char.is_alphanumeric() || char == '_')
}

fn module_of(path: &str) -> Path {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Path = inside.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

#[test]
fn no_file_needs_a_file_that_needs_it() {
    let files = Files::read();
    let needs = files.needs();
    let mut circles = Vec::new();
    for start in needs.keys() {
        let mut reached = BTreeSet::new();
        let mut next: Vec<_> = needs[start].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(*module) {
                next.extend(&needs[*module]);
            }
        }
        if reached.contains(start) {
            circles.push(files.by_module[*start].path.clone());
        }
    }
    assert!(circles.is_empty(), "these files need themselves by way of others:\n{}\n", circles.join("\n"));
}
