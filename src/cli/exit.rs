//! How the program ends: the documented exit codes, and what is said to the user with them.

use std::{fmt, process::ExitCode};

use serde_json::{Value, json};

use super::{
    ci::{Environment, id_token},
    reason::Reason,
};
use crate::{
    client::{
        calls::{Connection, Fault, ServerRefusal},
        error::SetupError,
    },
    explain,
    model::{ProjectName, Status},
    wire::ErrorCode,
};

/// The exit codes and variables, as the help shows them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the deployment FAILED
  2    usage
  121  still blocked at the deadline
  122  cancelled or superseded
  123  lease lost
  124  --timeout passed
  125  no server, or a fault on the way to it
  130  interrupted; the client cancelled its deployment first

Environment:
  SINGLETRACK_URL      the server, as --server
  SINGLETRACK_PROJECT  the project, as --project
  SINGLETRACK_TOKEN    the token; there is no flag for it, because other processes can read arguments
  NO_COLOR             no colours";

/// The documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The deployment FAILED.
    Failed,
    /// The request is not possible; the command line or the configuration must change.
    Usage,
    /// The slot was still held by another at the deadline.
    Blocked,
    /// The deployment was cancelled or superseded.
    Cancelled,
    /// The lease was lost while the command ran.
    LeaseLost,
    /// `--timeout` passed.
    TimedOut,
    /// No server, or something in between is broken.
    Fault,
    /// Stopped by a signal; the deployment was cancelled first.
    Interrupted,
    /// The code of a command that was run here.
    Command(u8),
}

impl Exit {
    /// Every code of the program's own.
    pub const ALL: [Exit; 9] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Blocked,
        Exit::Cancelled,
        Exit::LeaseLost,
        Exit::TimedOut,
        Exit::Fault,
        Exit::Interrupted,
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Blocked => 121,
            Exit::Cancelled => 122,
            Exit::LeaseLost => 123,
            Exit::TimedOut => 124,
            Exit::Fault => 125,
            Exit::Interrupted => 130,
            Exit::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command failed: one line, and a hint for the next step.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// Reads after "error: ".
    pub message: String,
    /// Reads after "hint: ".
    pub hint: Option<String>,
    /// Why, where neither the exit code nor what the server said tells it.
    pub reason: Option<Reason>,
    /// What the server said, for `--json`.
    pub problem: Option<Value>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: message.into(), hint: None, reason: None, problem: None }
    }

    /// Adds the next thing to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says why.
    #[must_use]
    pub fn because(self, reason: Reason) -> Self {
        Failure { reason: Some(reason), ..self }
    }

    /// Why, for programs.
    pub fn reason(&self) -> Option<&str> {
        let told = || self.problem.as_ref().and_then(|problem| told_by(problem, self.exit));
        self.reason.map(Reason::as_str).or_else(told).or_else(|| Reason::of(self.exit).map(Reason::as_str))
    }

    /// The code whose page tells more: the reason, or the exit code where a newer server's reason has no page here.
    pub fn topic(&self) -> Option<&'static str> {
        let is_plain = self.reason().is_none_or(|reason| {
            // The message and the hint say it all.
            [Reason::Usage, Reason::Interrupted].iter().any(|plain| plain.as_str() == reason)
        });
        if is_plain {
            return None;
        }
        let by_exit = || explain::find(&self.exit.code().to_string());
        self.reason().and_then(explain::find).or_else(by_exit).map(|page| page.code)
    }

    /// What `--json` prints on standard output: the server's problem, or one of our own making in the same form; and why the
    /// command ended so.
    pub fn to_json(&self) -> Value {
        let mut told = self.problem.clone().unwrap_or_else(|| {
            json!({
                "type": "urn:singletrack:problem:client",
                "title": "The client ended without an answer",
                "detail": self.message,
                "message": self.message,
            })
        });
        if let Some(members) = told.as_object_mut() {
            members.insert("exitCode".to_owned(), json!(self.exit.code()));
            members.insert("reason".to_owned(), json!(self.reason()));
        }
        told
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let message = fault.to_string();
        match fault {
            Fault::Unreachable { server, why } => {
                Failure::new(Exit::Fault, message).hint(unreachable_hint(&server, &why)).because(Reason::Unreachable)
            }
            Fault::Foreign { server, .. } => Failure::new(Exit::Fault, message).because(Reason::NotSingletrack).hint(format!(
                "check --server (or SINGLETRACK_URL), and what stands in front of it: `curl -i {server}healthz`"
            )),
            Fault::Proxy { .. } => Failure::new(Exit::Fault, message).because(Reason::ProxyLimit).hint(
                "raise the largest body that the proxy takes (nginx: client_max_body_size 0), or name the server itself with --server",
            ),
            Fault::NoToken { .. } => Failure::new(Exit::Fault, message).hint(
                "the job asks GitHub for an ID token (ACTIONS_ID_TOKEN_REQUEST_URL); with SINGLETRACK_TOKEN it needs none",
            ),
            Fault::Refused(refusal) => Failure::from(*refusal),
        }
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        let message = error.to_string();
        match error {
            SetupError::Token => Failure::new(Exit::Usage, message),
            SetupError::PasswordInAddress => {
                Failure::new(Exit::Usage, message).hint("set SINGLETRACK_TOKEN, or pass --token-file FILE")
            }
            SetupError::Authority { .. } => Failure::new(Exit::Usage, format!("--ca-cert {message}"))
                .hint("it is a PEM file with a CERTIFICATE block"),
            // An image with nothing else in it has no authorities either.
            SetupError::Http { needs_authorities: true, .. } => Failure::new(Exit::Fault, message)
                .hint("install the system's certificates (ca-certificates), or name an authority with --ca-cert"),
            SetupError::Http { needs_authorities: false, .. } => Failure::new(Exit::Fault, message),
        }
    }
}

