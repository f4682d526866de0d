//! `explain`: what an error code or an exit code means, and what to do.

use clap::Args;

use super::{
    exit::{Exit, Failure},
    screen::{print, table},
};
use crate::explain::{PAGES, find, nearest};

/// `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The code, such as PHASE_FAILED or 121; without one, all are listed
    pub code: Option<String>,
}

/// Prints the page of a code, or a list of all codes.
///
/// # Errors
/// There is no such code, or it cannot be written.
pub fn run(args: &ExplainArgs) -> Result<Exit, Failure> {
    let lines = match &args.code {
        Some(code) => page(code)?,
        None => list(),
    };
    lines
        .iter()
        .try_for_each(|line| print::result(line))
        .map_err(|error| Failure::new(Exit::Fault, format!("the text cannot be written: {error}")))?;
    Ok(Exit::Done)
}

fn page(code: &str) -> Result<Vec<String>, Failure> {
    if let Some(page) = find(code) {
        return Ok(page.text.lines().map(str::to_owned).collect());
    }
    let near = nearest(code);
    let near = if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(", ")) };
    Err(Failure::new(Exit::Usage, format!("there is no code '{code}'"))
        .hint(format!("{near}`singletrack explain` lists all codes")))
}

fn list() -> Vec<String> {
    let row = |page: &crate::explain::ExplainPage| vec![page.heading().to_owned(), page.title().to_owned()];
    let (exits, errors): (Vec<_>, Vec<_>) = PAGES.iter().partition(|page| page.code.parse::<u8>().is_ok());
    let mut lines = vec!["Exit codes:".to_owned()];
    lines.extend(table::indented(&exits.into_iter().map(row).collect::<Vec<_>>(), 2));
    lines.extend([String::new(), "Error codes:".to_owned()]);
    lines.extend(table::indented(&errors.into_iter().map(row).collect::<Vec<_>>(), 2));
    lines.extend([String::new(), "`singletrack explain CODE` tells the cause and what to do.".to_owned()]);
    lines
}
