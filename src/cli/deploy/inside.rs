//! Whether this process is a command of a deployment itself.

use crate::model::DeploymentId;

/// The deployment whose command we are: workers tell their commands.
pub(super) fn inside() -> Option<DeploymentId> {
    std::env::var("SINGLETRACK_DEPLOYMENT_ID").ok()?.parse().ok()
}
