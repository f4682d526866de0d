//! `flock`: a whole process that locks a file, runs a command, and ends. Nothing is recorded, and the lock counts only
//! on this machine.

use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::subject::{Ability, Peer, Subject};

use super::daemon::{program, version};

pub const FLOCK: Peer = Peer {
    name: "flock",
    abilities: &[Ability::Wrap],
    start: || Box::pin(async { Ok(Box::new(Flock::start()?) as Box<dyn Subject>) }),
};

struct Flock {
    dir: TempDir,
    version: String,
}

impl Flock {
    fn start() -> Result<Flock> {
        Ok(Flock { dir: tempfile::tempdir()?, version: version(&program("flock")?, "--version")? })
    }
}

impl Subject for Flock {
    fn about(&self) -> String {
        format!("{}, a lock in this machine's memory: nothing is durable, nothing is recorded", self.version)
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn wrapper(&self, slot: &str) -> Result<Command> {
        let mut command = Command::new(program("flock")?);
        command.arg(self.dir.path().join(slot)).arg("true");
        Ok(command)
    }
}
