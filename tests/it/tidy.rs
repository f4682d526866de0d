//! Lints the tree for what no compiler sees: which module may import which, what must not stand in `src/`, how long
//! a file may grow, and that every decision can be found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The edges between the crate's top-level modules, in the order of `src/lib.rs`: exactly those that exist. A new module needs
/// a line here, and a new edge an entry, so that its place is decided and not found out.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &["model"]),
    ("clean", &[]),
    ("clock", &[]),
    ("config", &["model"]),
    ("explain", &[]),
    ("health", &["log"]),
    ("log", &["model"]),
    ("private", &[]),
    ("version", &[]),
    ("exec", &["clock", "config", "model"]),
    ("client", &["clock", "config", "exec", "health", "model", "private", "wire"]),
    // An engine is told where its database is in the words of the configuration, which knows no engine.
    ("store", &["clock", "config", "health", "log", "model", "private"]),
    ("upkeep", &["clock", "config", "health", "model", "store"]),
    ("watch", &["health", "model", "store"]),
    ("queue", &["clock", "config", "model", "store"]),
    ("artifacts", &["config", "health", "model", "private", "store"]),
    ("worker", &["artifacts", "clock", "config", "exec", "health", "model", "private", "queue", "store", "watch"]),
    ("reaper", &["clock", "health", "model", "queue", "store", "watch"]),
    ("notify", &["clock", "config", "health", "model", "store"]),
    (
        "http",
        &[
            "artifacts",
            "clean",
            "clock",
            "config",
            "exec",
            "health",
            "log",
            "model",
            "notify",
            "queue",
            "store",
            "upkeep",
            "version",
            "watch",
            "wire",
        ],
    ),
    (
        "server",
        &[
            "artifacts",
            "clock",
            "config",
            "exec",
            "health",
            "http",
            "notify",
            "queue",
            "reaper",
            "store",
            "upkeep",
            "watch",
            "worker",
        ],
    ),
    // It starts everything.
    (
        "cli",
        &[
            "artifacts",
            "clean",
            "client",
            "clock",
            "config",
            "exec",
            "explain",
            "health",
            "http",
            "log",
            "model",
            "server",
            "store",
            "upkeep",
            "version",
            "wire",
        ],
    ),
    ("static_libc", &[]),
    ("main", &["cli", "exec", "log", "static_libc"]),
    ("lib", &[]),
];

/// The macros that must not be left behind, and those that panic where they cannot write: whatever is printed or logged
/// goes through `src/log/sink.rs`, or through `writeln!` with an answer to what happens then.
const LEFT_BEHIND: &[&str] = &["todo", "unimplemented", "dbg"];
const PRINTING: &[&str] = &["print", "println", "eprint", "eprintln"];

/// The most lines a file in `src/` may have. Past that it hides at least two ideas.
const FILE_LINES_LIMIT: usize = 600;

