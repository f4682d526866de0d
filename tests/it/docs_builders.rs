//! What the pages for builders name is there: paths, functions, types, invariants, letters and decision notes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where the folders of the repository begin: what a page names below them must be there.
const FOLDERS: [&str; 8] = ["src", "tests", "docs", "examples", "loadtests", "scripts", ".ci", ".cargo"];
/// Letters that stand alone in a comment and are no time limit: an article, a language, a pronoun, any number.
const WORDS: [&str; 4] = ["A", "C", "I", "N"];

#[test]
fn every_path_that_a_page_names_is_there() {
    let files: Vec<_> =
        ["src", "tests", "examples", "loadtests"].into_iter().flat_map(sources).map(|it| it.0).collect();
    let mut wrong = Vec::new();
    for page in pages() {
        for (number, line) in page.lines() {
            for span in code_spans(line) {
                // `src/a.rs:17` and `src/a.rs::name` name the file.
                let path = span.split([':', ' ', '#']).next().unwrap_or_default().trim_end_matches('/');
                let is_below = path.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder));
                let is_there = match path.strip_suffix(".rs") {
                    // Notes and tables name files by the end of their path.
                    Some(_) if !is_below => {
                        root().join(path).exists() || files.iter().any(|file| file.ends_with(&format!("/{path}")))
                    }
                    _ if !is_below || path.contains(['*', '{', '<', '…', '$', '=']) => true,
                    _ => root().join(path).exists(),
                };
                if !is_there {
                    wrong.push(format!("{}:{number}: `{path}`", page.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these are not in the repository:\n{}\n", wrong.join("\n"));
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in pages() {
        for (number, line) in page.lines() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                count += 1;
                let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
                let target = match path {
                    "" => root().join(&page.name),
                    path => root().join(&page.name).parent().unwrap().join(path),
                };
                let is_there = match anchor {
                    None => target.exists(),
                    Some(anchor) => fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)),
                };
                if !is_there {
                    wrong.push(format!("{}:{number}: {link}", page.name));
                }
            }
        }
    }
    assert!(count > 100, "only {count} links are found");
    assert!(wrong.is_empty(), "these links lead nowhere:\n{}\n", wrong.join("\n"));
}

/// A row of a walk names a file and what happens there: functions and types, which must be defined in that file.
#[test]
fn every_step_of_a_walk_is_in_the_file_that_it_names() {
    let page = Page::read("docs/architecture.md");
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (number, line) in page.section("Five walks") {
        let cells = cells(line).unwrap_or_default();
        let [_, file, names] = cells.as_slice() else { continue };
        let Some(file) = code_spans(file).next().filter(|file| file.starts_with("src/")) else { continue };
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        for name in code_spans(names) {
            count += 1;
            let last = name.rsplit("::").next().unwrap_or(name);
            if !defines(&text, last) {
                wrong.push(format!("{}:{number}: `{name}` is not defined in {file}", page.name));
            }
        }
    }
    assert!(count > 80, "only {count} names are found in the walks");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_term_of_the_vocabulary_is_a_type_where_it_names_one() {
    let page = Page::read("docs/architecture.md");
    let types: BTreeSet<String> = sources("src").values().flat_map(|text| types_in(text)).collect();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (number, line) in page.section("Vocabulary") {
        let Some(named) = cells(line).and_then(|cells| cells.get(1).copied()) else { continue };
        for name in code_spans(named) {
            count += 1;
            if !types.contains(name) {
                wrong.push(format!("{}:{number}: no type in src is called `{name}`", page.name));
            }
        }
    }
    assert!(count > 30, "only {count} types are found in the vocabulary");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_invariant_and_letter_that_is_cited_is_defined() {
    let page = Page::read("docs/invariants.md");
    let invariants: BTreeSet<String> = page
        .section("Invariants")
        .filter_map(|(_, line)| line.strip_prefix("- **")?.split(' ').next().map(str::to_owned))
        .collect();
    let letters: BTreeSet<String> = page
        .section("The letters of the time limits")
        .filter_map(|(_, line)| cells(line)?.first().map(|cell| (*cell).to_owned()))
        .filter(|cell| cell.len() == 1)
        .collect();
    assert_eq!(invariants.len(), 18, "{invariants:?}");
    assert_eq!(letters.len(), 7, "{letters:?}");
    let (mut wrong, mut count) = (Vec::new(), 0);
    for folder in ["src", "tests", "examples", "loadtests/src"] {
        for (path, text) in sources(folder) {
            for (number, line) in (1..).zip(text.lines()) {
                let comment = line.split_once("//").map_or("", |(_, comment)| comment);
                let cited = words(line).filter(|word| is_numbered(word, 'I') && !invariants.contains(*word));
                let lonely = words_outside_code(comment).into_iter().filter(|word| {
                    word.len() == 1 && word.starts_with(|c: char| c.is_ascii_uppercase()) && !WORDS.contains(word)
                });
                let unknown = lonely.filter(|letter| !letters.contains(*letter));
                wrong.extend(cited.chain(unknown).map(|cited| format!("{path}:{number}: {cited}")));
                count += words(line).filter(|word| is_numbered(word, 'I')).count();
            }
        }
    }
    assert!(count > 50, "only {count} citations are found");
    assert!(wrong.is_empty(), "docs/invariants.md does not define these:\n{}\n", wrong.join("\n"));
}

#[test]
fn every_decision_is_named_where_it_was_carried_out() {
    let notes: BTreeSet<String> = names_in(&root().join("docs/decisions"))
        .into_iter()
        .filter_map(|name| Some(name.split_once('-')?.0.to_owned()).filter(|number| number.len() == 4))
        .collect();
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    for folder in ["src", "tests", "loadtests/src"] {
        for (path, text) in sources(folder) {
            named.extend(decisions_in(&text).into_iter().map(|number| (number, path.clone())));
        }
    }
    let build = fs::read_to_string(root().join("build.rs")).unwrap();
    named.extend(decisions_in(&build).into_iter().map(|number| (number, "build.rs".to_owned())));
    let missing: Vec<_> = named.iter().filter(|(number, _)| !notes.contains(*number)).collect();
    assert!(missing.is_empty(), "these notes are cited and do not exist: {missing:?}");
    let silent: Vec<_> = notes.iter().filter(|note| !named.contains_key(*note) && !is_replaced(note)).collect();
    assert!(silent.is_empty(), "no file of the code says \"decision {}\": {silent:?}", silent[0]);
}

/// Whether a note says itself that a later one replaced it.
fn is_replaced(note: &str) -> bool {
    let index = Page::read("docs/decisions/README.md");
    index.text.lines().any(|line| line.starts_with(&format!("| [{note}]")) && line.contains("replaced by"))
}

/// The numbers behind the word "decision" or "decisions": `decision 0023`, `decisions 0021, 0027 and 0028`.
fn decisions_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    // A comment may break between the word and the number.
    let text = text.lines().map(|line| line.trim().trim_start_matches(['/', '!'])).collect::<Vec<_>>().join(" ");
    for rest in text.split("ecision").skip(1) {
        let rest = rest.strip_prefix('s').unwrap_or(rest);
        for word in rest.split([' ', ',', '.', ')', ';', ':', '[', ']']).filter(|word| !word.is_empty()) {
            match word {
                "and" | "or" => {}
                number if number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()) => {
                    found.push(number.to_owned());
                }
                _ => break,
            }
        }
    }
    found
}

