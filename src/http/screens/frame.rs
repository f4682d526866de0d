//! What surrounds every screen: who looks at it, and the stream that keeps it live.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};

use crate::{http::guard::Grant, model::Scope};

/// Who looks at a screen.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// What the viewer may do.
    pub grant: Grant,
    /// The name of a viewer who signed in.
    pub signed_in: Option<String>,
}

impl Viewer {
    /// Whether the viewer may do what needs this scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.grant.scopes.has(scope)
    }

    /// The hidden field by which a form proves that it came from a screen of this viewer's, as HTML.
    pub fn csrf_field(&self) -> String {
        String::new()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Viewer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Viewer { grant: Grant::of(&parts.extensions), signed_in: None })
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
