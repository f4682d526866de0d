//! A branch of a store's history, as the tables say which one they are. See decision 0043.

use uuid::Uuid;

use super::fault::DatabaseFault;

/// A branch of a store's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    /// The same on all branches.
    pub(super) store: Uuid,
    /// Another one on each.
    pub(super) name: Uuid,
    pub(super) era: i64,
    pub(super) system: Option<String>,
    pub(super) timeline: Option<i64>,
}

/// The relation of another branch to the known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kinship {
    Same,
    /// It contains the latest decisions.
    Newer,
    /// The known branch was made from it, or beside it.
    Older,
    /// It belongs to another store.
    Stranger,
}

impl Branch {
    /// The relation of `other` to this branch.
    pub(super) fn kinship(&self, other: &Branch) -> Kinship {
        if self.name == other.name {
            return Kinship::Same;
        }
        if self.store != other.store {
            return Kinship::Stranger;
        }
        let timelines = match (&self.system, &other.system, self.timeline, other.timeline) {
            (Some(own), Some(theirs), Some(known), Some(new)) if own == theirs && known != new => Some((known, new)),
            _ => None,
        };
        let (known, new) = timelines.unwrap_or((self.era, other.era));
        // Of two that were promoted independently, the one that was seen first counts as newer.
        if new > known { Kinship::Newer } else { Kinship::Older }
    }

    /// In one phrase.
    pub(super) fn in_words(&self) -> String {
        let timeline = self.timeline.map_or_else(|| "unknown".to_owned(), |timeline| timeline.to_string());
        format!("timeline {timeline}, branch {} ({})", self.era, self.name.simple())
    }
}

/// The row in which the tables record their branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) branch: Branch,
    pub(super) tables: String,
}

impl Row {
    /// The columns as text: store, branch, era, system, timeline, tables.
    pub(super) fn parse(cells: &[Option<String>]) -> Result<Row, DatabaseFault> {
        let broken = || DatabaseFault::Row("the row of the lineage cannot be read".to_owned());
        let [Some(store), Some(name), Some(era), system, timeline, Some(tables)] = cells else { return Err(broken()) };
        let uuid = |text: &str| Uuid::try_parse(text).map_err(|_| broken());
        Ok(Row {
            branch: Branch {
                store: uuid(store)?,
                name: uuid(name)?,
                era: era.parse().map_err(|_| broken())?,
                system: system.clone(),
                timeline: timeline.as_deref().map(str::parse).transpose().map_err(|_| broken())?,
            },
            tables: tables.clone(),
        })
    }
}
