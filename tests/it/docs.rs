//! The configurations that the documentation shows are read, so that none of them can grow old.

use std::fs;
use std::path::{Path, PathBuf};

use singletrack::{config::Config, model::Limits};

/// A fenced ```toml block of a document.
struct Block {
    /// The file and the line of the fence.
    place: String,
    text: String,
}

/// Every document that may show a configuration.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs"), root.join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let mut open: Option<Block> = None;
        for (index, line) in text.lines().enumerate() {
            match (&mut open, line.trim_start()) {
                (None, "```toml") => {
                    open = Some(Block { place: format!("{}:{}", document.display(), index + 1), text: String::new() });
                }
                (Some(_), "```") => blocks.extend(open.take()),
                (Some(block), _) => block.text.extend([line, "\n"]),
                (None, _) => {}
            }
        }
        assert!(open.is_none(), "{} has a block without an end", document.display());
    }
    blocks
}

/// An `…` stands where a real file has a hash.
fn completed(text: &str) -> String {
    text.replace("sha256 = \"…\"", &format!("sha256 = \"{}\"", "0".repeat(64)))
}

#[test]
fn every_configuration_that_is_shown_is_right() {
    let blocks = blocks();
    let in_readme = blocks.iter().filter(|block| block.place.contains("README.md")).count();
    assert!(in_readme >= 3 && blocks.len() > in_readme, "blocks are looked for in the wrong places");
    for Block { place, text } in blocks {
        let read = Config::parse(&completed(&text), Path::new(&place));
        assert!(read.is_ok(), "{}", read.unwrap_err());
    }
}

#[test]
fn the_defaults_that_are_shown_are_the_defaults() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md").display().to_string();
    let stated: Vec<_> = blocks()
        .into_iter()
        .filter(|block| block.place.starts_with(&reference) && block.text.starts_with("# The defaults"))
        .collect();
    assert_eq!(stated.len(), 4, "one block for the server, one for its limits, one for PostgreSQL, one for artifacts");
    for Block { place, text } in stated {
        let read = Config::parse(&text, Path::new(&place)).unwrap();
        let default = Config { work_dir: read.work_dir.clone(), ..Config::default() };
        assert_eq!(read, default, "{place}");
        assert_eq!(read.limits, Limits::default(), "{place}");
        // The default of `work_dir` depends on `store`; what is shown goes with the default store.
        assert!(read.work_dir.is_none_or(|shown| shown == Config::default().work_dir()), "{place}");
    }
}