#[test]
fn imports_are_exactly_the_edges_that_are_listed() {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for source in Source::all() {
        let edges = found.entry(source.module.clone()).or_default();
        for import in source.imports() {
            if import != source.module && EDGES.iter().any(|(name, _)| *name == import) {
                edges.entry(import).or_insert_with(|| source.path.clone());
            }
        }
    }
    let mut wrong = Vec::new();
    for (module, edges) in &found {
        let Some((_, listed)) = EDGES.iter().find(|(name, _)| name == module) else {
            wrong.push(format!("module `{module}` has no line in EDGES"));
            continue;
        };
        let unlisted = edges.iter().filter(|(import, _)| !listed.contains(&import.as_str()));
        wrong.extend(unlisted.map(|(import, path)| format!("{path}: `{module}` must not import `{import}`")));
        let unused = listed.iter().filter(|name| !edges.contains_key(**name));
        wrong.extend(unused.map(|name| format!("EDGES lists `{module}` → `{name}`, which no line uses")));
    }
    let gone = EDGES.iter().filter(|(name, _)| !found.contains_key(*name));
    wrong.extend(gone.map(|(name, _)| format!("EDGES lists `{name}`, which does not exist")));
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The types that have two faces: what is so, in `model` or `queue`, and what is said of it on the wire.
const TWO_FACES: &[&str] = &["Claimed", "Deployment", "Event", "FailedRollback", "Lease", "OnConflict"];

#[test]
fn no_name_of_a_type_stands_for_two_things() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in Source::all() {
        let code = source.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for pair in words_of_code(code).windows(2) {
            if ["struct", "enum", "trait"].contains(&pair[0].as_str()) {
                found.entry(pair[1].clone()).or_default().push(source.path.clone());
            }
        }
    }
    let mut wrong = Vec::new();
    for (name, paths) in &found {
        let on_the_wire = paths.iter().filter(|path| path.starts_with("src/wire/")).count();
        let has_two_faces = paths.len() == 2 && on_the_wire == 1;
        match (paths.len(), TWO_FACES.contains(&name.as_str())) {
            (1, false) => {}
            (_, true) if has_two_faces => {}
            (_, true) => wrong.push(format!("TWO_FACES lists `{name}`, which stands in {paths:?}")),
            (_, false) => wrong.push(format!("`{name}` stands for several things: {paths:?}")),
        }
    }
    wrong.extend(
        TWO_FACES.iter().filter(|name| !found.contains_key(**name)).map(|name| format!("there is no `{name}`")),
    );
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn no_module_needs_one_that_needs_it() {
    fn reaches(from: &str, to: &str, seen: &mut BTreeSet<String>) -> bool {
        let Some((_, listed)) = EDGES.iter().find(|(name, _)| *name == from) else { return false };
        listed.iter().any(|next| *next == to || seen.insert((*next).to_owned()) && reaches(next, to, seen))
    }
    let circles: Vec<_> = EDGES.iter().filter(|(name, _)| reaches(name, name, &mut BTreeSet::new())).collect();
    assert!(circles.is_empty(), "these modules reach themselves: {circles:?}");
}

#[test]
fn a_folder_is_a_module_by_its_mod_rs() {
    let beside = |path: &String| root().join(path.trim_end_matches(".rs")).is_dir();
    let wrong: Vec<_> = Source::all().into_iter().map(|source| source.path).filter(beside).collect();
    assert!(wrong.is_empty(), "these stand beside a folder of their name; write FOLDER/mod.rs: {wrong:?}");
}

#[test]
fn nothing_is_left_behind_in_src() {
    let mut wrong = Vec::new();
    for source in Source::all() {
        for name in source.macros() {
            if LEFT_BEHIND.contains(&name.as_str()) {
                wrong.push(format!("{}: `{name}!`", source.path));
            }
            if PRINTING.contains(&name.as_str()) {
                wrong.push(format!("{}: `{name}!`, which panics where it cannot write", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The files that write to standard output or standard error. All that is printed for people goes through the first of them,
/// which cleans it; the others are the log beneath it, the shim's last word, and what passes the bytes of somebody's command on.
const MAY_WRITE: &[&str] = &[
    "src/cli/screen/print.rs",
    "src/log/sink.rs",
    "src/exec/process/shim.rs",
    "src/cli/run/ahead.rs",
    "src/cli/run/terminal.rs",
    "src/cli/run/hold.rs",
];

#[test]
fn all_that_is_printed_goes_through_one_door() {
    let mut wrong = Vec::new();
    for source in Source::all().into_iter().filter(|source| !MAY_WRITE.contains(&source.path.as_str())) {
        for (number, line) in source.text.lines().enumerate() {
            let opens = ["stdout()", "stderr()", "/dev/stdout", "/dev/stderr"].iter().any(|way| line.contains(way));
            // Whether somebody sits there may be asked anywhere, and a bar needs to know where it is drawn.
            let only_asks = ["is_terminal()", "DrawTarget::stderr"].iter().any(|asks| line.contains(asks));
            if opens && !only_asks && !line.trim_start().starts_with("//") {
                wrong.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "these print beside src/cli/screen/print.rs:\n{}\n", wrong.join("\n"));
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for source in Source::all() {
        let line_count = source.text.lines().count();
        if line_count > FILE_LINES_LIMIT {
            wrong.push(format!("{}: {line_count} lines, at most {FILE_LINES_LIMIT}", source.path));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_decision_is_listed() {
    let folder = root().join("docs/decisions");
    let index = fs::read_to_string(folder.join("README.md")).expect("docs/decisions has a README.md");
    let notes: BTreeSet<String> =
        names_in(&folder).into_iter().filter(|name| name.ends_with(".md") && name != "README.md").collect();
    let listed: BTreeSet<String> =
        index.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link.to_owned()).collect();
    let listed: BTreeSet<String> = listed.into_iter().filter(|link| !link.contains("://")).collect();

    assert_eq!(notes, listed, "the notes in docs/decisions and the links of its README.md differ");
    let mut numbers = BTreeSet::new();
    for name in &notes {
        let number = name.split_once('-').map(|(number, _)| number).filter(|number| number.len() == 4);
        let number = number.and_then(|number| number.parse::<u32>().ok());
        let number = number.unwrap_or_else(|| panic!("{name}: a note's name begins with its number, such as 0007-"));
        assert!(numbers.insert(number), "{name}: another note has this number");
    }
}

/// Each `Cargo.toml` with the folders whose code must use what it names.
const DEPENDENCIES: &[(&str, &[&str], &[&str])] = &[
    ("Cargo.toml", &["src"], &["src", "tests"]),
    ("loadtests/Cargo.toml", &["loadtests/src"], &["loadtests/src", "loadtests/benches"]),
];

#[test]
fn every_dependency_is_used() {
    let mut unused = Vec::new();
    for (manifest, code, code_and_tests) in DEPENDENCIES {
        let text = fs::read_to_string(root().join(manifest)).expect("a manifest is readable");
        let table: toml::Table = text.parse().expect("a manifest is TOML");
        for (section, folders) in [("dependencies", code), ("dev-dependencies", code_and_tests)] {
            let names = words_below(folders);
            for dependency in table[section].as_table().expect("a section is a table").keys() {
                if !names.contains(&dependency.replace('-', "_")) {
                    unused.push(format!("{manifest}: nothing in {folders:?} names `{dependency}`"));
                }
            }
        }
    }
    assert!(unused.is_empty(), "\n{}\n", unused.join("\n"));
}

/// The words of all code in these folders, without comments and strings.
fn words_below(folders: &[&str]) -> BTreeSet<String> {
    let mut paths = Vec::new();
    folders.iter().for_each(|folder| collect_rust_files(&root().join(folder), &mut paths));
    let texts = paths.iter().map(|path| fs::read_to_string(path).expect("a source file is readable UTF-8"));
    texts.flat_map(|text| words_of_code(&text)).collect()
}

/// One file of `src/`: its path from the root, the top-level module it belongs to, its text as it stands, and the
/// words of its code.
pub struct Source {
    pub path: String,
    module: String,
    pub text: String,
    words: Vec<String>,
}

impl Source {
    pub fn all() -> Vec<Source> {
        let mut paths = Vec::new();
        collect_rust_files(&root().join("src"), &mut paths);
        assert!(paths.len() > 10, "only {} files found in src", paths.len());
        paths.iter().map(|path| Source::read(path)).collect()
    }

    fn read(path: &Path) -> Source {
        let text = fs::read_to_string(path).expect("a source file is readable UTF-8");
        let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
        let first = path.trim_start_matches("src/").split('/').next().unwrap_or_default();
        let module = first.trim_end_matches(".rs").to_owned();
        let words = words_of_code(&text);
        Source { path, module, text, words }
    }

    /// The top-level modules that this file names: `crate::a`, `crate::{a, b::c}`, and `super::super::a`.
    fn imports(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, word) in self.words.iter().enumerate() {
            let follows = |offset: usize, what: &str| self.words.get(at + offset).is_some_and(|w| w == what);
            let climbs = word == "super" && at >= 2 && self.words[at - 2] == "super";
            if (word == "crate" || word == "singletrack" || climbs) && follows(1, "::") {
                found.extend(first_segments(&self.words[at + 2..]));
            }
        }
        found
    }

    /// The macros that this file calls, by their last name.
    fn macros(&self) -> BTreeSet<String> {
        let calls = self.words.windows(3).filter(|w| w[1] == "!" && ["(", "[", "{"].contains(&w[2].as_str()));
        calls.map(|w| w[0].clone()).collect()
    }
}

/// The first segments of a path or of a braced group of paths, whose first word is the first of `words`.
fn first_segments(words: &[String]) -> Vec<String> {
    if words.first().is_none_or(|first| first != "{") {
        return words.first().into_iter().cloned().collect();
    }
    let mut segments = Vec::new();
    let mut depth = 0;
    let mut at_start = false;
    for word in words {
        match word.as_str() {
            "{" => {
                depth += 1;
                at_start = depth == 1;
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            "," => at_start = depth == 1,
            name => {
                if at_start {
                    segments.push(name.to_owned());
                }
                at_start = false;
            }
        }
    }
    segments
}

/// Splits Rust source into identifiers, `::` and single punctuation marks, leaving out comments, strings and
/// characters. It knows as much of the language as this file needs.
pub fn words_of_code(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut words = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => until_newline(rest),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => 1 + string(&rest[1..]),
            ['b' | 'c', '"', ..] => 2 + string(&rest[2..]),
            ['r', '"' | '#', ..] if raw_string(&rest[1..]).is_some() => 1 + raw_string(&rest[1..]).unwrap_or(0),
            ['b' | 'c', 'r', '"' | '#', ..] if raw_string(&rest[2..]).is_some() => {
                2 + raw_string(&rest[2..]).unwrap_or(0)
            }
            ['\'', '\\', _, ..] => 3 + rest[3..].iter().take_while(|c| **c != '\'').count() + 1,
            ['\'', _, '\'', ..] => 3,
            [':', ':', ..] => {
                words.push("::".to_owned());
                2
            }
            [c, ..] if c.is_whitespace() => 1,
            [c, ..] if c.is_alphanumeric() || *c == '_' => {
                let word: String = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
                let length = word.chars().count();
                words.push(word);
                length
            }
            [c, ..] => {
                words.push(c.to_string());
                1
            }
            [] => break,
        };
        at += length;
    }
    words
}

fn until_newline(rest: &[char]) -> usize {
    rest.iter().take_while(|c| **c != '\n').count()
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at
}

/// The length of a string's text and closing quote.
fn string(rest: &[char]) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The length of a raw string after its `r`, or nothing if this is not one (`r#type` is a name).
fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let mut at = hashes + 1;
    while at < rest.len() {
        if rest[at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return Some(at + 1 + hashes);
        }
        at += 1;
    }
    Some(rest.len())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder exists");
    entries.map(|entry| entry.expect("a readable entry").file_name().to_string_lossy().into_owned()).collect()
}

fn collect_rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for name in names_in(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            collect_rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    into.sort();
}

#[test]
fn the_word_splitter_sees_code_only() {
    let code = r##"
        // use crate::server; todo!()
        /* crate::queue /* nested */ */
        use crate::{clock::{Clock, BootInstant}, model, api::X};
        fn f<'a>(x: &'a str) { let c = '"'; let d = '\''; let s = "crate::store \" todo!()"; let r = r#"dbg!(") "#; }
        fn g() { super::super::worker::go(); anstream::println!("{}", 1); }
    "##;
    let source = Source { path: "src/x.rs".into(), module: "x".into(), text: code.into(), words: words_of_code(code) };
    let imports: Vec<String> = source.imports().into_iter().collect();
    assert_eq!(imports, ["api", "clock", "model", "worker"]);
    let macros: Vec<String> = source.macros().into_iter().collect();
    assert_eq!(macros, ["println"]);
}
