//! Why a command ended as it did, for programs: the `reason` of `--json`. An exit code stands for several of them.

/// What is told beside the reason, where rollbacks of the deployment failed.
pub const ROLLBACK_FAILED: &str = "ROLLBACK_FAILED";

/// A reason of the client's own. All others are the server's: the `errorCode` of a refusal, or the `error.code` of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The command line is wrong.
    Usage,
    /// `cancel --wait`: the deployment ended otherwise.
    NotCancelled,
    /// `--timeout` passed in line.
    DeadlinePassed,
    /// `--on-conflict fail`, and the slot is held.
    DeploymentInProgress,
    /// This is a command of the deployment that holds the slot.
    InsideHolder,
    /// `--leave-when-overtaken`: a newer deployment would have superseded this one.
    Overtaken,
    /// A `run` was cancelled.
    Cancelled,
    /// The lease was lost.
    LeaseLost,
    /// The token of a `run` was revoked.
    TokenRevoked,
    /// `--timeout` passed.
    ClientTimeout,
    /// `--timeout` passed before a worker took the deployment.
    ClientTimeoutUnclaimed,
    /// `--timeout` passed while the deployment ran.
    ClientTimeoutRunning,
    /// No server answers.
    Unreachable,
    /// What answers is not Singletrack.
    NotSingletrack,
    /// A proxy takes no request of that size.
    ProxyLimit,
    /// Something failed on this machine.
    ClientFault,
    /// A signal came.
    Interrupted,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 17] = [
        Reason::Usage,
        Reason::NotCancelled,
        Reason::DeadlinePassed,
        Reason::DeploymentInProgress,
        Reason::InsideHolder,
        Reason::Overtaken,
        Reason::Cancelled,
        Reason::LeaseLost,
        Reason::TokenRevoked,
        Reason::ClientTimeout,
        Reason::ClientTimeoutUnclaimed,
        Reason::ClientTimeoutRunning,
        Reason::Unreachable,
        Reason::NotSingletrack,
        Reason::ProxyLimit,
        Reason::ClientFault,
        Reason::Interrupted,
    ];

    /// The word. Where the server has one for the same, it is that one.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Usage => "USAGE",
            Reason::NotCancelled => "NOT_CANCELLED",
            Reason::DeadlinePassed => "DEADLINE_PASSED",
            Reason::DeploymentInProgress => "DEPLOYMENT_IN_PROGRESS",
            Reason::InsideHolder => "INSIDE_HOLDER",
            Reason::Overtaken => "OVERTAKEN",
            Reason::Cancelled => "CANCELLED",
            Reason::LeaseLost => "LEASE_LOST",
            Reason::TokenRevoked => "TOKEN_REVOKED",
            Reason::ClientTimeout => "CLIENT_TIMEOUT",
            Reason::ClientTimeoutUnclaimed => "CLIENT_TIMEOUT_UNCLAIMED",
            Reason::ClientTimeoutRunning => "CLIENT_TIMEOUT_RUNNING",
            Reason::Unreachable => "UNREACHABLE",
            Reason::NotSingletrack => "NOT_SINGLETRACK",
            Reason::ProxyLimit => "PROXY_LIMIT",
            Reason::ClientFault => "CLIENT_FAULT",
            Reason::Interrupted => "INTERRUPTED",
        }
    }
}
