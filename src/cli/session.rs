//! What every verb begins with: the server, the token, the screen.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use super::{
    ConnectArgs,
    ci::{CiRun, Environment},
    exit::{Exit, Failure},
    screen::{Screen, print},
};
use crate::{
    client::calls::{Connection, Patience, Token},
    clock::{Clock, SystemClock},
};

/// The largest token file: a token is a line.
const TOKEN_FILE_LIMIT: u64 = 16 << 10;

/// What every verb needs.
pub struct Session {
    /// The server.
    pub connection: Connection,
    /// Where progress is shown.
    pub screen: Arc<Screen>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether the result is printed as JSON.
    pub json: bool,
    /// The CI system of this process.
    pub ci: Option<CiRun>,
    /// Whether it is any CI at all, known or not.
    pub in_ci: bool,
}

impl Session {
    /// Opens a session; nothing is sent yet.
    ///
    /// # Errors
    /// The token or the certificate cannot be read.
    pub fn open(connect: &ConnectArgs, patience: Patience) -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var(name).ok();
        let environment = Environment::new(&variable);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let in_ci = environment.is_ci();
        let screen = Arc::new(Screen::new(Arc::clone(&clock), in_ci));
        let token = token(connect.server.token_file.as_deref(), variable("SINGLETRACK_TOKEN"))?;
        let heard = Arc::clone(&screen);
        let connection = Connection::new(
            connect.server.url.clone(),
            token,
            connect.server.ca_cert.as_deref(),
            patience,
            Box::new(move |text| heard.warning(text)),
            Arc::clone(&clock),
        )?;
        if connection.exposes_token() {
            screen.warning(&format!(
                "the token goes unencrypted to {}; use https:// where others share the network",
                connection.server()
            ));
        }
        Ok(Session { connection, screen, clock, json: connect.json, ci: environment.detect(), in_ci })
    }

    /// The name of whoever uses this command: from the CI, else the user's.
    pub fn actor(&self) -> Option<String> {
        match &self.ci {
            Some(ci) => ci.actor.clone(),
            None => Environment::new(&|name| std::env::var(name).ok()).user(),
        }
    }

    /// Prints `lines` as the result, or `value` with `--json`.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn answer(&self, value: &impl serde::Serialize, lines: &[String]) -> Result<(), Failure> {
        self.screen.clear();
        let written = if self.json {
            // The wire's own types have a JSON form.
            self.screen.json(&serde_json::to_value(value).unwrap_or_default())
        } else {
            lines.iter().try_for_each(|line| print::answer(line))
        };
        written.map_err(not_written)
    }
}

/// The failure of a result that nobody got.
pub fn not_written(error: io::Error) -> Failure {
    Failure::new(Exit::Fault, format!("the result could not be written: {error}"))
}

/// The token: of the file, else of the variable.
///
/// # Errors
/// The file cannot be read, or what it holds is no token.
pub fn token(file: Option<&Path>, variable: Option<String>) -> Result<Option<Token>, Failure> {
    let Some(path) = file else {
        return Ok(Token::parse(&variable.unwrap_or_default())?);
    };
    let failed = |why: String| Failure::new(Exit::Usage, format!("--token-file {}: {why}", path.display()));
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(TOKEN_FILE_LIMIT).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(TOKEN_FILE_LIMIT).read_to_string(&mut text))
    };
    read.map_err(|error| failed(error.to_string()))?;
    match Token::parse(&text)? {
        Some(token) => Ok(Some(token)),
        None => Err(failed("there is no token in it".to_owned())),
    }
}
