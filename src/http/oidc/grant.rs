//! What the holder of a verified token gets for one request.
//!
//! Each rule allows some scopes in some projects, and a token may meet several rules. A [`Grant`] is one set of scopes in
//! one set of projects, so it is made for the request at hand: nobody may do in one project what a rule allows in another.

use super::{Oidc, Verified, rejection::TokenRejection, rules::Permit, token::looks_like_one};
use crate::{
    http::{
        error::ErrorAnswer,
        guard::{Grant, VisibleProjects},
        validity::Validity,
    },
    model::{Caller, Glob, ProjectName, Scope, Scopes},
    wire::ErrorCode,
};

/// What a request asks for: its path, and the scopes of which it needs one.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub path: &'a str,
    pub needed: &'static [Scope],
}

impl Oidc {
    /// What a token grants that was verified before.
    pub fn known(&self, sha256: &[u8; 32], wanted: Wanted<'_>) -> Option<Grant> {
        self.remembered(sha256).map(|verified| grant(&verified, wanted))
    }

    /// Whether this is a token that [`Oidc::admit`] should look at.
    pub fn is_for_us(&self, token: &str) -> bool {
        !self.is_empty() && looks_like_one(token)
    }

    /// Verifies a token, and answers what it grants.
    ///
    /// # Errors
    /// It is not accepted.
    pub async fn admit(
        &self,
        token: &str,
        sha256: [u8; 32],
        wanted: Wanted<'_>,
        under_lease: bool,
    ) -> Result<Grant, ErrorAnswer> {
        let verified = self.verify(token, sha256, under_lease).await?;
        Ok(grant(&verified, wanted))
    }
}

impl From<TokenRejection> for ErrorAnswer {
    fn from(rejection: TokenRejection) -> Self {
        let code = match &rejection {
            TokenRejection::Expired(_) => ErrorCode::TokenExpired,
            TokenRejection::NotAccepted(_) => ErrorCode::TokenNotAccepted,
            TokenRejection::NoRule(_) => ErrorCode::NoOidcRule,
            TokenRejection::NoKeys(_) => ErrorCode::IssuerUnreachable,
        };
        ErrorAnswer::new(code, rejection.to_string())
    }
}

fn grant(verified: &Verified, wanted: Wanted<'_>) -> Grant {
    let caller = Caller { identity: verified.identity.clone(), address: None, request: None };
    of_permits(caller, &verified.permits, verified.validity.clone(), wanted)
}

/// What a caller gets for one request to whom rules allow this.
pub(super) fn of_permits(caller: Caller, permits: &[Permit], validity: Validity, wanted: Wanted<'_>) -> Grant {
    let (scopes, projects) = allowed(permits, wanted);
    Grant::of_signed(caller, scopes, VisibleProjects::of(Some(&projects)), validity)
}

fn allowed(permits: &[Permit], Wanted { path, needed }: Wanted<'_>) -> (Scopes, Vec<Glob>) {
    if let Some(project) = project_in(path) {
        let here: Vec<_> = permits.iter().filter(|permit| permit.is_for(&project)).collect();
        if !here.is_empty() {
            return (union(&here), vec![Glob::from(&project)]);
        }
    }
    let able: Vec<_> = permits.iter().filter(|permit| permit.scopes.has_any(needed)).collect();
    let able = if able.is_empty() { permits.iter().collect() } else { able };
    let projects = able.iter().flat_map(|permit| permit.projects.iter().cloned()).collect();
    // In all of these projects the caller may do what each rule allows, and what this request is about.
    let everywhere = able.iter().fold(Scopes::all(), |scopes, permit| scopes.and(permit.scopes));
    let asked = union(&able).and(needed.iter().copied().collect());
    (everywhere.iter().chain(asked.iter()).collect(), projects)
}

fn union(permits: &[&Permit]) -> Scopes {
    permits.iter().flat_map(|permit| permit.scopes.iter()).collect()
}

impl Permit {
    fn is_for(&self, project: &ProjectName) -> bool {
        self.projects.iter().any(|glob| glob.matches(project.as_str()))
    }
}

/// The project whose path it is. One that is written with escapes is not found here, and is then judged like a path
/// without a project.
fn project_in(path: &str) -> Option<ProjectName> {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path.strip_prefix("/projects/")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(projects: &str, scopes: &[Scope]) -> Permit {
        Permit {
            projects: vec![Glob::of_projects(projects).expect("a pattern")],
            scopes: scopes.iter().copied().collect(),
        }
    }

    #[test]
    fn what_one_rule_allows_in_a_project_is_not_allowed_in_the_projects_of_another() {
        use Scope::{Admin, Cancel, Read, Submit, Work};
        let permits = [permit("web*", &[Read, Submit]), permit("api", &[Read, Admin]), permit("web-eu", &[Cancel])];
        let told = |path: &str, needed| {
            let (scopes, projects) = allowed(&permits, Wanted { path, needed });
            let projects: Vec<_> = projects.iter().map(ToString::to_string).collect();
            (scopes.iter().collect::<Vec<_>>(), projects.join(" "))
        };
        for (path, needed, scopes, projects) in [
            ("/v1/projects/web/deployments", &[Submit][..], &[Read, Submit][..], "web"),
            ("/v1/projects/web-eu", &[Read], &[Read, Submit, Cancel], "web-eu"),
            ("/v1/projects/api/release", &[Scope::Release], &[Read, Admin], "api"),
            // Another project: it is not seen, whatever the scopes are.
            ("/v1/projects/other", &[Read], &[Read], "web* api"),
            ("/projects/api/pause", &[Admin], &[Read, Admin], "api"),
            ("/v1/projects/%77eb/deployments", &[Submit], &[Read, Submit], "web*"),
            ("/v1/projects", &[Read], &[Read], "web* api"),
            ("/v1/audit", &[Admin], &[Read, Admin], "api"),
            ("/v1/claims", &[Work], &[], "web* api web-eu"),
            ("/v1/artifacts/0", &[Submit, Cancel], &[Submit, Cancel], "web* web-eu"),
        ] {
            assert_eq!(told(path, needed), (scopes.to_vec(), projects.to_owned()), "{path}");
        }
    }
}
