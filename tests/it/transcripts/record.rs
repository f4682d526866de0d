//! Writes conversations with the program down: the command, what each stream said, the exit code. Whatever differs each time
//! (ids, times, addresses) becomes a placeholder, and the rest is compared with a file of `tests/transcripts`.
//!
//! After a change of words that is meant: `UPDATE_TRANSCRIPTS=1 cargo test --test it transcripts`, and look at the difference.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use super::terminal::{COLUMNS, GOES_ON};
use crate::harness::SINGLETRACK;

/// Who reads what the program prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Pipe,
    GitHub,
    GitLab,
}

impl Audience {
    pub const ALL: [Audience; 3] = [Audience::Pipe, Audience::GitHub, Audience::GitLab];

    pub fn name(self) -> &'static str {
        match self {
            Audience::Pipe => "pipe",
            Audience::GitHub => "github",
            Audience::GitLab => "gitlab",
        }
    }

    fn variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Audience::Pipe => &[("USER", "alice")],
            Audience::GitHub => &[
                ("CI", "true"),
                ("GITHUB_ACTIONS", "true"),
                ("GITHUB_ACTOR", "alice"),
                ("GITHUB_REF_NAME", "main"),
                ("GITHUB_SHA", "3f2a1b2c4d5e6f708192a3b4c5d6e7f801234567"),
            ],
            Audience::GitLab => &[
                ("CI", "true"),
                ("GITLAB_CI", "true"),
                ("GITLAB_USER_LOGIN", "alice"),
                ("CI_COMMIT_REF_NAME", "main"),
                ("CI_COMMIT_SHA", "3f2a1b2c4d5e6f708192a3b4c5d6e7f801234567"),
            ],
        }
    }
}

/// How what differs each time is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As placeholders.
    Placeholders,
    /// As values that look like real ones, for people.
    Lifelike,
}

/// A conversation.
pub struct Transcript {
    path: PathBuf,
    text: String,
    url: String,
    audience: Audience,
    style: Style,
    ids: Vec<String>,
}

/// A command that was started, in a folder of its own.
pub struct Spoken {
    line: String,
    child: Child,
    folder: tempfile::TempDir,
}

/// `tests/transcripts`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

impl Transcript {
    /// A conversation with this server, under this name, about this.
    pub fn of(name: &str, about: &str, url: &str, audience: Audience) -> Self {
        let path = folder().join(format!("{name}.{}.txt", audience.name()));
        Transcript {
            path,
            text: format!("{about}\n"),
            url: url.to_owned(),
            audience,
            style: Style::Placeholders,
            ids: Vec::new(),
        }
    }

