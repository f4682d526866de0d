//! Recordings for people: a terminal of 80 columns, and a log of GitHub Actions, both of the real binary. They stand in
//! `docs/recordings`; `UPDATE_TRANSCRIPTS=1 cargo test --test it transcripts` makes them anew.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::record::{Audience, Transcript};
use crate::harness::{SINGLETRACK, TestServer};

pub const COLUMNS: usize = 80;
/// Stands in the last column of a line that goes on in the next one.
pub const GOES_ON: char = '\u{21b5}';
/// How long a test waits for what a terminal should show: then it fails.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "build"
run = "echo building $SINGLETRACK_COMMIT"
[[projects.web.pipelines.deploy.phases]]
name = "migrate"
run = '''
echo "::singletrack progress=40 message=Migrating::"
flock --shared "$TEST_DIR/gate" true
'''
[[projects.web.pipelines.deploy.phases]]
name = "switch"
run = "echo '::singletrack output url=https://web.example/::'"
"#;

const COMMITS: [&str; 2] = ["3f2a1b2c4d5e6f708192a3b4c5d6e7f801234567", "9a8b7c6d5e4f30211203948576a5b4c3d2e1f009"];

/// A terminal of 80 columns in which a command runs.
struct Terminal {
    folder: TempDir,
    child: Child,
}

impl Terminal {
    fn start(url: &str, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let line = format!("stty cols {COLUMNS} rows 24; exec {SINGLETRACK} {}", args.join(" "));
        // util-linux's `script` gives it a terminal.
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &line, "typescript"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TERM", "xterm-256color").env("NO_COLOR", "1");
        command.env("SINGLETRACK_URL", url).current_dir(folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Terminal { folder, child }
    }

    fn screen(&self) -> String {
        let typescript = fs::read(self.folder.path().join("typescript")).unwrap_or_default();
        let text = String::from_utf8_lossy(&typescript).into_owned();
        // What `script` itself writes stands in the first and the last line.
        let text = text.split_once('\n').map(|(_, text)| text.to_owned()).unwrap_or_default();
        shown(text.split("\nScript done on").next().unwrap_or_default())
    }

    /// The screen as soon as it shows this.
    fn showing(&self, text: &str) -> String {
        let begin = Instant::now();
        loop {
            let screen = self.screen();
            if screen.replace(&format!("{GOES_ON}\n"), "").contains(text) {
                return screen;
            }
            assert!(begin.elapsed() < PATIENCE, "{text:?} is not shown:\n{screen}");
            // Whatever a terminal shows wakes nobody.
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn ended(mut self) -> String {
        assert!(self.child.wait().unwrap().success(), "{}", self.screen());
        self.screen()
    }
}

/// What a terminal shows after this text: it knows the sequences that the program writes, and no others.
fn shown(text: &str) -> String {
    let (mut lines, mut row, mut column) = (vec![Vec::<char>::new()], 0, 0);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\n' => row += 1,
            '\u{1b}' => {
                assert_eq!(chars.next(), Some('['));
                let mut parameter = String::new();
                let end = loop {
                    match chars.next().unwrap_or('m') {
                        digit @ ('0'..='9' | ';' | '?') => parameter.push(digit),
                        end => break end,
                    }
                };
                match end {
                    'A' => row -= parameter.parse::<usize>().unwrap_or(1).min(row),
                    'B' => row += parameter.parse::<usize>().unwrap_or(1),
                    'K' if parameter == "2" => lines[row].clear(),
                    'K' => lines[row].truncate(column),
                    'm' | 'h' | 'l' => {}
                    other => panic!("the sequence {parameter}{other} is not known here"),
                }
            }
            c => {
                if column == COLUMNS {
                    lines[row].push(GOES_ON);
                    (row, column) = (row + 1, 0);
                }
                lines.resize(lines.len().max(row + 1), Vec::new());
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                // A line that is written anew ends where it ends now.
                line.truncate(COLUMNS);
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    let lines = lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

fn server() -> TestServer {
    let server = TestServer::start(CONFIG);
    server.close_gate();
    server
}

#[tokio::test]
async fn the_recording_of_a_terminal_is_what_it_shows() {
    let server = server();
    let args = |actor, commit| ["deploy", "--project", "web", "--ref", "trunk", "--commit", commit, "--actor", actor];
    let carol = Terminal::start(&server.base, &args("carol", COMMITS[0]));
    carol.showing("migrate: Migrating");
    let bob = Terminal::start(&server.base, &args("bob", COMMITS[1]));
    let waiting = bob.showing("next in line");
    let running = carol.screen();
    server.open_gate();
    let (_, ended) = (carol.ended(), bob.ended());
    let mut recording = Transcript::recording(
        "docs/recordings/terminal.txt",
        "A terminal of 80 columns, made by `cargo test --test it transcripts`. Times and ids differ.",
        &server.base,
        Audience::Pipe,
    );
    let command = |actor: &str, commit: &str| {
        format!("$ singletrack deploy --project web --ref trunk --commit {} --actor {actor}", &commit[..10])
    };
    recording.frame("carol's deploy runs:", &command("carol", COMMITS[0]), &running);
    recording.frame("bob's deploy waits for it:", &command("bob", COMMITS[1]), &waiting);
    recording.frame("bob's deploy when all is done:", &command("bob", COMMITS[1]), &ended);
    recording.check();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recordings/terminal.txt")).unwrap();
    let too_wide: Vec<_> = text.lines().skip(1).filter(|line| line.chars().count() > COLUMNS).collect();
    assert!(too_wide.is_empty(), "{too_wide:?}");
}

#[tokio::test]
async fn the_recording_of_a_github_log_is_what_the_runner_gets() {
    let server = server();
    let mut recording = Transcript::recording(
        "docs/recordings/github-log.txt",
        "A step of GitHub Actions, as its runner gets it, made by `cargo test --test it transcripts`. `err` and `out` are the step's streams,\n\
         `output` is what it adds to $GITHUB_OUTPUT, `summary` to $GITHUB_STEP_SUMMARY. Times and ids differ.",
        &server.base,
        Audience::GitHub,
    );
    let carol = Terminal::start(&server.base, &["deploy", "--project", "web", "--ref", "main", "--actor", "carol"]);
    carol.showing("migrate: Migrating");
    let waits = recording.start(&["deploy", "--project", "web", "--timeout", "20m"]);
    // The stream of the one, the turn of the other.
    server.parked(2).await;
    server.open_gate();
    recording.write(waits);
    carol.ended();
    recording.check();
}

#[test]
fn a_terminal_is_read_as_it_shows_itself() {
    for (text, screen) in [
        ("a\r\nb\r\n", "a\nb"),
        ("50 %\r\u{1b}[2K100 %", "100 %"),
        ("a\r\nb\u{1b}[1A\r\u{1b}[Kc", "c\nb"),
        ("\u{1b}[1mred\u{1b}[0m", "red"),
    ] {
        assert_eq!(shown(text), screen);
    }
    assert_eq!(shown(&"x".repeat(81)), format!("{}{GOES_ON}\nx", "x".repeat(80)));
}
