//! The ID tokens that CI systems make for their jobs. GitHub Actions makes one whenever the job asks; elsewhere, as in
//! GitLab, the job's file names the variable that holds it.

use super::{Environment, System};
use crate::client::calls::IdTokenRequest;

/// The variable in which a CI passes an ID token, such as GitLab's `id_tokens`.
pub const ID_TOKEN_VARIABLE: &str = "SINGLETRACK_ID_TOKEN";

/// The ID token that the CI passed.
pub fn passed(environment: &Environment<'_>) -> Option<String> {
    environment.get(ID_TOKEN_VARIABLE)
}

/// How this job gets ID tokens for this audience, where it may.
pub fn request(environment: &Environment<'_>, audience: &str) -> Option<IdTokenRequest> {
    let url = environment.get("ACTIONS_ID_TOKEN_REQUEST_URL")?;
    let bearer = environment.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")?;
    Some(IdTokenRequest { url, bearer, audience: audience.to_owned() })
}

/// What a job without a token can do to get an ID token, where its CI makes some.
pub fn how_to_get_one(environment: &Environment<'_>) -> Option<&'static str> {
    match environment.detect()?.system {
        System::GitHub => Some(
            "no token was sent: GitHub makes one if the job has `permissions: id-token: write` (and `contents: read`), which \
             jobs for pull requests of forks never have; or set SINGLETRACK_TOKEN",
        ),
        System::GitLab => Some(
            "no token was sent: GitLab makes one if the job has `id_tokens: SINGLETRACK_ID_TOKEN: aud: singletrack`; or set \
             SINGLETRACK_TOKEN",
        ),
        _ => None,
    }
}
