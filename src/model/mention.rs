//! How a text about one deployment names another one to people: `web#17 of alice at 3f2a91c`. See decision 0051.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ids::{DeploymentId, InvalidId, ProjectName};

/// How many digits of a commit are shown.
const COMMIT_DIGITS: usize = 10;

/// The facts by which people know a deployment. They never change, so they are kept wherever the deployment is
/// mentioned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its number in its project.
    pub number: u64,
    /// The person or system that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// A deployment that is mentioned beside another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// Its project.
    pub project: ProjectName,
    /// Its id.
    pub id: DeploymentId,
    /// Its number, actor and commit; not known where a version without numbers has recorded the mention, nor for a
    /// deployment that is only planned.
    pub named: Option<Named>,
}

impl Mention {
    /// Its name for people: `web#17`.
    pub fn name(&self) -> String {
        match &self.named {
            Some(Named { number, .. }) => format!("{}#{number}", self.project),
            None => format!("deployment {}", self.id),
        }
    }

    /// How a command names it: by its number, or by its id where the number is not known. The number has no `#`,
    /// because `#` begins a comment in a shell.
    pub fn argument(&self) -> String {
        self.named.as_ref().map_or_else(|| self.id.to_string(), |named| named.number.to_string())
    }

    /// A deployment of which only the id is known.
    pub fn unnamed(project: ProjectName, id: DeploymentId) -> Self {
        Mention { project, id, named: None }
    }
}

impl fmt::Display for Mention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        let Some(Named { number: _, actor, commit }) = &self.named else { return Ok(()) };
        if let Some(actor) = actor {
            write!(f, " of {actor}")?;
        }
        match commit {
            Some(commit) => write!(f, " at {}", short(commit)),
            None => Ok(()),
        }
    }
}

/// The first digits of a commit's hash; anything else as it is.
pub fn short(commit: &str) -> &str {
    let is_hash = commit.len() > COMMIT_DIGITS + 2 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { &commit[..COMMIT_DIGITS] } else { commit }
}

/// How a user names a deployment of a project: by its id, or by its number as `17`, `#17` or `web#17`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentName {
    /// The project that stands before the number, if one does.
    pub project: Option<ProjectName>,
    /// Which deployment.
    pub which: Which,
}

/// Which deployment of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one with this id.
    Id(DeploymentId),
    /// The one with this number.
    Number(u64),
}

impl DeploymentName {
    /// Whether it can be a deployment of this project.
    pub fn is_of(&self, project: &ProjectName) -> bool {
        self.project.as_ref().is_none_or(|named| named == project)
    }
}

impl From<DeploymentId> for DeploymentName {
    fn from(id: DeploymentId) -> Self {
        DeploymentName { project: None, which: Which::Id(id) }
    }
}

impl FromStr for DeploymentName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (project, number) = match text.split_once('#') {
            None => (None, text),
            Some(("", number)) => (None, number),
            Some((project, number)) => (Some(project.parse().map_err(|_| InvalidId::DeploymentName)?), number),
        };
        // Plain digits, and no zero before them: one deployment has one name of each kind.
        let is_number = !number.starts_with('0') && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        match number.parse() {
            Ok(number) if is_number => Ok(DeploymentName { project, which: Which::Number(number) }),
            Ok(_) | Err(_) if number.len() == text.len() => match text.parse::<DeploymentId>() {
                Ok(id) => Ok(id.into()),
                Err(_) => Err(InvalidId::DeploymentName),
            },
            Ok(_) | Err(_) => Err(InvalidId::DeploymentName),
        }
    }
}

/// As a path and a body have it: the project stands elsewhere in them.
impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Id(id) => id.fmt(f),
            Which::Number(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for DeploymentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.project, self.which) {
            (Some(project), Which::Number(number)) => write!(f, "{project}#{number}"),
            (None, Which::Number(number)) => write!(f, "#{number}"),
            (_, Which::Id(id)) => id.fmt(f),
        }
    }
}

impl Serialize for DeploymentName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeploymentName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_a_deployment_with_and_without_its_project() {
        let web: ProjectName = "web".parse().expect("a name");
        let number =
            |project: Option<&ProjectName>| DeploymentName { project: project.cloned(), which: Which::Number(17) };
        assert_eq!("17".parse(), Ok(number(None)));
        assert_eq!("#17".parse(), Ok(number(None)));
        assert_eq!("web#17".parse(), Ok(number(Some(&web))));
        let id = DeploymentId::from_bytes([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(DeploymentName::from(id)));
        assert!(number(Some(&web)).is_of(&web) && number(None).is_of(&web));
        assert!(!number(Some(&web)).is_of(&"api".parse().expect("a name")));
    }

    #[test]
    fn what_is_neither_a_number_nor_an_id_names_no_deployment() {
        let id = DeploymentId::from_bytes([7; 16]).to_string();
        let wrong =
            ["", "#", "0", "017", "+17", "-1", "1.5", "17 ", "web#", "web#0", "#web", "web#17#1", "we b#17", "٣"];
        for wrong in wrong.into_iter().chain([&*format!("#{id}"), &*format!("web#{id}"), "99999999999999999999"]) {
            assert_eq!(wrong.parse::<DeploymentName>(), Err(InvalidId::DeploymentName), "{wrong:?}");
        }
    }

    #[test]
    fn a_mention_says_what_is_known() {
        let project: ProjectName = "web".parse().expect("a name");
        let of = |actor: Option<&str>, commit: Option<&str>| {
            let named = Named { number: 17, actor: actor.map(str::to_owned), commit: commit.map(str::to_owned) };
            let (project, id) = (project.clone(), DeploymentId::from_bytes([7; 16]));
            Mention { project, id, named: Some(named) }.to_string()
        };
        let hash = "3f2a1b2c4d5e6f708192a3b4c5d6e7f801234567";
        assert_eq!(of(Some("alice"), Some(hash)), "web#17 of alice at 3f2a1b2c4d");
        assert_eq!(of(Some("alice"), None), "web#17 of alice");
        assert_eq!(of(None, Some("v1.2.3")), "web#17 at v1.2.3");
        assert_eq!(of(None, None), "web#17");
        let unnamed = Mention::unnamed(project, DeploymentId::from_bytes([7; 16]));
        assert_eq!(unnamed.to_string(), "deployment 07070707-0707-0707-0707-070707070707");
    }
}
