//! Rows of parameters as columns of arrays, for a statement that writes many rows at once.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::session::Param;

/// Rows that a statement takes as one array for each column.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Vec<Cell>>,
}

impl Table {
    /// One without rows.
    pub(super) fn new(width: usize) -> Self {
        Table { columns: (0..width).map(|_| Vec::new()).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.columns.first().is_none_or(Vec::is_empty)
    }

    /// Adds a row, which has as many cells as the table is wide.
    pub(super) fn add(&mut self, row: Vec<Param>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a row is as wide as its table");
        for (column, cell) in self.columns.iter_mut().zip(row) {
            column.push(Cell(cell));
        }
    }

    /// The columns.
    pub(super) fn into_params(self) -> impl Iterator<Item = Param> {
        self.columns.into_iter().map(|column| Box::new(column) as Param)
    }
}

/// An element of an array, of whatever type it is.
#[derive(Debug)]
struct Cell(Param);

impl ToSql for Cell {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.to_sql_checked(ty, out)
    }

    fn accepts(_: &Type) -> bool {
        // Each one looks for itself when it is written.
        true
    }

    to_sql_checked!();
}
