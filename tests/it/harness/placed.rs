//! Where a server runs: in another network, or with another clock.

use std::process::Command;

/// A place for a server.
#[derive(Clone, Debug)]
pub struct Place {
    /// The program, with its arguments, that runs the server there.
    wrap: Vec<String>,
    /// Where it listens at its first start.
    pub listen: String,
}

impl Default for Place {
    fn default() -> Self {
        Place { wrap: Vec::new(), listen: "127.0.0.1:0".to_owned() }
    }
}

impl Place {
    /// The server runs by this program, which becomes the server: it keeps the pid.
    pub fn by(wrap: &[&str]) -> Self {
        Place { wrap: wrap.iter().map(|word| (*word).to_owned()).collect(), ..Place::default() }
    }

    /// On this machine, at this address of it.
    pub fn at(address: &str) -> Self {
        Place { listen: format!("{address}:0"), ..Place::default() }
    }

    /// In a network namespace, at this address of it.
    pub fn in_namespace(name: &str, address: &str) -> Self {
        Place { listen: format!("{address}:0"), ..Place::by(&["ip", "netns", "exec", name]) }
    }

    /// The command that runs `program` there.
    pub fn command(&self, program: &str) -> Command {
        let mut words = self.wrap.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words);
        command
    }
}
