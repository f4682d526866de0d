//! A running command of the client, whose progress is read line by line.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStderr, Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{SINGLETRACK, processes};

/// A running command of the client.
pub struct Client {
    child: Child,
    stderr: BufReader<ChildStderr>,
    heard: String,
}

/// How a command ended: the exit code, the result and the progress.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Client {
    /// Starts one of the program's commands, with only these variables in its environment.
    pub fn start(variables: &[(&str, &str)], args: &[&str]) -> Self {
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().envs(variables.iter().copied()).args(args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Client { child, stderr, heard: String::new() }
    }

    /// Reads on until a line with this text.
    #[track_caller]
    pub fn hears(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            let read = self.stderr.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended without {text:?}:\n{}", self.heard);
            self.heard.push_str(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub fn signal(&self, signal: Signal) {
        processes::signal(&self.child, signal);
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
        self.stderr.read_to_string(&mut self.heard).unwrap();
        let output = self.child.wait_with_output().unwrap();
        Ended { code: output.status.code(), stdout: String::from_utf8(output.stdout).unwrap(), stderr: self.heard }
    }
}

impl Ended {
    /// The result.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    /// The exit code, the result (null where there is none), and the progress.
    pub fn parts(self) -> (Option<i32>, Value, String) {
        (self.code, serde_json::from_str(&self.stdout).unwrap_or_default(), self.stderr)
    }
}
