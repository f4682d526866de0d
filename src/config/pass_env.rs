//! `pass_env`: which variables of the server's or the agent's own environment phases get; `mask_env`: which variables of
//! phases are secrets. See decision 0038.
//!
//! The environment of a service is no business of the commands that it runs, because it holds database passwords,
//! tokens and cloud credentials. So phases get the variables that programs need to work at all, and those that are
//! listed.

use super::reader::ConfigTable;

/// The variables that phases get in any case: where programs, the user and the language are, and how to reach the
/// network.
const ALWAYS: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NIX_SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
];

/// The variables that no phase gets, and why.
const NEVER: &[(&str, &str)] = &[
    ("PG*", "the store is read from it"),
    ("SINGLETRACK_*", "Singletrack reads and sets it itself, and its token is among them"),
    ("INPUT_*", "it would look like an input of the deployment"),
    ("CREDENTIALS_DIRECTORY", "the service's credentials are found by it"),
    ("NOTIFY_SOCKET", "it belongs to the server and its service manager"),
    ("LISTEN_*", "it belongs to the server and its service manager"),
    ("WATCHDOG_*", "it belongs to the server and its service manager"),
    ("INVOCATION_ID", "it belongs to the server and its service manager"),
    ("JOURNAL_STREAM", "it belongs to the server and its service manager"),
    ("MAINPID", "it belongs to the server and its service manager"),
    ("MANAGERPID", "it belongs to the server and its service manager"),
    ("SSLKEYLOGFILE", "the keys of TLS connections are written where it says"),
    ("JENKINS_*_COOKIE", "a CI system finds the processes of a job by it, and would signal them twice"),
    ("HUDSON_*_COOKIE", "a CI system finds the processes of a job by it, and would signal them twice"),
    ("HUDSON_COOKIE", "a CI system finds the processes of a job by it, and would signal them twice"),
    ("BUILD_ID", "a CI system finds the processes of a job by it, and would signal them twice"),
    ("RUNNER_TRACKING_ID", "a CI system finds the processes of a job by it, and would signal them twice"),
];

/// The variables that phases get besides those that they always get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassEnv {
    /// A name, or the beginning of names and `*`.
    patterns: Vec<String>,
    /// The variables whose values are masked in the output of phases; inputs may be among them.
    masked: Vec<String>,
}

impl PassEnv {
    /// Whether phases get the variable of this name.
    pub fn passes(&self, name: &str) -> bool {
        let is_listed =
            ALWAYS.iter().copied().chain(self.patterns.iter().map(String::as_str)).any(|one| fits(one, name));
        is_listed && !NEVER.iter().any(|(never, _)| fits(never, name))
    }

    /// Whether the value of this variable is masked in the output of phases.
    pub fn masks(&self, name: &str) -> bool {
        self.masked.iter().any(|pattern| fits(pattern, name))
    }

    /// These patterns, together with those of one part of their area, such as one project of the server.
    #[must_use]
    pub fn with(&self, more: PassEnv) -> PassEnv {
        PassEnv {
            patterns: self.patterns.iter().cloned().chain(more.patterns).collect(),
            masked: self.masked.iter().cloned().chain(more.masked).collect(),
        }
    }
}

/// Whether a pattern with at most one `*` fits a name.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((begin, end)) => name.len() > begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end),
        None => pattern == name,
    }
}

pub(super) fn read(section: &mut ConfigTable<'_>) -> PassEnv {
    let mut patterns = Vec::new();
    for pattern in section.strings("pass_env") {
        match refusal(pattern.get_ref()) {
            Some(why) => {
                let message = format!("`{}` {why}", section.path_of("pass_env"));
                section.document.problem(pattern.span(), message);
            }
            None => patterns.push(pattern.into_inner()),
        }
    }
    let mut masked = Vec::new();
    for pattern in section.strings("mask_env") {
        match no_name(pattern.get_ref()) {
            Some(why) => {
                let message = format!("`{}` {why}", section.path_of("mask_env"));
                section.document.problem(pattern.span(), message);
            }
            None => masked.push(pattern.into_inner()),
        }
    }
    PassEnv { patterns, masked }
}

/// Why a pattern stands for no names.
fn no_name(pattern: &str) -> Option<String> {
    let begin = pattern.strip_suffix('*').unwrap_or(pattern);
    let is_name = begin.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_wrong = !is_name || begin.is_empty() || begin.starts_with(|first: char| first.is_ascii_digit());
    is_wrong.then(|| format!("takes names of variables and prefixes such as \"AWS_*\"; {pattern:?} is neither"))
}

/// Why a pattern may not be listed.
fn refusal(pattern: &str) -> Option<String> {
    if let Some(why) = no_name(pattern) {
        return Some(why);
    }
    let begin = pattern.strip_suffix('*').unwrap_or(pattern);
    // Two beginnings have names in common if one of them begins with the other.
    let meets = |never: &str| {
        let never_begin = never.split('*').next().unwrap_or(never);
        match (pattern.ends_with('*'), never.contains('*')) {
            (true, true) => begin.starts_with(never_begin) || never_begin.starts_with(begin),
            (true, false) => never.starts_with(begin),
            (false, _) => fits(never, pattern),
        }
    };
    let (never, why) = NEVER.iter().find(|(never, _)| meets(never))?;
    Some(match pattern == *never || !pattern.ends_with('*') {
        true => format!("must not pass {pattern} on to phases: {why}; give phases what they need under another name"),
        false => {
            format!("would pass {never} on to phases because of {pattern:?}: {why}; list the names that phases need")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_get_what_programs_need_and_what_is_listed() {
        let listed = PassEnv { patterns: vec!["KUBECONFIG".into(), "AWS_*".into()], masked: Vec::new() };
        for name in ["PATH", "HOME", "LC_ALL", "https_proxy", "NO_PROXY", "SSL_CERT_FILE", "KUBECONFIG", "AWS_REGION"] {
            assert!(listed.passes(name), "{name}");
        }
        for name in ["AWS_", "KUBECONFIG2", "PGPASSWORD", "SINGLETRACK_TOKEN", "NOTIFY_SOCKET", "LD_PRELOAD", "LC_"] {
            assert!(!listed.passes(name), "{name}");
        }
        assert!(!PassEnv::default().passes("AWS_REGION"));
    }

    #[test]
    fn nothing_that_is_listed_opens_what_no_phase_gets() {
        let refused = [
            "PGPASSWORD",
            "PG*",
            "P*",
            "SINGLETRACK_TOKEN",
            "SINGLETRACK_T*",
            "S*",
            "INPUT_X",
            "LISTEN_FDS",
            "NOTIFY_*",
            "BUILD_*",
            "JENKINS_*",
            "JENKINS_NODE_COOKIE",
            "*",
            "",
            "A-B",
            "A=B",
            "1A",
            "A*B",
            "A**",
        ];
        for pattern in refused {
            assert!(refusal(pattern).is_some(), "{pattern}");
        }
        for pattern in ["AWS_*", "PATH_TO_X", "JENKINS_URL", "BUILD_NUMBER", "_X", "SSH_AUTH_SOCK", "GOOGLE_*"] {
            assert_eq!(refusal(pattern), None, "{pattern}");
        }
        let everything = PassEnv { patterns: vec!["P*".into(), "SINGLETRACK_*".into()], masked: Vec::new() };
        for name in ["PGPASSWORD", "SINGLETRACK_TOKEN"] {
            assert!(!everything.passes(name), "{name}");
        }
    }
}
