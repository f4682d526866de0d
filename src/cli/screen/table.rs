//! Tables of plain text: as wide as their longest cells, or as the terminal, whose width the longest cells give way to.

use super::{
    fit::{cut, width},
    print,
};

/// What no cell is made narrower than; the second column, a status for the most part, is kept readable.
const NARROWEST: usize = 6;
const NARROWEST_SECOND: usize = 9;

/// Lines of a table; the first row is its head. The last column is not padded.
pub fn lines(rows: &[Vec<String>]) -> Vec<String> {
    lines_within(rows, print::result_columns())
}

/// The same, indented.
pub fn indented(rows: &[Vec<String>], by: usize) -> Vec<String> {
    let limit = print::result_columns().map(|columns| columns.saturating_sub(by));
    lines_within(rows, limit).into_iter().map(|line| format!("{}{line}", " ".repeat(by))).collect()
}

fn lines_within(rows: &[Vec<String>], limit: Option<usize>) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..count).map(widest).collect();
    if let Some(limit) = limit {
        shrink(&mut widths, limit);
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, columns)| {
            let cell = cut(cell, *columns);
            let padding = " ".repeat(columns.saturating_sub(width(&cell)));
            cell + &padding
        });
        let line = cells.collect::<Vec<_>>().join("  ").trim_end().to_owned();
        limit.map_or(line.clone(), |limit| cut(&line, limit))
    };
    rows.iter().map(line).collect()
}

/// Takes from the widest columns first. The first column names the row, and stays.
fn shrink(widths: &mut [usize], limit: usize) {
    let gaps = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let least = |column: usize| if column == 1 { NARROWEST_SECOND } else { NARROWEST };
        let wide = widths.iter().enumerate().skip(1).filter(|(column, width)| **width > least(*column));
        let Some((column, _)) = wide.max_by_key(|(_, width)| **width) else { return };
        widths[column] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn columns_stand_under_their_heads() {
        let table = rows(&[&["ID", "STATUS"], &["1", "x"], &["100", ""]]);
        assert_eq!(lines_within(&table, None), ["ID   STATUS", "1    x", "100"]);
        assert!(lines_within(&[], None).is_empty());
    }

    #[test]
    fn wide_characters_are_aligned_and_the_longest_cells_give_way() {
        let table = rows(&[&["ID", "STATUS", "SOURCE", "TOOK"], &["#1", "FAILED", "日本語の枝@3f2a1b2c4d", "4s"]]);
        assert_eq!(
            lines_within(&table, None),
            ["ID  STATUS  SOURCE                 TOOK", "#1  FAILED  日本語の枝@3f2a1b2c4d  4s"]
        );
        assert_eq!(lines_within(&table, Some(30)), ["ID  STATUS  SOURCE        TOOK", "#1  FAILED  日本語の枝@…  4s"]);
        assert!(lines_within(&table, Some(20)).iter().all(|line| width(line) <= 20));
    }
}
