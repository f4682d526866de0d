//! `version`: which build this is.

use super::{
    exit::{Exit, Failure},
    render::print,
};
use crate::{cli::Version, version::BUILD};

/// Prints the version, the commit and the date.
///
/// # Errors
/// It cannot be written.
pub fn run(args: &Version) -> Result<Exit, Failure> {
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
    written.map_err(|error| Failure::new(Exit::Fault, format!("it cannot be written: {error}")))?;
    Ok(Exit::Done)
}
