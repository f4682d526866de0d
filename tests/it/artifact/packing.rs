//! What is packed, and that it is always the same.

use std::{
    fs,
    io::{Read as _, Seek as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use singletrack::exec::archive::{PackError, PackOptions, Packed, UnpackLimits, pack, unpack};
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
    pack(path, PackOptions::default()).unwrap_or_else(|error| panic!("{error}"))
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
    let (one, two) = (packed(one.path()), packed(two.path()));
    assert_eq!(one.digest, two.digest);
    assert_eq!(one.bytes, one.file.metadata().unwrap().len());
    let expected = [
        "755 ./",
        "644 a",
        "755 b",
        "644 b/.hidden",
        "644 b/two",
        "755 c",
        "755 c/deep",
        "755 c/deep/er",
        "644 c/deep/er/x",
    ];
    assert_eq!(listing(&one), expected);

    let other = packed(tree(&[("a", "2"), ("b/two", "2"), ("b/.hidden", "h"), ("c/deep/er/x", "x")]).path());
    assert_ne!(one.digest, other.digest);
    let program = tree(&files);
    fs::set_permissions(program.path().join("a"), fs::Permissions::from_mode(0o750)).unwrap();
    let program = packed(program.path());
    assert_ne!(one.digest, program.digest);
    assert_eq!(listing(&program)[1], "750 a");
}

#[test]
fn only_what_the_tree_says_to_us_is_left_out_and_that_is_named() {
    // Above the tree everything is ignored, as a build's output usually is.
    let above = tree(&[(".gitignore", "*\n"), (".singletrackignore", "*\n")]);
    let root = above.path().join("dist");
    for (name, text) in [
        (".gitignore", "*\n!.gitignore\n"),
        (".singletrackignore", "*.log\n!wanted.log\nnode_modules\n"),
        (".git/config", "[core]"),
        (".env", "A=1"),
        ("index.html", "hi"),
        ("app.log", "x"),
        ("wanted.log", "x"),
        ("node_modules/a/index.js", "x"),
        ("node_modules/b/index.js", "x"),
        ("sub/.singletrackignore", "/only-here\n"),
        ("sub/only-here", "x"),
        ("sub/other", "x"),
        ("vendored/.git/HEAD", "x"),
        ("vendored/only-here", "x"),
    ] {
        write(&root, name, text);
    }
    let names = |packed: &Packed| -> Vec<String> {
        listing(packed).iter().map(|line| line[4..].to_owned()).filter(|name| name != "./").collect()
    };
    let all = packed(&root);
    assert_eq!(
        names(&all),
        [
            ".env",
            ".gitignore",
            ".singletrackignore",
            "index.html",
            "sub",
            "sub/.singletrackignore",
            "sub/other",
            "vendored",
            "vendored/only-here",
            "wanted.log",
        ]
    );
    assert_eq!(all.left_out.count, 3);
    assert_eq!(all.left_out.to_string(), "app.log, node_modules, sub/only-here");

    let respectful = pack(&root, PackOptions { respect_gitignore: true, ..PackOptions::default() }).unwrap();
    assert_eq!(names(&respectful), [".gitignore", "wanted.log"]);
    assert!(respectful.left_out.to_string().ends_with(" more"), "{}", respectful.left_out);
}

#[test]
fn an_artifact_without_a_file_is_refused_unless_that_is_meant() {
    let dir = tree(&[(".gitignore", "*\n"), ("lib/python/x", "x")]);
    let respect_gitignore = true;
    let error = pack(dir.path(), PackOptions { respect_gitignore, allow_empty: false }).unwrap_err();
    assert!(matches!(&error, PackError::Empty(left_out) if left_out.count == 2), "{error}");
    assert!(error.to_string().contains("(left out: .gitignore, lib)"), "{error}");
    assert!(pack(dir.path(), PackOptions { respect_gitignore, allow_empty: true }).is_ok());
    assert_eq!(packed(dir.path()).entry_count, 4);
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir(empty.path().join("folder")).unwrap();
    assert!(matches!(pack(empty.path(), PackOptions::default()), Err(PackError::Empty(_))));
}

#[test]
fn what_unpacking_would_refuse_is_refused_before() {
    let dir = tree(&[("README", "1"), ("sub/readme", "2")]);
    packed(dir.path());
    write(dir.path(), "Readme", "3");
    let error = pack(dir.path(), PackOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with("README and Readme differ only in upper and lower case"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    symlink("./".repeat(600) + "x", dir.path().join("link")).unwrap();
    assert!(
        matches!(pack(dir.path(), PackOptions::default()), Err(PackError::TooLong(path)) if path.ends_with("/link"))
    );

    let dir = tempfile::tempdir().unwrap();
    let zeros = fs::File::create(dir.path().join("zeros")).unwrap();
    zeros.set_len(65 << 20).unwrap();
    assert!(matches!(pack(dir.path(), PackOptions::default()), Err(PackError::TooDense)));
}

#[test]
fn modes_are_kept_and_the_root_has_that_of_the_packed_folder() {
    let dir = tree(&[("key", "k"), ("all", "a"), ("program", "p"), ("closed/x", "x")]);
    let set = |name: &str, mode| fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    for (name, mode) in [("key", 0o600), ("all", 0o664), ("program", 0o4751), ("closed", 0o550), ("", 0o2750)] {
        set(name, mode);
    }
    let (target, all) = (tempfile::tempdir().unwrap(), packed(dir.path()));
    let target = target.path().join("new");
    unpack(all.file, &target, &UnpackLimits::default(), &AtomicBool::new(false)).unwrap();
    let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    let modes = ["key", "all", "program", "closed", "closed/x", ""].map(mode);
    assert_eq!(modes, [0o600, 0o664, 0o751, 0o550, 0o644, 0o750], "{modes:?}");

    // What an older client has packed says nothing of its root.
    let (target, file) = (tempfile::tempdir().unwrap(), packed(&dir.path().join("key")));
    let target = target.path().join("new");
    unpack(file.file, &target, &UnpackLimits::default(), &AtomicBool::new(false)).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
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
        let error = pack(dir.path(), PackOptions::default()).unwrap_err();
        assert!(matches!(&error, PackError::LinkOut { path, .. } if path.ends_with("/out")), "{out}: {error}");
        fs::remove_file(dir.path().join("out")).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).unwrap();
    assert!(
        matches!(pack(dir.path(), PackOptions::default()), Err(PackError::Special(path)) if path.ends_with("/sock"))
    );
    write(dir.path(), ".singletrackignore", "sock\n");
    assert!(pack(dir.path(), PackOptions::default()).is_ok());
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
    let error = pack(Path::new("no/such/folder"), PackOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
}
