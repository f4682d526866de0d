//! The call that reads a server's audit log.

use reqwest::Method;

use super::{
    calls::{Connection, Fault},
    transport::Call,
};
use crate::{
    config::Since,
    model::{DeploymentId, ProjectName},
    wire::AuditList,
};

/// Which lines of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only those about this project.
    pub project: Option<ProjectName>,
    /// Only those about this deployment.
    pub deployment: Option<DeploymentId>,
    /// Only those since then.
    pub since: Option<Since>,
    /// Only those before then.
    pub until: Option<Since>,
    /// Only those with this action.
    pub action: Option<String>,
    /// Only those of this caller.
    pub caller: Option<String>,
}

impl Connection {
    /// A page of the audit log, the last line first.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn audit(&self, wanted: &AuditFilter, limit: u64, cursor: Option<&str>) -> Result<AuditList, Fault> {
        let AuditFilter { project, deployment, since, until, action, caller } = wanted;
        let mut url = self.url(&["v1", "audit"]);
        let wanted = [
            ("project", project.as_ref().map(ToString::to_string)),
            ("deployment", deployment.map(|id| id.to_string())),
            ("since", since.map(|since| since.to_string())),
            ("until", until.map(|until| until.to_string())),
            ("action", action.clone()),
            ("caller", caller.clone()),
            ("cursor", cursor.map(str::to_owned)),
        ];
        let wanted = wanted.into_iter().filter_map(|(name, value)| Some((name, value?)));
        url.query_pairs_mut().append_pair("limit", &limit.to_string()).extend_pairs(wanted);
        let answer = self.succeed(&Call::new(Method::GET, url)).await?;
        self.transport.read(answer).map(|list| *list)
    }
}
