//! Azure Pipelines.

use jiff::Timestamp;

use super::short_ref;
use crate::cli::ci::{
    environment::Environment,
    log::{LogWords, Section},
    run::{CiRun, System},
};

/// The builds that are numbered when their commit is pushed, or when somebody asks for one. A build that the end of another
/// one starts is numbered in the order of these ends.
const NUMBERED_BY_AGE: &[&str] = &["IndividualCI", "BatchedCI", "PullRequest", "Manual", "Schedule"];

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    if !environment.is("TF_BUILD", "true") {
        return None;
    }
    let page = ["SYSTEM_COLLECTIONURI", "SYSTEM_TEAMPROJECT", "BUILD_BUILDID"].map(|name| environment.get(name));
    let url = match page {
        [Some(collection), Some(project), Some(build)] => {
            let collection = collection.trim_end_matches('/');
            let project = project.replace('%', "%25").replace(' ', "%20");
            Some(format!("{collection}/{project}/_build/results?buildId={build}"))
        }
        _ => None,
    };
    let number = environment.number("BUILD_BUILDID");
    Some(CiRun {
        // On pull requests it is `refs/pull/17/merge`, to which BUILD_SOURCEVERSION belongs; the source branch may be a fork's.
        ref_name: environment.get("BUILD_SOURCEBRANCH").map(|name| short_ref(&name)),
        commit: environment.get("BUILD_SOURCEVERSION"),
        message: environment.get("BUILD_SOURCEVERSIONMESSAGE"),
        actor: environment.first(&["BUILD_REQUESTEDFOR", "BUILD_QUEUEDBY"]),
        url,
        order: number.filter(|_| environment.is_unset_or("BUILD_REASON", NUMBERED_BY_AGE)),
        identity: environment.identity(
            System::Azure,
            &["BUILD_BUILDID", "SYSTEM_JOBID", "SYSTEM_JOBATTEMPT"],
            &["SYSTEM_COLLECTIONURI", "SYSTEM_STAGEATTEMPT"],
        ),
        ..CiRun::of(System::Azure)
    })
}

/// Logging and formatting commands.
pub(in super::super) struct AzureWords;

impl LogWords for AzureWords {
    fn begin(&self, section: &Section) -> String {
        format!("##[group]{}", section.title)
    }

    fn end(&self, _section: &Section, _at: Timestamp) -> Option<String> {
        Some("##[endgroup]".to_owned())
    }

    fn error(&self, title: &str, message: &str) -> Option<String> {
        // An issue has no title of its own.
        Some(format!("##vso[task.logissue type=error]{} ({})", data(message), data(title)))
    }
}

/// The message of a command.
fn data(text: &str) -> String {
    text.replace('%', "%AZP25").replace('\r', "%0D").replace('\n', "%0A")
}
