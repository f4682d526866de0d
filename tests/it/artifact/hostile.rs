//! Archives that strangers wrote: each is refused whole, before the first phase, and leaves nothing on disk.

use std::{fs, io::Write as _, path::Path};

use serde_json::json;
use tar::{EntryType, Header};

use super::CONFIG;
use crate::harness::TestServer;

/// An archive, written byte by byte.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: EntryType, name: &str, target: &str, size: u64, body: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 4, b"evil")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0, b"")
    }

    fn of(self, kind: EntryType, name: &str) -> Self {
        self.entry(kind, name, "good", 0, b"")
    }

    fn pax(self, key: &str, value: &str) -> Self {
        // The length of a record counts itself.
        let rest = key.len() + value.len() + 3;
        let length = (1..).map(|digits| rest + digits).find(|all| all.to_string().len() + rest == *all).unwrap();
        let record = format!("{length} {key}={value}\n");
        self.entry(EntryType::XHeader, "pax", "", record.len() as u64, record.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        zstd::encode_all(&*self.0, 3).unwrap()
    }

    fn without_end(self) -> Vec<u8> {
        zstd::encode_all(&*self.0, 3).unwrap()
    }
}

fn good() -> Archive {
    Archive::default().file("good")
}

/// An archive of so many bytes that is a thousandth of that, packed.
fn bomb(bytes: u64) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_path("zeros").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(bytes);
    header.set_cksum();
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..(bytes + 1024) >> 20 {
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    encoder.write_all(&[0; 1024]).unwrap();
    encoder.finish().unwrap()
}

fn a_million_files() -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(0);
    for number in 0..1_000_000 {
        let name = format!("{number:07}");
        header.as_old_mut().name[..7].copy_from_slice(name.as_bytes());
        header.set_cksum();
        encoder.write_all(header.as_bytes()).unwrap();
    }
    encoder.write_all(&[0; 1024]).unwrap();
    encoder.finish().unwrap()
}

fn wide_window() -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&vec![0; 32 << 20]).unwrap();
    encoder.finish().unwrap()
}

fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 6);
    bytes
}

fn hostile(dir: &Path) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let absolute = format!("{}/evil", dir.display());
    let deep = "evil/".repeat(18);
    vec![
        ("absolute", good().file(&absolute).end(), "is an absolute path"),
        ("absolute by extension", good().pax("path", &absolute).file("x").end(), "is an absolute path"),
        ("climbing", good().file("../evil").end(), "climbs"),
        ("climbing inside", good().file("a/../../evil").end(), "climbs"),
        ("climbing that comes back", good().file("a/../evil").end(), "climbs"),
        ("climbing by extension", good().pax("path", "../evil").file("x").end(), "climbs"),
        ("link to the root", good().link("out", "/").end(), "leads out"),
        ("link up", good().link("out", "../..").end(), "leads out"),
        ("links that lead out together", good().link("a/up", "..").link("out", "a/up/..").end(), "leads out"),
        ("ring of links", good().link("a", "b").link("b", "a").end(), "leads out, or nowhere"),
        ("link without a target", good().link("a", "").end(), "without a target"),
        ("write through a link", good().link("d", "..").file("d/evil").end(), "has files below it"),
        ("write through an inner link", good().link("d", "e").file("d/evil").end(), "has files below it"),
        ("link over a file", good().file("d").link("d", "../evil").end(), "stands twice"),
        ("file over a link", good().link("d", "../evil").file("d").end(), "stands twice"),
        ("link over a folder", good().file("d/x").link("d", "..").end(), "stands twice"),
        ("hard link", good().of(EntryType::Link, "evil").end(), "hard link"),
        ("pipe", good().of(EntryType::Fifo, "evil").end(), "is a pipe"),
        ("character device", good().of(EntryType::Char, "evil").end(), "is a device"),
        ("block device", good().of(EntryType::Block, "evil").end(), "is a device"),
        ("contiguous file", good().of(EntryType::Continuous, "evil").end(), "is neither"),
        ("file with holes", good().of(EntryType::GNUSparse, "evil").end(), "is neither"),
        ("holes by extension", good().pax("GNU.sparse.major", "1").file("x").end(), "holes"),
        ("twice", good().file("good").end(), "stands twice"),
        ("twice by another spelling", good().file("./good").end(), "stands twice"),
        ("clash of case", good().file("GOOD").end(), "upper and lower case"),
        ("clash of case beyond ASCII", good().file("\u{e4}").file("\u{c4}").end(), "upper and lower case"),
        ("clash of case in a folder", Archive::default().file("a/x").file("A/y").end(), "upper and lower case"),
        ("file and folder", good().file("good/evil").end(), "has files below it"),
        ("folder and file", Archive::default().file("a/evil").file("a").end(), "stands twice"),
        ("size of a folder", good().entry(EntryType::Directory, "d", "", 4, b"evil").end(), "has a size"),
        ("size of a link", good().entry(EntryType::Symlink, "d", "x", 4, b"evil").end(), "has a size"),
        ("size beyond the end", good().entry(EntryType::Regular, "x", "", 1 << 30, b"evil").end(), "shorter than"),
        ("two sizes", good().pax("size", "1000000").file("x").end(), "a size stands in an extension"),
        ("the root as a file", good().file(".").end(), "names the root"),
        ("NUL in a name", good().pax("path", "a\0b").file("x").end(), "no name that a file can have"),
        ("a name too long", good().pax("path", &"n".repeat(300)).file("x").end(), "too long"),
        ("a path too long", good().pax("path", &deep.repeat(60)).file("x").end(), "no name that a file can have"),
        ("no archive", b"this is not an archive".to_vec(), "not a whole tar archive"),
        ("compressed nonsense", zstd::encode_all(&[7; 4096][..], 3).unwrap(), "not a whole tar archive"),
        ("empty", zstd::encode_all(&b""[..], 3).unwrap(), "its end is missing"),
        ("cut", cut(good().file("x").end()), "not a whole tar archive"),
        ("cut before it was compressed", good().without_end(), "its end is missing"),
        ("something after its end", [good().end(), good().end()].concat(), "something follows its end"),
        ("a window too wide", wide_window(), "not a whole tar archive"),
        ("bomb", bomb(300 << 20), "times its size"),
    ]
}

