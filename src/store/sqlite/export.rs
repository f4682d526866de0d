//! All rows of a store's file, for another engine.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, types::ValueRef};
use tokio::sync::mpsc;

use super::{
    backup::{check, existing},
    lock::Lock,
    open::reader_connection,
    place::OwnFile,
    schema,
};
use crate::store::{
    StoreError,
    copy::{CopiedTable, CopyPart, TABLES, Tally, Value},
};

/// How many rows are sent together at most,
const ROWS_LIMIT: usize = 500;
/// or how many bytes of them.
const BYTES_LIMIT: usize = 1 << 20;

/// A store's file that nobody else uses.
pub struct Export {
    path: PathBuf,
    db: Connection,
    // Closed after the connection.
    _file: OwnFile,
    _lock: Lock,
}

impl Export {
    /// Opens the file, and keeps every server out of it.
    ///
    /// # Errors
    /// [`StoreError`] with what to do about it.
    pub fn open(path: &Path) -> Result<Export, StoreError> {
        let path = existing(path)?;
        let lock = Lock::take(&path)?;
        let file = OwnFile::take(&path)?;
        check(&path)?;
        let db = reader_connection(&path)?;
        schema::require_newest(&db, &path.display().to_string())?;
        Ok(Export { path, db, _file: file, _lock: lock })
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn row_count(&self) -> Result<u64, StoreError> {
        let count = |table: &CopiedTable| {
            self.db.query_row(&format!("SELECT count(*) FROM {}", table.name), [], |row| row.get::<_, u64>(0))
        };
        TABLES.iter().map(count).sum::<rusqlite::Result<u64>>().map_err(|error| self.unreadable(&error))
    }

    /// Sends all rows of all tables, in order. Blocks.
    pub(in crate::store) fn send(&self, to: &mpsc::Sender<CopyPart>) -> Result<(), StoreError> {
        // Nobody writes to the file, but the transaction makes sure that this is one moment.
        let moment = self.db.unchecked_transaction().map_err(|error| self.unreadable(&error))?;
        for table in TABLES {
            let tally = self.send_table(&moment, table, to)?;
            to.blocking_send(CopyPart::End(tally)).map_err(|_| gone())?;
        }
        Ok(())
    }

    fn send_table(
        &self,
        db: &Connection,
        table: &CopiedTable,
        to: &mpsc::Sender<CopyPart>,
    ) -> Result<Tally, StoreError> {
        let failed = |error: rusqlite::Error| self.unreadable(&error);
        let mut known = db.prepare("SELECT name FROM pragma_table_info(?1)").map_err(failed)?;
        let known = known.query_map([table.name], |row| row.get(0)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        table.require_columns(&known.map_err(failed)?, true)?;
        let columns: Vec<_> = table.columns.iter().map(|column| column.derived.unwrap_or(column.name)).collect();
        let ask = format!("SELECT {} FROM {} ORDER BY {}", columns.join(", "), table.name, table.order);
        let mut statement = db.prepare(&ask).map_err(failed)?;
        let mut found = statement.query([]).map_err(failed)?;
        let (mut tally, mut rows, mut bytes) = (Tally::new(), Vec::new(), 0);
        while let Some(row) = found.next().map_err(failed)? {
            let mut values = Vec::with_capacity(columns.len());
            for (at, column) in table.columns.iter().enumerate() {
                let value = match row.get_ref(at).map_err(failed)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(number) => Value::Integer(number),
                    ValueRef::Text(text) => Value::Text(String::from_utf8(text.to_vec()).map_err(|_| {
                        StoreError::Unusable(format!("{}.{} is no UTF-8 in some row", table.name, column.name))
                    })?),
                    ValueRef::Blob(blob) => Value::Bytes(blob.to_vec()),
                    ValueRef::Real(_) => {
                        return Err(StoreError::Unusable(format!(
                            "{}.{} is no number of ours",
                            table.name, column.name
                        )));
                    }
                };
                bytes += match &value {
                    Value::Null | Value::Integer(_) => 8,
                    Value::Text(text) => text.len(),
                    Value::Bytes(bytes) => bytes.len(),
                };
                values.push(value);
            }
            tally.add(&values);
            rows.push(values);
            if rows.len() >= ROWS_LIMIT || bytes >= BYTES_LIMIT {
                to.blocking_send(CopyPart::Rows(std::mem::take(&mut rows))).map_err(|_| gone())?;
                bytes = 0;
            }
        }
        to.blocking_send(CopyPart::Rows(rows)).map_err(|_| gone())?;
        Ok(tally)
    }

    fn unreadable(&self, error: &rusqlite::Error) -> StoreError {
        schema::unreadable(error, &self.path.display().to_string())
    }
}

/// The receiver of the rows has failed, and reports the reason itself.
fn gone() -> StoreError {
    StoreError::Unavailable("the copy ended early".to_owned())
}