impl From<ServerRefusal> for Failure {
    fn from(refusal: ServerRefusal) -> Self {
        let hint = match refusal.code {
            Some(ErrorCode::Unauthorized) if !refusal.with_token => {
                let variable = |name: &str| std::env::var(name).ok();
                let by_ci = id_token::how_to_get_one(&Environment::new(&variable));
                by_ci.or(meaning(ErrorCode::Unauthorized).1)
            }
            Some(ErrorCode::Unauthorized) => Some(
                "the server does not know this token: check SINGLETRACK_TOKEN or --token-file, and that the token was made \
                 for this --server",
            ),
            code => code.and_then(|code| meaning(code).1),
        };
        let hint = hint.map(str::to_owned);
        Failure {
            exit: exit_of(refusal.code),
            message: refusal.message.clone(),
            hint,
            reason: None,
            problem: Some(refusal.body),
        }
    }
}

/// Why a question about a whole project has no answer.
pub fn about_project(connection: &Connection, project: &ProjectName, fault: Fault) -> Failure {
    match fault {
        Fault::Refused(refusal) if refusal.code == Some(ErrorCode::NotFound) => Failure {
            message: format!("no such project {project} on this server ({})", connection.server()),
            ..Failure::from(*refusal)
        }
        .hint("`singletrack list` without a project shows the projects"),
        fault @ (Fault::Refused(_)
        | Fault::Unreachable { .. }
        | Fault::Foreign { .. }
        | Fault::Proxy { .. }
        | Fault::NoToken { .. }) => fault.into(),
    }
}

fn unreachable_hint(server: &str, why: &str) -> String {
    if why.contains("certificate") {
        "the server's certificate is not trusted here: pass its authority with --ca-cert FILE".to_owned()
    } else if server.starts_with("https:") && why.contains("corrupt message") {
        "what answers there speaks no TLS: name it with http://, or check the port".to_owned()
    } else if server.contains("127.0.0.1:7878") {
        "start a server with `singletrack serve`, or name one with --server URL (or SINGLETRACK_URL)".to_owned()
    } else {
        "check --server (or SINGLETRACK_URL), and that this machine can reach it".to_owned()
    }
}

