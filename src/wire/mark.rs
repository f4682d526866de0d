//! The mark of a project on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::{deployment::parts, time};
use crate::model::{self, BuildMark, DeploymentId, Mention, Named, Party, ProjectName, SetMark};

/// The build number below which no deployment of a project starts, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarkView {
    /// The build number.
    pub order: u64,
    /// The deployment that made it the mark by its start. Left out where somebody set the mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<DeploymentId>,
    /// The number, actor and commit of that deployment, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by_deployment: Option<Named>,
    /// Who set it. Left out where a deployment made it the mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_by: Option<Party>,
    /// When it was set.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::option")]
    pub set_at: Option<Timestamp>,
    /// Why it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl MarkView {
    /// The deployment that made it the mark by its start.
    pub fn starter(&self, project: &ProjectName) -> Option<Mention> {
        super::mention(project, self.started_by, self.started_by_deployment.as_ref())
    }
}

impl From<BuildMark> for MarkView {
    fn from(mark: BuildMark) -> Self {
        let order = mark.order();
        let bare =
            MarkView { order, started_by: None, started_by_deployment: None, set_by: None, set_at: None, reason: None };
        match mark {
            BuildMark::Started(model::StartedOrder { order: _, deployment }) => {
                let (started_by, started_by_deployment) = parts(Some(deployment));
                MarkView { started_by, started_by_deployment, ..bare }
            }
            BuildMark::Set(SetMark { order: _, at, by, reason }) => {
                MarkView { set_by: Some(by), set_at: Some(at), reason, ..bare }
            }
        }
    }
}

/// The body that sets or removes the mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrderRequest {
    /// The build number; null removes the mark. It cannot be left out.
    #[serde(deserialize_with = "number_or_null")]
    pub order: Option<u64>,
    /// Why; it is recorded, and whoever is refused is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The person that asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// A field with a function of its own must be there.
fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(deserializer)
}

/// The answer: the mark, and what it means for those in line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderAnswer {
    /// The project.
    pub project: ProjectName,
    /// Whether that changed anything.
    pub changed: bool,
    /// The mark now; null where there is none.
    pub mark: Option<MarkView>,
    /// The mark until then; null where there was none.
    pub before: Option<MarkView>,
    /// How many that wait in line have a lower build number, and end when their turn comes.
    pub outdated_in_line: u64,
    /// How many wait in line.
    pub line_length: u64,
}