struct Page {
    /// The path from the root.
    name: String,
    text: String,
}

impl Page {
    fn read(name: &str) -> Page {
        Page { name: name.to_owned(), text: fs::read_to_string(root().join(name)).unwrap() }
    }

    /// The lines, with their numbers, that are not in a fenced block.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut is_fenced = false;
        (1..).zip(self.text.lines()).filter(move |(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            is_fenced ^= is_fence;
            !is_fenced && !is_fence
        })
    }

    /// The lines below a heading of the second rank.
    fn section(&self, heading: &str) -> impl Iterator<Item = (usize, &str)> {
        let heading = format!("## {heading}");
        let inside = self.lines().skip_while(move |(_, line)| *line != heading).skip(1);
        inside.take_while(|(_, line)| !line.starts_with("## "))
    }
}

/// The pages: those of the root, of `docs`, and the decision notes.
fn pages() -> Vec<Page> {
    let mut names: Vec<String> = ["README.md", "CONTRIBUTING.md"].map(str::to_owned).into();
    for folder in ["docs", "docs/decisions"] {
        let found = names_in(&root().join(folder)).into_iter().filter(|name| name.ends_with(".md"));
        names.extend(found.map(|name| format!("{folder}/{name}")));
    }
    names.sort();
    assert!(names.len() > 50, "only {} pages are found", names.len());
    names.iter().map(|name| Page::read(name)).collect()
}

/// What stands between backticks.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The cells of a row of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(str::trim).collect())
}

/// The anchors that GitHub gives the headings of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let page = Page { name: String::new(), text: text.to_owned() };
    let headings = page.lines().filter(|(_, line)| line.starts_with('#')).map(|(_, line)| line.trim_start_matches('#'));
    let keeps = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings
        .map(|heading| heading.trim().to_lowercase().chars().filter(|c| keeps(*c)).collect::<String>())
        .map(|heading| heading.replace(' ', "-"))
        .collect()
}

/// The Rust and SQL files below a folder, by their paths from the root.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for name in names_in(&folder) {
            let path = folder.join(&name);
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") || name.ends_with(".sql") {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), text);
            }
        }
    }
    assert!(!found.is_empty(), "nothing is found in {folder}");
    found
}

/// The names of the structs, enums, traits and type aliases that a file defines.
fn types_in(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<_> = words(line).skip_while(|word| matches!(*word, "pub" | "crate" | "super" | "in")).collect();
        if let ["struct" | "enum" | "trait" | "type", name, ..] = words.as_slice() {
            found.insert((*name).to_owned());
        }
    }
    found
}

/// Whether a file defines a function, type, constant or variant of this name.
fn defines(text: &str, name: &str) -> bool {
    let before = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod"];
    text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
        let words: Vec<_> = words(line).collect();
        words.windows(2).any(|pair| before.contains(&pair[0]) && pair[1] == name)
    })
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The words of a comment, without what stands between backticks, and without the parts of compounds such as `Ctrl-C`.
fn words_outside_code(comment: &str) -> Vec<&str> {
    let apart = |c: char| {
        !c.is_alphanumeric() && !matches!(c, '_' | '-' | '\'' | '/' | '.' | ':' | '<' | '>' | '"' | '*' | '&')
    };
    comment.split('`').step_by(2).flat_map(|text| text.split(apart)).collect()
}

fn is_numbered(word: &str, letter: char) -> bool {
    word.strip_prefix(letter).is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
