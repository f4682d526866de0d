//! AWS CodeBuild.

use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    environment.get("CODEBUILD_BUILD_ID")?;
    // `branch/main`, `tag/v1` or `pr/17`. CODEBUILD_WEBHOOK_HEAD_REF may be a fork's.
    let trigger = environment.get("CODEBUILD_WEBHOOK_TRIGGER");
    let ref_name = trigger.map(|trigger| match trigger.split_once('/') {
        Some(("branch" | "tag", name)) => name.to_owned(),
        Some(_) | None => trigger,
    });
    Some(CiRun {
        ref_name,
        commit: environment.get("CODEBUILD_RESOLVED_SOURCE_VERSION"),
        actor: environment.get("CODEBUILD_INITIATOR"),
        url: environment.first(&["CODEBUILD_BUILD_URL", "CODEBUILD_PUBLIC_BUILD_URL"]),
        // CODEBUILD_BUILD_NUMBER is given when a build starts, and anew when an old commit is built again.
        order: None,
        // A build that is repeated has its own id.
        identity: environment.identity(System::CodeBuild, &["CODEBUILD_BUILD_ID"], &["CODEBUILD_BUILD_ARN"]),
        ..CiRun::of(System::CodeBuild)
    })
}
