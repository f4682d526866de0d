//! What is packed, and that it is always the same.

use std::{
    fs,
    io::{Read as _, Seek as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use singletrack::artifact::{PackError, Packed, UnpackLimits, pack, unpack};
use tempfile::TempDir;

fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    dir
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn packed(path: &Path) -> Packed {
    pack(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The names in it, and what kind, mode, times and owner each has.
fn listing(packed: &Packed) -> Vec<String> {
    let mut file = packed.file.try_clone().unwrap();
    file.rewind().unwrap();
    let mut archive = tar::Archive::new(zstd::Decoder::new(file).unwrap());
    let lines = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
        format!("{:o} {}", header.mode().unwrap(), entry.path().unwrap().display())
    });
    lines.collect()
}

#[test]
fn the_same_tree_is_the_same_artifact_wherever_and_whenever_it_was_made() {
    let files = [("b/two", "2"), ("a", "1"), ("b/.hidden", "h"), ("c/deep/er/x", "x")];
    let one = tree(&files);
    let mut backwards = files;
    backwards.reverse();
    let two = tree(&backwards);
    let old = SystemTime::now() - Duration::from_secs(1_000_000);
    fs::File::options().write(true).open(two.path().join("a")).unwrap().set_modified(old).unwrap();
    fs::set_permissions(two.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    let (one, two) = (packed(one.path()), packed(two.path()));
    assert_eq!(one.digest, two.digest);
    assert_eq!(one.bytes, one.file.metadata().unwrap().len());
    let expected =
        ["644 a", "755 b", "644 b/.hidden", "644 b/two", "755 c", "755 c/deep", "755 c/deep/er", "644 c/deep/er/x"];
    assert_eq!(listing(&one), expected);

    let other = packed(tree(&[("a", "2"), ("b/two", "2"), ("b/.hidden", "h"), ("c/deep/er/x", "x")]).path());
    assert_ne!(one.digest, other.digest);
    let program = tree(&files);
    fs::set_permissions(program.path().join("a"), fs::Permissions::from_mode(0o750)).unwrap();
    let program = packed(program.path());
    assert_ne!(one.digest, program.digest);
    assert_eq!(listing(&program)[0], "755 a");
}

#[test]
fn what_the_tree_says_is_left_out_and_nothing_else() {
    // Above the tree everything is ignored, as a build's output usually is.
    let above = tree(&[(".gitignore", "*\n")]);
    let root = above.path().join("dist");
    for (name, text) in [
        (".gitignore", "node_modules\n*.log\n!keep.log\n"),
        (".singletrackignore", "secret.txt\n!wanted.log\n"),
        (".git/config", "[core]"),
        (".env", "A=1"),
        ("index.html", "hi"),
        ("app.log", "x"),
        ("keep.log", "x"),
        ("wanted.log", "x"),
        ("secret.txt", "x"),
        ("node_modules/a/index.js", "x"),
        ("sub/.gitignore", "/only-here\n"),
        ("sub/only-here", "x"),
        ("sub/other", "x"),
        ("vendored/.git/HEAD", "x"),
        ("vendored/only-here", "x"),
    ] {
        write(&root, name, text);
    }
    let names: Vec<String> = listing(&packed(&root)).iter().map(|line| line[4..].to_owned()).collect();
    assert_eq!(
        names,
        [
            ".env",
            ".gitignore",
            ".singletrackignore",
            "index.html",
            "keep.log",
            "sub",
            "sub/.gitignore",
            "sub/other",
            "vendored",
            "vendored/only-here",
            "wanted.log",
        ]
    );
}

#[test]
fn links_that_stay_inside_are_kept_and_others_are_errors_that_name_them() {
    let dir = tree(&[("releases/1/index.html", "one")]);
    symlink("releases/1", dir.path().join("current")).unwrap();
    symlink("../1/index.html", dir.path().join("releases/1/home")).unwrap();
    let (target, kept) = (tempfile::tempdir().unwrap(), packed(dir.path()));
    let target = target.path().join("new");
    unpack(kept.file, &target, &UnpackLimits::default(), &AtomicBool::new(false)).unwrap();
    assert_eq!(fs::read_to_string(target.join("current/home")).unwrap(), "one");

    for out in ["/etc/hostname", "../x", "releases/../../x", "current/../../.."] {
        symlink(out, dir.path().join("out")).unwrap();
        let error = pack(dir.path()).unwrap_err();
        assert!(matches!(&error, PackError::LinkOut { path, .. } if path.ends_with("/out")), "{out}: {error}");
        fs::remove_file(dir.path().join("out")).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).unwrap();
    assert!(matches!(pack(dir.path()), Err(PackError::Special(path)) if path.ends_with("/sock")));
    write(dir.path(), ".singletrackignore", "sock\n");
    assert!(pack(dir.path()).is_ok());
}

#[test]
fn a_file_is_packed_under_its_own_name_and_long_names_survive() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let dir = tree(&[("one.bin", "1"), ("empty/x", ""), (&long, "long")]);
    fs::remove_file(dir.path().join("empty/x")).unwrap();
    assert_eq!(listing(&packed(&dir.path().join("one.bin"))), ["644 one.bin"]);
    symlink(dir.path().join("one.bin"), dir.path().join("link.bin")).unwrap();
    assert_eq!(listing(&packed(&dir.path().join("link.bin"))), ["644 link.bin"]);
    fs::remove_file(dir.path().join("link.bin")).unwrap();

    let (target, all) = (tempfile::tempdir().unwrap(), packed(dir.path()));
    unpack(all.file, target.path(), &UnpackLimits::default(), &AtomicBool::new(false)).unwrap();
    let mut text = String::new();
    fs::File::open(target.path().join(long)).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "long");
    assert!(target.path().join("empty").is_dir());
}

#[test]
fn what_is_not_there_is_said() {
    let error = pack(Path::new("no/such/folder")).unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
}