/// Everything below this directory that a refused archive may have left.
fn left(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = path.display().to_string();
        if path.is_dir() && !path.is_symlink() && !name.ends_with("/artifacts") {
            found.extend(left(&path));
            if name.contains("/runs/") {
                found.push(name);
            }
        } else if name.contains("/runs/") || name.contains("evil") || name.contains("good") {
            found.push(name);
        }
    }
    found
}

async fn assert_refused(server: &TestServer, what: &str, archive: &[u8], says: &str) {
    let name = server.uploaded(archive).await;
    let id = server.accepted(json!({ "artifact": { "sha256": name } })).await;
    let ended = server.finished(&id).await;
    assert_eq!(ended["status"], "FAILED", "{what}");
    assert_eq!(ended["error"]["code"], "PHASE_FAILED", "{what}: {ended}");
    assert!(ended["error"].get("phase").is_none_or(serde_json::Value::is_null), "{what}: {ended}");
    let message = ended["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the artifact is refused: ") && message.contains(says), "{what}: {message}");
    let events = server.deployment(&id, "/events?after=0&maxWaitSeconds=0").await;
    assert!(!events.text.contains("\"phase\",\"name\""), "{what}: a phase began");
    assert_eq!(left(server.dir()), Vec::<String>::new(), "{what}");
}

#[tokio::test]
async fn hostile_archives_are_refused_whole_and_leave_nothing_on_disk() {
    let server = TestServer::start(CONFIG);
    for (what, archive, says) in hostile(server.dir()) {
        assert_refused(&server, what, &archive, says).await;
    }
    // The server is none the worse.
    let name = server.uploaded(&good().link("also", "good").end()).await;
    let id = server.accepted(json!({ "artifact": { "sha256": name } })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_million_files_are_refused_whole() {
    let server = TestServer::start(CONFIG);
    assert_refused(&server, "a million files", &a_million_files(), "more than 100000 files").await;
}

#[tokio::test]
async fn an_archive_larger_than_the_limit_is_refused_whole() {
    let server = TestServer::start(&format!("[artifacts]\nmax_unpacked_bytes = \"1MiB\"\n{CONFIG}"));
    let archive = good().entry(EntryType::Regular, "big", "", 2 << 20, &super::noise(2 << 20)).end();
    assert_refused(&server, "larger than the limit", &archive, "unpacks to more than 1048576 bytes").await;
}