/// The exit code for a deployment that ended so.
pub fn exit_of_end(status: Status, code: &str) -> Exit {
    match (status, code) {
        (Status::Succeeded, _) => Exit::Done,
        (Status::Cancelled, "ABANDONED" | "EXPIRED") => Exit::Blocked,
        (Status::Cancelled, _) => Exit::Cancelled,
        (Status::Failed | Status::Pending | Status::Running, _) => Exit::Failed,
    }
}

/// A refusal that waiting cannot change is the caller's to mend; the rest is a fault of the tool's surroundings.
pub fn exit_of(code: Option<ErrorCode>) -> Exit {
    code.map_or(Exit::Fault, |code| meaning(code).0)
}

/// What a refusal with this code is for the caller: the exit code, and the next thing to do where there is a general one.
fn meaning(code: ErrorCode) -> (Exit, Option<&'static str>) {
    match code {
        ErrorCode::BadRequest
        | ErrorCode::UnknownParameter
        | ErrorCode::InvalidParameter
        | ErrorCode::InvalidProject => (Exit::Usage, None),
        ErrorCode::InvalidBody => {
            (Exit::Usage, Some("change the flag of that name; docs/limits.md lists what the server takes"))
        }
        ErrorCode::UnknownPipeline => (Exit::Usage, Some("`singletrack why` shows the project's pipelines")),
        ErrorCode::UnknownProject => (Exit::Usage, Some("`singletrack list` without a project shows the projects")),
        ErrorCode::ConfigInvalid => (Exit::Usage, Some("mend the file; `singletrack check-config FILE` checks it")),
        ErrorCode::RollbackImpossible => (
            Exit::Usage,
            Some(
                "`singletrack list --status SUCCEEDED` shows what can be live again, and --to names it; `singletrack current` shows what is live",
            ),
        ),
        ErrorCode::SecretInputsGone => {
            (Exit::Usage, Some("give the values again: --input NAME=VALUE for each of them"))
        }
        ErrorCode::NotFound => (Exit::Usage, Some("`singletrack list` shows what there is")),
        ErrorCode::BodyTooLarge => (
            Exit::Usage,
            Some("send less: what is large is uploaded with --artifact, up to the server's max_bytes (docs/limits.md)"),
        ),
        ErrorCode::ArtifactMissing => (Exit::Usage, Some("pass --artifact DIR, which uploads it")),
        ErrorCode::KeyReused => (Exit::Usage, Some("pass another --idempotency-key, or the same request")),
        ErrorCode::Outdated => (
            Exit::Cancelled,
            Some("to go back on purpose, pass --rollback; to deploy without a build number, pass --no-order"),
        ),
        ErrorCode::SuccessorGone => (Exit::Cancelled, None),
        ErrorCode::DeadlinePassed => {
            (Exit::Blocked, Some("pass a longer --timeout; `singletrack why` shows who holds the slot"))
        }
        ErrorCode::ProjectPaused => (
            Exit::Blocked,
            Some(
                "`singletrack why` shows who paused it and until when; without --on-conflict fail, the deploy waits in line",
            ),
        ),
        ErrorCode::NoAgent => {
            (Exit::Blocked, Some("start one with `singletrack agent`; `singletrack why` shows which were seen when"))
        }
        ErrorCode::HolderAlive => (
            Exit::Blocked,
            Some(
                "`singletrack cancel` asks it to stop, and the slot moves on when it has; --even-if-alive frees the slot all the same",
            ),
        ),
        ErrorCode::ProjectInUse => (Exit::Blocked, Some("`singletrack why` shows what runs and what waits")),
        ErrorCode::LineFull | ErrorCode::HolderChanged => {
            (Exit::Blocked, Some("`singletrack why` shows who holds the slot and who waits"))
        }
        ErrorCode::DeploymentInProgress | ErrorCode::PreemptionRefused | ErrorCode::NotOlder => (Exit::Blocked, None),
        ErrorCode::LeaseLost | ErrorCode::ReportGap => (Exit::LeaseLost, None),
        ErrorCode::TokenRevoked | ErrorCode::TokenExpired => {
            (Exit::Fault, Some("have an administrator make another token: `singletrack token create`"))
        }
        ErrorCode::TooManyAttempts => (
            Exit::Fault,
            Some(
                "check SINGLETRACK_TOKEN or --token-file, and other clients behind the same address; a valid token works meanwhile",
            ),
        ),
        ErrorCode::TokenConflict => (Exit::Usage, Some("`singletrack token list` shows the tokens")),
        ErrorCode::Unauthorized => {
            (Exit::Fault, Some("no token was sent: set SINGLETRACK_TOKEN, or pass --token-file FILE"))
        }
        ErrorCode::TokenNotAccepted => {
            (Exit::Fault, Some("compare the job's token with the server's [[oidc]]: issuer, audience, and both clocks"))
        }
        ErrorCode::NoOidcRule => (
            Exit::Fault,
            Some("an administrator lets such jobs in with a rule below [[oidc]] in the server's configuration"),
        ),
        ErrorCode::IssuerUnreachable => {
            (Exit::Fault, Some("try again later; with SINGLETRACK_TOKEN the server needs no answer of the issuer"))
        }
        ErrorCode::HostNotAllowed => (
            Exit::Fault,
            Some(
                "name the server as it knows itself, such as http://127.0.0.1:7878; a proxy passes the name on (nginx: proxy_set_header Host $http_host)",
            ),
        ),
        ErrorCode::ProxyNeedsTokens
        | ErrorCode::ForbiddenOrigin
        | ErrorCode::MissingScope
        | ErrorCode::MethodNotAllowed
        | ErrorCode::NotAcceptable
        | ErrorCode::StillRunning
        | ErrorCode::StillWaiting
        | ErrorCode::NothingToDo
        | ErrorCode::RequestTimeout
        | ErrorCode::UploadOffset
        | ErrorCode::UploadInProgress
        | ErrorCode::ArtifactMismatch
        | ErrorCode::UriTooLong
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::HeadersTooLarge
        | ErrorCode::Internal
        | ErrorCode::Unavailable
        | ErrorCode::ShuttingDown
        | ErrorCode::DiskFull => (Exit::Fault, None),
    }
}

