//! `version`: which build this is.

use clap::Args;

use super::{
    exit::{Exit, Failure},
    screen::print,
};
use crate::version::BUILD;

/// `version`.
#[derive(Args, Clone, Debug)]
pub struct VersionArgs {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints the version, the commit and the date.
///
/// # Errors
/// It cannot be written.
pub fn run(args: &VersionArgs) -> Result<Exit, Failure> {
    let written = if args.json {
        print::json(&BUILD)
    } else {
        let lines = [
            format!("singletrack {}", BUILD.version),
            format!("commit  {}", BUILD.commit),
            format!("built   {}", BUILD.built_at),
        ];
        lines.iter().try_for_each(|line| print::result(line))
    };
    written.map_err(|error| Failure::new(Exit::Fault, format!("the text cannot be written: {error}")))?;
    Ok(Exit::Done)
}
