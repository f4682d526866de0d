//! Who asks for something, as the server knows it, and what a caller may do.
//!
//! What a client says about itself (its `actor`) is a claim and stands in the spec; an [`Identity`] is what the server
//! found out itself.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::request_id::RequestId;

/// Who asks for something, as the server knows it.
///
/// Its one form in words is stored and sent: `server`, `local`, `token:NAME`, `oidc:ISSUER:SUBJECT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The server itself: the reaper, a configured rule, an end of the server.
    Server,
    /// A program of this machine, on a server that needs no token.
    Local,
    /// The holder of a token.
    Token {
        /// The token's name.
        name: String,
    },
    /// Somebody for whom an OIDC issuer vouches.
    Oidc {
        /// The issuer's name in the configuration; it has no colon.
        issuer: String,
        /// The subject, as the issuer names it.
        subject: String,
    },
}

/// A text that names no identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("an identity is server, local, token:NAME or oidc:ISSUER:SUBJECT")]
pub struct InvalidIdentity;

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Server => f.write_str("server"),
            Identity::Local => f.write_str("local"),
            Identity::Token { name } => write!(f, "token:{name}"),
            Identity::Oidc { issuer, subject } => write!(f, "oidc:{issuer}:{subject}"),
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        match (text, text.split_once(':')) {
            ("server", _) => Ok(Identity::Server),
            ("local", _) => Ok(Identity::Local),
            (_, Some(("token", name))) => Ok(Identity::Token { name: name.to_owned() }),
            (_, Some(("oidc", rest))) => {
                let (issuer, subject) = rest.split_once(':').ok_or(InvalidIdentity)?;
                Ok(Identity::Oidc { issuer: issuer.to_owned(), subject: subject.to_owned() })
            }
            (_, Some(_) | None) => Err(InvalidIdentity),
        }
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Who did something to a deployment: what the server knows, and what the client says, told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Who it is, as the server knows it.
    pub identity: Identity,
    /// Who it is, as the client says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// `alice (token:ci)`: the name is the client's claim, and what stands in brackets is what the server knows.
impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.actor {
            Some(actor) => write!(f, "{actor} ({})", self.identity),
            None => self.identity.fmt(f),
        }
    }
}

/// One thing that a caller may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look at projects, deployments and events.
    Read,
    /// Submit deployments, wait for a turn, run them as `run` does, and upload artifacts.
    Submit,
    /// Cancel deployments.
    Cancel,
    /// Run deployments as an agent.
    Work,
    /// Force a slot free.
    Release,
    /// Administer the server and its projects.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 6] = [Scope::Read, Scope::Submit, Scope::Cancel, Scope::Work, Scope::Release, Scope::Admin];

    /// Its name, as people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Submit => "submit",
            Scope::Cancel => "cancel",
            Scope::Work => "work",
            Scope::Release => "release",
            Scope::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no scope.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a scope is one of read, submit, cancel, work, release and admin")]
pub struct InvalidScope;

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(InvalidScope)
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// All that a caller can be allowed.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether this scope is one of them.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & bit(scope) != 0
    }

    /// Whether one of these is.
    pub fn has_any(self, scopes: &[Scope]) -> bool {
        scopes.iter().any(|scope| self.has(*scope))
    }

    /// Those that are in both sets.
    #[must_use]
    pub fn and(self, other: Scopes) -> Scopes {
        Scopes(self.0 & other.0)
    }

    /// Its members, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Scopes(scopes.into_iter().fold(0, |bits, scope| bits | bit(scope)))
    }
}

fn bit(scope: Scope) -> u8 {
    1 << scope as u8
}

/// Who calls, from where, and with which request: what the audit log keeps of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The address from which the request came.
    pub address: Option<IpAddr>,
    /// The request.
    pub request: Option<RequestId>,
}

impl Caller {
    /// The server itself.
    pub fn server() -> Self {
        Caller::new(Identity::Server)
    }

    /// Somebody, from an unknown place.
    pub fn new(identity: Identity) -> Self {
        Caller { identity: Arc::new(identity), address: None, request: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_back_from_its_words() {
        let subject = "repo:acme/web:ref:refs/heads/main".to_owned();
        for identity in [
            Identity::Server,
            Identity::Local,
            Identity::Token { name: "a: b".to_owned() },
            Identity::Oidc { issuer: "github".to_owned(), subject },
        ] {
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        for text in ["", "tok", "oidc:github", "user:x", "Local"] {
            assert_eq!(text.parse::<Identity>(), Err(InvalidIdentity), "{text}");
        }
    }

    #[test]
    fn a_set_of_scopes_has_what_was_put_in() {
        let some: Scopes = [Scope::Read, Scope::Release].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [Scope::Read, Scope::Release]);
        assert!(some.has_any(&[Scope::Admin, Scope::Read]) && !some.has_any(&[Scope::Admin]));
        assert_eq!(Scopes::all().iter().count(), Scope::ALL.len());
        assert_eq!(Scopes::all().and(some), some);
        assert!(Scope::ALL.into_iter().all(|scope| scope.as_str().parse() == Ok(scope)));
    }
}
