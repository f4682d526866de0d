//! What surrounds every screen: who looks at it, and the stream that keeps it live.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};

use super::visit::Visit;
use crate::{
    http::guard::Grant,
    model::{Identity, Scope},
};

/// Who looks at a screen.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// What the viewer may do.
    pub grant: Grant,
    /// The name of a viewer who signed in.
    pub signed_in: Option<String>,
    /// How the viewer's browser came.
    pub visit: Visit,
}

impl Viewer {
    /// Whether the viewer may do what needs this scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.grant.scopes.has(scope)
    }

    /// The hidden field by which a form proves that it came from a screen of this viewer's, as HTML.
    pub fn csrf_field(&self) -> String {
        // It is made of hexadecimal digits.
        format!("<input type=\"hidden\" name=\"csrf\" value=\"{}\">", self.visit.proof)
    }

    /// Somebody of whom nothing is known.
    pub fn nobody() -> Self {
        Viewer { grant: Grant::nothing(), signed_in: None, visit: Visit::default() }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Viewer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let (grant, visit) = (Grant::of(&parts.extensions), Visit::from_request_parts(parts, state).await?);
        let signed_in = grant.session.as_ref().map(|_| person(&grant.caller.identity));
        Ok(Viewer { grant, signed_in, visit })
    }
}

/// How somebody is called.
pub fn person(identity: &Identity) -> String {
    match identity {
        Identity::Token { name } => name.clone(),
        Identity::Oidc { issuer: _, subject } => subject.clone(),
        Identity::Server | Identity::Local => identity.to_string(),
    }
}

/// What surrounds a screen.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Who looks at it.
    pub viewer: Viewer,
    /// The path of the stream that keeps it live.
    pub live: Option<String>,
}

impl Frame {
    /// Around a screen that stays as it is.
    pub fn still(viewer: Viewer) -> Self {
        Frame { viewer, live: None }
    }

    /// Around a screen that a stream keeps live.
    pub fn live(viewer: Viewer, stream: String) -> Self {
        Frame { viewer, live: Some(stream) }
    }
}