impl Reason {
    /// What an exit code says by itself; `None` for an end that is no failure of the client's.
    pub fn of(exit: Exit) -> Option<Reason> {
        match exit {
            Exit::Done | Exit::Command(_) => None,
            Exit::Failed => Some(Reason::NotCancelled),
            Exit::Usage => Some(Reason::Usage),
            Exit::Blocked => Some(Reason::DeploymentInProgress),
            Exit::Cancelled => Some(Reason::Cancelled),
            Exit::LeaseLost => Some(Reason::LeaseLost),
            Exit::TimedOut => Some(Reason::ClientTimeout),
            Exit::Fault => Some(Reason::ClientFault),
            Exit::Interrupted => Some(Reason::Interrupted),
        }
    }
}

/// The server's own code, where `body` is a refusal, or a deployment that did not succeed, and that leads to this exit.
pub fn told_by(body: &Value, exit: Exit) -> Option<&str> {
    let (refused, ended) = (&body["errorCode"], &body["error"]["code"]);
    let status = serde_json::from_value(body["status"].clone()).ok();
    let meant = match (ended.as_str(), status) {
        (Some(code), Some(status)) => exit_of_end(status, code),
        _ => exit_of(serde_json::from_value(refused.clone()).ok()),
    };
    (meant == exit).then(|| ended.as_str().or(refused.as_str())).flatten()
}