    /// The same, written for people into this file of the repository, between lines of its own.
    pub fn recording(path: &str, about: &str, url: &str, audience: Audience) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        Transcript { path, style: Style::Lifelike, ..Transcript::of("recording", about, url, audience) }
    }

    /// Starts a command.
    pub fn start(&self, args: &[&str]) -> Spoken {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("SINGLETRACK_URL", &self.url);
        command.envs(self.audience.variables().iter().copied()).args(args);
        if self.audience == Audience::GitHub {
            command.env("GITHUB_OUTPUT", folder.path().join("output"));
            command.env("GITHUB_STEP_SUMMARY", folder.path().join("summary"));
        }
        command.current_dir(folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let shown: Vec<_> = args.iter().map(|arg| quoted(arg)).collect();
        Spoken { line: format!("$ singletrack {}", shown.join(" ")), child, folder }
    }

    /// Writes a command down that was started, when it has ended.
    pub fn write(&mut self, spoken: Spoken) -> &mut Self {
        let output = spoken.child.wait_with_output().unwrap();
        self.write_output(&spoken.line, &output, spoken.folder.path());
        self
    }

    /// Runs a command and writes it down.
    pub fn say(&mut self, args: &[&str]) -> &mut Self {
        let spoken = self.start(args);
        self.write(spoken)
    }

    /// What a terminal shows at a moment.
    pub fn frame(&mut self, about: &str, command: &str, screen: &str) {
        self.text.push_str(&format!("\n{about}\n\n{command}\n"));
        // A bar that turns shows another side each time.
        let is_spinner = |c: char| ('\u{2800}'..='\u{28ff}').contains(&c);
        let screen = screen.replace(is_spinner, "\u{2819}").replace(&format!("{GOES_ON}\n"), "");
        for line in screen.lines().filter(|line| !is_by_chance(line)) {
            // Times have other lengths each time, so the terminal's lines are made again of what it shows.
            let line = self.line_placeheld(line);
            let line = match line.rsplit_once("   ").filter(|_| line.contains("] ")) {
                Some((left, right)) => {
                    format!("{:<1$}{2}", left.trim_end(), COLUMNS - right.trim().chars().count(), right.trim())
                }
                None => line,
            };
            for row in line.chars().collect::<Vec<_>>().chunks(COLUMNS) {
                self.text.push_str(&format!("{}\n", row.iter().collect::<String>()));
            }
        }
    }

    fn write_output(&mut self, line: &str, output: &Output, folder: &Path) {
        let mut text = format!("\n{line}\n");
        for (mark, stream) in [("err", &output.stderr), ("out", &output.stdout)] {
            let stream = String::from_utf8(stream.clone()).unwrap();
            for line in stream.lines().filter(|line| !is_by_chance(line)) {
                let line = line.replace('\u{1b}', "\\e").replace('\r', "\\r").replace('\u{2060}', "\\u{2060}");
                text.push_str(format!("{mark} | {line}").trim_end());
                text.push('\n');
            }
        }
        text.push_str(&format!("exit {}\n", output.status.code().unwrap()));
        for name in ["output", "summary", "deploy.env"] {
            let file = fs::read_to_string(folder.join(name)).unwrap_or_default();
            text.extend(file.lines().map(|line| format!("{name} | {line}").trim_end().to_owned() + "\n"));
        }
        self.text.push_str(&text);
    }

    /// Compares what was written down with the file.
    pub fn check(&mut self) {
        let text = self.placeheld();
        if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
            fs::create_dir_all(self.path.parent().unwrap()).unwrap();
            fs::write(&self.path, &text).unwrap();
        }
        let expected = fs::read_to_string(&self.path).unwrap_or_default();
        let name = self.path.display();
        assert!(
            text == expected,
            "{name} says\n{expected}\nbut it was\n{text}\n(UPDATE_TRANSCRIPTS=1 makes the file anew)"
        );
    }

    fn placeheld(&mut self) -> String {
        let text = self.text.replace(&self.url, self.style.pick("SERVER", "https://deploys.example.com"));
        let mut out = String::new();
        for line in text.split_inclusive('\n') {
            out.push_str(&self.line_placeheld(line));
        }
        out
    }

    fn line_placeheld(&mut self, line: &str) -> String {
        let is_command = line.starts_with("$ ");
        let mut out = String::new();
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let before = out.chars().next_back();
            let at_word = !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.');
            let found = at_word.then(|| self.placeholder(rest)).flatten();
            match found {
                // A command has the durations that its flags say.
                Some((length, placeholder)) if !is_command || length == 36 => {
                    out.push_str(&placeholder);
                    rest = &rest[length..];
                }
                Some(_) | None => {
                    out.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        // Only what took a second or more says so.
        if line.contains(" | ==> ") { out.replace(" in TIME", "") } else { out }
    }

    /// What stands at the begin of this text and differs each time: how long it is, and its placeholder.
    fn placeholder(&mut self, text: &str) -> Option<(usize, String)> {
        let word = |is: fn(char) -> bool| text.find(|c| !is(c)).unwrap_or(text.len());
        let id = word(|c| c.is_ascii_hexdigit() || c == '-');
        if id == 36 && text.as_bytes()[8] == b'-' && text.as_bytes()[13] == b'-' {
            let id = text[..36].to_owned();
            let number = self.ids.iter().position(|known| *known == id).unwrap_or_else(|| {
                self.ids.push(id);
                self.ids.len() - 1
            });
            let lifelike = format!("01a1fddf-4f97-724e-a8f8-da891eb8c3{:02x}", 0x2a + number);
            return Some((36, self.style.pick(&format!("ID{}", number + 1), &lifelike).to_owned()));
        }
        if text.starts_with("singletrack_") {
            let length = "singletrack_".len();
            let hex = text[length..].find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len() - length);
            if hex == 32 {
                return Some((length + 32, "singletrack_DELIMITER".to_owned()));
            }
        }
        let digits = word(|c| c.is_ascii_digit());
        if digits == 10 && text[digits..].starts_with(':') {
            return Some((digits, self.style.pick("UNIX", "1772366400").to_owned()));
        }
        if digits == 4 && text[digits..].starts_with('-') && text.get(10..11) == Some(" ") {
            // A date before a time.
            return Some((11, String::new()));
        }
        if digits == 2 && text.get(2..3) == Some(":") && text.get(5..6) == Some(":") {
            return Some((8, self.style.pick("CLOCK", "12:00:08").to_owned()));
        }
        let mut span = 0;
        while let Some(unit) = text[span..].find(|c: char| !c.is_ascii_digit()).filter(|unit| *unit > 0) {
            if !text[span + unit..].starts_with(['s', 'm', 'h', 'd']) {
                break;
            }
            span += unit + 1;
        }
        let ends = !text[span..].starts_with(|c: char| c.is_ascii_alphanumeric());
        (span > 0 && ends).then(|| (span, self.style.pick("TIME", "8s").to_owned()))
    }
}

impl Style {
    fn pick<'a>(self, placeholder: &'a str, lifelike: &'a str) -> &'a str {
        match self {
            Style::Placeholders => placeholder,
            Style::Lifelike => lifelike,
        }
    }
}

/// Said at another moment each time, or only where the machine has too much to do.
fn is_by_chance(line: &str) -> bool {
    let is_percentage = line.trim().strip_suffix(" %").is_some_and(|number| number.parse::<u8>().is_ok());
    is_percentage || line.contains("trying again") || line.contains(": running for ")
}

fn quoted(arg: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:@#".contains(c);
    if !arg.is_empty() && arg.chars().all(is_plain) { arg.to_owned() } else { format!("'{arg}'") }
}

#[test]
fn what_differs_each_time_becomes_a_placeholder() {
    let mut transcript = Transcript::of("none", "", "http://127.0.0.1:1", Audience::Pipe);
    for (text, placeheld) in [
        ("deployment 01998c6e-0000-7000-8000-000000000001 is", "deployment ID1 is"),
        ("01998c6e-0000-7000-8000-00000000000a, 01998c6e-0000-7000-8000-000000000001", "ID2, ID1"),
        ("running since 12:03:11 UTC (4m20s), about 3s left", "running since CLOCK UTC (TIME), about TIME left"),
        ("at 2026-03-01 12:03:11 UTC", "at CLOCK UTC"),
        ("err | ==> build succeeded in 3s", "err | ==> build succeeded"),
        ("section_start:1772366400:singletrack_1_build", "section_start:UNIX:singletrack_1_build"),
        ("main@3f2a1b2c4d 10 % v1.2s", "main@3f2a1b2c4d 10 % v1.2s"),
        ("$ singletrack deploy --timeout 30m", "$ singletrack deploy --timeout 30m"),
    ] {
        assert_eq!(transcript.line_placeheld(text), placeheld);
    }
}
