//! The last will of a run: if the run is killed, its shim tells the server that the command is gone, so that the slot is free
//! before the lease runs out. See decision 0025.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    cli::{
        TargetArgs,
        deploy::race::TakenSlot,
        end::on_runtime,
        exit::{Exit, Failure},
        session::Session,
    },
    client::{
        calls::{Connection, Credentials, IdTokenRequest, Patience, Token, Worker},
        lease::HttpLessor,
    },
    clock::{Clock as _, SystemClock},
    exec::lease::{Keeper, Times, Until},
    model::{DeploymentId, FailureCause, ProjectName, Verdict},
    wire::Lease,
};

/// The error message of such deployments.
const MESSAGE: &str = "the run was killed; its command was ended";

/// The last will: all that it takes to tell the server.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Will {
    server: String,
    token: Option<String>,
    id_token: Option<IdTokenRequest>,
    ca_cert: Option<PathBuf>,
    project: ProjectName,
    id: DeploymentId,
    lease: Lease,
}

impl Will {
    /// For the deployment of this grant.
    pub(super) fn new(session: &Session, target: &TargetArgs, grant: &TakenSlot) -> Self {
        let (token, id_token) = session.connection.testament();
        Will {
            server: session.connection.server().to_owned(),
            token,
            id_token,
            ca_cert: target.connect.server.ca_cert.clone(),
            project: target.project.clone(),
            id: grant.deployment.id,
            lease: grant.lease.clone(),
        }
    }

    /// As one line. It holds secrets, and is for a private socket only.
    pub(super) fn to_line(&self) -> Option<String> {
        // Without a will the lease runs out.
        serde_json::to_string(self).ok()
    }

    /// Tells the server, for as long as the lease may last.
    async fn execute(self) -> Result<Exit, Failure> {
        let Will { server, token, id_token, ca_cert, project, id, lease } = self;
        let server = server.parse().map_err(|_| Failure::new(Exit::Usage, "the server's address is not a URL"))?;
        let credentials = match id_token {
            Some(request) => Credentials::from_github(request),
            None => Credentials::from(Token::parse(&token.unwrap_or_default())?),
        };
        let nobody_listens = Box::new(|_: &str| {});
        let connection = Connection::new(
            server,
            credentials,
            ca_cert.as_deref(),
            Patience::DEADLINE,
            nobody_listens,
            Arc::new(SystemClock),
        )?;
        let clock = Arc::new(SystemClock);
        let now = clock.boot();
        let lessor = HttpLessor::new(&connection, Worker { project: &project, id, secret: &lease.secret });
        let keeper = Keeper::new(lessor, clock, id, Times::of_length(lease.length()), now);
        let verdict = Verdict::Failed { cause: FailureCause::WorkerLost, message: MESSAGE.to_owned(), phase: None };
        // Success or failure: nobody is left to read an error.
        let _ = keeper.tell_end(verdict, Until::LeaseOver).await;
        Ok(Exit::Done)
    }
}

/// Executes the will that standard input holds.
///
/// # Errors
/// There is none.
pub fn execute() -> Result<Exit, Failure> {
    let will: Will = serde_json::from_reader(std::io::stdin().lock())
        .map_err(|error| Failure::new(Exit::Usage, format!("this is for the shim of a run: {error}")))?;
    on_runtime(will.execute())
}
