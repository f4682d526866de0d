//! The outcome of a deployment, as names and values for later steps and jobs.

use std::collections::BTreeMap;

use crate::wire::Deployment;

/// The outcome of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFacts {
    /// Facts of the deployment itself: `id`, `status`, `number`, `url`, `superseded-by`, `rollback`.
    pub own: Vec<(&'static str, String)>,
    /// The outputs of its phases.
    pub outputs: BTreeMap<String, String>,
}

impl JobFacts {
    /// The facts of a deployment. `produced` is the one whose outputs count: the deployment itself, or the successor that covers it.
    pub fn of(deployment: &Deployment, produced: &Deployment) -> Self {
        let outputs = match &produced.result {
            // An older server has them only in the result.
            Some(result) if produced.outputs.is_empty() => result.outputs.clone(),
            Some(_) | None => produced.outputs.clone(),
        };
        let mut own = vec![("id", deployment.id.to_string()), ("status", deployment.status.as_str().to_owned())];
        own.extend(deployment.number.map(|number| ("number", number.to_string())));
        // A pipeline's output `url` wins: it says where the deployed state can be seen.
        if let Some(url) = deployment.url.clone().filter(|_| !outputs.contains_key("url")) {
            own.push(("url", url));
        }
        if let Some(by) = deployment.superseded_by {
            own.push(("superseded-by", by.to_string()));
        }
        let rollback = deployment.error.as_ref().and_then(|error| error.rollback.as_ref());
        own.extend(rollback.map(|rollback| ("rollback", rollback.status.clone())));
        JobFacts { own, outputs }
    }
}
