//! The tables of a store, row by row, for a copy from one engine to another: the engines write the same words into
//! columns of the same names, and the differences between them stand here. See decision 0019.

use sha2::{Digest as _, Sha256};

use super::StoreError;

/// This is added to each project's revision in a store that was restored or copied. The store does not know which
/// revisions were handed out since, and a fencing token must never be given twice. So many slot changes, a hundred a
/// day for 270 years, lie in between.
pub(super) const REVISION_LEAP: i64 = 10_000_000;

/// This is added to each project's count of deployments in a store that forgot some of its last deployments, so that no
/// number is given twice: more than a project's deployments between two backups, and few enough digits to be told over
/// the phone.
pub(super) const NUMBER_LEAP: i64 = 1_000;

/// Is told the progress: how much of the total is done.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    Integer,
    /// An integer that PostgreSQL keeps in two bytes.
    Small,
    /// A text that never contains NUL.
    Text,
    /// A text that users wrote: PostgreSQL keeps NUL escaped.
    FreeText,
    /// A deployment's id.
    Id,
    Bytes,
}

/// A column of both engines.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: ValueKind,
    /// The SQL by which SQLite computes it, where SQLite has no column of this name.
    pub(super) derived: Option<&'static str>,
}

/// A table of both engines.
pub(super) struct CopiedTable {
    pub(super) name: &'static str,
    pub(super) columns: &'static [Column],
    /// The order of its rows, the same in both engines.
    pub(super) order: &'static str,
    /// Whether its rows are numbered as they arrive.
    pub(super) is_numbered: bool,
}

/// A value, as both engines have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A message from one engine to the other.
pub(super) enum CopyPart {
    /// Rows of the table whose turn it is.
    Rows(Vec<Vec<Value>>),
    /// There are no more rows; this is the tally of all.
    End(Tally),
}

/// The number of rows, and a hash of all of them in their order.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) count: u64,
    hasher: Sha256,
}

macro_rules! columns {
    ($($kind:ident $name:ident $(= $derived:literal)?),* $(,)?) => {
        &[$(Column { name: stringify!($name), kind: ValueKind::$kind, derived: columns!(@ $($derived)?) }),*]
    };
    (@) => { None };
    (@ $derived:literal) => { Some($derived) };
}

/// All tables, each after those to which it refers.
#[rustfmt::skip]
pub(super) const TABLES: &[CopiedTable] = &[
    CopiedTable {
        name: "projects",
        columns: columns![
            Integer number, Text name, Integer revision, Integer waiting_count, Integer last_started_order,
            Id last_started, Integer preempted_count, Text recent_runs, Id last_outcome,
            Integer deployment_count, Text last_started_named, Id last_success, Text pause, Text set_mark,
        ],
        order: "number",
        is_numbered: true,
    },
    CopiedTable {
        name: "deployments",
        columns: columns![
            Integer number, Id id, Integer project, Integer ticket, Integer revision, Text state, Integer window_ms,
            Text executor, Integer deadline_seconds = "spec ->> '$.deadlineSeconds'",
            Integer build_order = "iif(spec ->> '$.rollback', NULL, spec ->> '$.order')", Integer line_place, Integer pulse, Small progress,
            Integer event_count, Integer report_count, Integer created_at, Integer started_at,
            Integer last_heartbeat_at, Integer ended_at, Bytes lease_secret, Integer fencing_token,
            Integer lease_ttl_ms, FreeText worker, Text cause, FreeText cause_message, FreeText cause_phase,
            Id superseded_by, Integer cancel_requested_at, FreeText cancel_reason, Id cancel_superseded_by,
            Integer log_total_bytes, Integer log_head_end_seq, Integer log_trimmed_at_bytes, FreeText message,
            FreeText phase, Text spec, Text outputs, Integer short_number,
            Text cancel_superseded_by_named, Text rollbacks, Text cancel_requested_by, Text released_by,
            Bytes sealed_inputs,
        ],
        order: "number",
        is_numbered: true,
    },
    CopiedTable {
        name: "events",
        columns: columns![Integer deployment, Integer seq, Integer at, Text type, Integer log_end_bytes, Text body],
        order: "deployment, seq",
        is_numbered: false,
    },
    CopiedTable {
        name: "idempotency_keys",
        columns: columns![Integer project, Text key, Bytes fingerprint, Integer deployment],
        order: "project, key",
        is_numbered: false,
    },
    CopiedTable {
        name: "audit",
        columns: columns![
            Integer number, Integer at, Text project, Text action, Id deployment, FreeText detail, FreeText caller,
            Text address, Text request, Integer count,
        ],
        order: "number",
        is_numbered: true,
    },
    CopiedTable {
        name: "tokens",
        columns: columns![
            Integer number, Id id, Text name, Bytes sha256, Text scopes, Text projects, Integer created_at,
            FreeText created_by, Integer expires_at, Integer last_used_at, Integer revoked_at, FreeText revoked_by,
            Integer change, Text session,
        ],
        order: "number",
        is_numbered: true,
    },
    CopiedTable {
        name: "notifications",
        columns: columns![
            Integer number, Text id, Text rule, Text event, Text project, Id deployment, Text lane, FreeText detail, Integer at,
            Text state, Integer attempt_count, Integer claim_number, Integer due_at, Integer claimed_until, FreeText error,
            Integer dead_at,
        ],
        order: "number",
        is_numbered: true,
    },
    CopiedTable {
        name: "output_blocks",
        columns: columns![Integer deployment, Integer first_seq, Integer last_seq, Integer raw_bytes, Bytes body],
        order: "deployment, first_seq",
        is_numbered: false,
    },
    CopiedTable {
        name: "packed_outputs",
        columns: columns![
            Integer deployment, Integer project, Integer ticket, Integer ended_at, Integer raw_bytes, Integer packed_bytes,
        ],
        order: "deployment",
        is_numbered: false,
    },
    CopiedTable { name: "upkeep", columns: columns![Text name, Integer value], order: "name", is_numbered: false },
    CopiedTable { name: "revision_floor", columns: columns![Integer number, Integer revision], order: "number", is_numbered: false },
    CopiedTable { name: "secrets", columns: columns![Text name, Bytes value], order: "name", is_numbered: false },
];

