//! Files that a CI reads: of a step's outputs and summary, and of a job's variables. A failed write is reported, and
//! changes nothing else.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// The files that the CI named for a step's outputs and summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The step's outputs.
    pub outputs: Option<PathBuf>,
    /// The job's summary, in Markdown.
    pub summary: Option<PathBuf>,
}

/// Appends a text to a file, on new lines.
///
/// # Errors
/// The path is not a file, cannot be written, or the file would be larger than `limit`.
pub fn append(path: &Path, text: &str, limit: u64) -> io::Result<()> {
    let mut file = open(path, OpenOptions::new().append(true))?;
    let length = file.metadata()?.len();
    // The existing text may lack a final line end. Both kinds of files may have empty lines.
    let text = if length > 0 { format!("\n{text}") } else { text.to_owned() };
    if length + text.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it would have more than {limit} bytes")));
    }
    file.write_all(text.as_bytes())
}

/// Replaces the file's content.
///
/// # Errors
/// The path is not a file, or cannot be written.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = open(path, OpenOptions::new().write(true).truncate(false))?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Opening a pipe that nobody reads would block.
    let no_wait = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = options.create(true).custom_flags(no_wait).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok(file)
}
