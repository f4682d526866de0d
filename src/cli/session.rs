//! What every verb begins with: the server, the token, the screen.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use super::{
    ConnectArgs, ServerArgs,
    ci::{CiRun, Environment, id_token},
    exit::{Exit, Failure},
    screen::{Screen, print},
};
use crate::{
    client::{
        calls::{Connection, Credentials, Patience, Token},
        token::TOKEN_FILE_LIMIT,
    },
    clock::{Clock, SystemClock},
};

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
        let credentials = credentials(&connect.server, &environment)?;
        let heard = Arc::clone(&screen);
        let connection = Connection::new(
            connect.server.url.clone(),
            credentials,
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
        actor_of(self.ci.as_ref())
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

/// The name of whoever uses a command: from the CI, else the user's.
pub fn actor_of(ci: Option<&CiRun>) -> Option<String> {
    match ci {
        Some(ci) => ci.actor.clone(),
        None => Environment::new(&|name| std::env::var(name).ok()).user(),
    }
}

/// The failure of a result that nobody got.
pub fn not_written(error: io::Error) -> Failure {
    Failure::new(Exit::Fault, format!("the result could not be written: {error}"))
}

/// What is shown to the server: the token of the file, else of a variable, else ID tokens of the CI.
///
/// # Errors
/// The file cannot be read, or what it holds is no token.
pub fn credentials(server: &ServerArgs, environment: &Environment<'_>) -> Result<Credentials, Failure> {
    let Some(path) = server.token_file.as_deref() else {
        let passed = environment.get("SINGLETRACK_TOKEN").or_else(|| id_token::passed(environment));
        if let Some(token) = Token::parse(&passed.unwrap_or_default())? {
            return Ok(Credentials::from(Some(token)));
        }
        let request = id_token::request(environment, &server.oidc_audience);
        return Ok(request.map_or_else(Credentials::default, Credentials::from_github));
    };
    let failed = |why: String| Failure::new(Exit::Usage, format!("--token-file {}: {why}", path.display()));
    let mut text = String::new();
    let is_stdin = path == Path::new("-");
    let read = if is_stdin {
        io::stdin().lock().take(TOKEN_FILE_LIMIT).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(TOKEN_FILE_LIMIT).read_to_string(&mut text))
    };
    read.map_err(|error| failed(error.to_string()))?;
    match Token::parse(&text)? {
        Some(token) if is_stdin => Ok(Credentials::from(Some(token))),
        Some(token) => Ok(Credentials::from_file(path.to_owned(), token)),
        None => Err(failed("there is no token in it".to_owned())),
    }
}