impl CopiedTable {
    /// The names of its columns, as they are asked for.
    pub(super) fn names(&self) -> String {
        self.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
    }

    /// Fails for a table whose columns differ from those that are known here.
    pub(super) fn require_columns(&self, found: &[String], is_derived: bool) -> Result<(), StoreError> {
        let mut known: Vec<_> = self
            .columns
            .iter()
            .filter(|column| !is_derived || column.derived.is_none())
            .map(|column| column.name.to_owned())
            .collect();
        let mut found = found.to_vec();
        known.sort();
        found.sort();
        if known == found {
            return Ok(());
        }
        Err(StoreError::Unusable(format!("{} has other columns than this version of singletrack copies", self.name)))
    }
}

impl Tally {
    pub(super) fn new() -> Self {
        Tally { count: 0, hasher: Sha256::new() }
    }

    /// Counts a row in.
    pub(super) fn add(&mut self, row: &[Value]) {
        self.count += 1;
        for value in row {
            // Each value goes in with its kind and length, so that no two different rows look alike.
            match value {
                Value::Null => self.hasher.update([0]),
                Value::Integer(number) => {
                    self.hasher.update([1]);
                    self.hasher.update(number.to_be_bytes());
                }
                Value::Text(text) => self.add_bytes(2, text.as_bytes()),
                Value::Bytes(bytes) => self.add_bytes(3, bytes),
            }
        }
    }

    fn add_bytes(&mut self, kind: u8, bytes: &[u8]) {
        self.hasher.update([kind]);
        self.hasher.update((bytes.len() as u64).to_be_bytes());
        self.hasher.update(bytes);
    }

    /// Whether both counted the same rows.
    pub(super) fn agrees(&self, other: &Tally) -> bool {
        self.count == other.count && self.hasher.clone().finalize() == other.hasher.clone().finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_tells_rows_that_look_alike_apart() {
        let text = |text: &str| Value::Text(text.to_owned());
        let rows: &[&[Vec<Value>]] = &[
            &[],
            &[vec![text("ab"), text("c")]],
            &[vec![text("a"), text("bc")]],
            &[vec![text("a")], vec![text("bc")]],
            &[vec![Value::Bytes(b"ab".to_vec()), text("c")]],
            &[vec![Value::Null, text("abc")]],
            &[vec![Value::Integer(0), text("abc")]],
        ];
        let tallies: Vec<Tally> = rows
            .iter()
            .map(|rows| {
                let mut tally = Tally::new();
                rows.iter().for_each(|row| tally.add(row));
                tally
            })
            .collect();
        for (at, one) in tallies.iter().enumerate() {
            for (other_at, other) in tallies.iter().enumerate() {
                assert_eq!(one.agrees(other), at == other_at, "{at} and {other_at}");
            }
        }
    }
}
