//! Where symbolic links lead, followed through each other as the kernel would, without a file system.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsStr,
    path::{Component, Path, PathBuf},
};

/// How many steps following one link may take. The kernel gives up after 40 links, and deep trees have some dozens of
/// folders. It bounds the work on hostile archives.
const STEP_LIMIT: usize = 256;

/// Whether the link at `link` leads nowhere outside of the tree, with all the other `links` in it.
///
/// The links have to be followed: `a/up -> ..` and `out -> a/up/..` both look harmless.
pub fn stays_inside(link: &Path, target: &Path, links: &BTreeMap<PathBuf, PathBuf>) -> bool {
    let mut at = link.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut ahead: VecDeque<Component<'_>> = target.components().collect();
    for _ in 0..STEP_LIMIT {
        let Some(step) = ahead.pop_front() else { return true };
        match step {
            Component::Prefix(_) | Component::RootDir => return false,
            Component::CurDir => {}
            Component::ParentDir => {
                if !at.pop() {
                    return false;
                }
            }
            Component::Normal(name) => {
                at.push::<&OsStr>(name);
                if let Some(next) = links.get(&at) {
                    at.pop();
                    for component in next.components().rev() {
                        ahead.push_front(component);
                    }
                }
            }
        }
    }
    // The links form a ring, or a maze that is too deep.
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stays(link: &str, target: &str, others: &[(&str, &str)]) -> bool {
        let links = others.iter().chain([&(link, target)]).map(|(from, to)| (from.into(), to.into())).collect();
        stays_inside(Path::new(link), Path::new(target), &links)
    }

    #[test]
    fn a_link_stays_inside_however_it_gets_there() {
        assert!(stays("current", "releases/1", &[]));
        assert!(stays("a/b/c", "../../d", &[]));
        assert!(stays("a/up", "..", &[]));
        assert!(stays("b", "a/x", &[("a", "real")]));
        for (link, target, others) in [
            ("a", "/etc/passwd", &[][..]),
            ("a", "..", &[]),
            ("a/b", "../..", &[]),
            ("a", "b/../../c", &[]),
            // Each link alone looks harmless; both together lead out.
            ("out", "a/up/..", &[("a/up", "..")]),
            ("loop", "loop", &[]),
            ("x", "y", &[("y", "x")]),
        ] {
            assert!(!stays(link, target, others), "{link} -> {target}");
        }
    }
}
