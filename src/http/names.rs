//! Resolves a deployment's name: its id, or its number in its project. This is the one place for that, for paths and
//! bodies alike.

use super::{App, error::ErrorAnswer};
use crate::{
    model::{DeploymentId, DeploymentName, ProjectName, Which},
    wire::ErrorCode,
};

impl App {
    /// The id of the deployment of this project that has this name. An id is not looked up, because its user does that.
    ///
    /// # Errors
    /// The project has no deployment of that number, or the name belongs to another project.
    pub(super) async fn named(
        &self,
        project: &ProjectName,
        name: &DeploymentName,
    ) -> Result<DeploymentId, ErrorAnswer> {
        let number = match name.which {
            Which::Id(id) => return Ok(id),
            Which::Number(number) => number,
        };
        if !name.is_of(project) {
            return Err(missing(format!("{name} is not a deployment of project {project}")));
        }
        let store = self.queue.store();
        if let Some(id) = store.numbered(project.clone(), number).await? {
            return Ok(id);
        }
        // A project without any deployment is answered as not found.
        let state = store.project(project.clone(), 0).await?.ok_or_else(ErrorAnswer::not_found)?;
        let last = state.project.deployment_count;
        if last == 0 {
            return Err(ErrorAnswer::not_found());
        }
        // A number that was given, unless a restore left a gap.
        let was_given = (1..=last).contains(&number);
        let why = if was_given { " (retention removes old ones)" } else { "" };
        Err(missing(format!(
            "project {project} has no deployment {project}#{number}{why}; the last one is {project}#{last}"
        )))
    }

    /// The same for an optional name.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn named_if_any(
        &self,
        project: &ProjectName,
        name: Option<&DeploymentName>,
    ) -> Result<Option<DeploymentId>, ErrorAnswer> {
        match name {
            Some(name) => self.named(project, name).await.map(Some),
            None => Ok(None),
        }
    }
}

fn missing(detail: String) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::NotFound, detail)
}
