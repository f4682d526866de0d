//! TeamCity.

use super::super::{
    environment::Environment,
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    // No order: a build is numbered when it starts, in a format of one's own. No identity: the number need not be each
    // build's own, and the build's id is no variable. Neither are branch and user.
    environment.get("TEAMCITY_VERSION").map(|_| CiRun {
        commit: environment.get("BUILD_VCS_NUMBER"),
        url: environment.get("BUILD_URL"),
        ..CiRun::of(System::TeamCity)
    })
}
