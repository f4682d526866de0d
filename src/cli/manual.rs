//! `completions` and `man`: made from the command line's own definition.

use std::{fs, io, path::PathBuf};

use clap::{Args, Command};

use super::{
    exit::{Exit, Failure},
    screen::print,
};

/// `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write a page for each command into this folder
    #[arg(long, value_name = "FOLDER")]
    pub out_dir: Option<PathBuf>,
}

/// Prints a shell's completion script.
///
/// # Errors
/// It cannot be written.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "singletrack", &mut script);
    print::raw_result(&script).map_err(unwritten)?;
    Ok(Exit::Done)
}

/// Prints the manual page, or writes one for each command.
///
/// # Errors
/// It cannot be written.
pub fn man(args: &ManArgs, command: Command) -> Result<Exit, Failure> {
    match &args.out_dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(unwritten)?;
            print::raw_result(&page).map_err(unwritten)?;
        }
        Some(folder) => fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(command, folder))
            .map_err(|error| Failure::new(Exit::Usage, format!("--out-dir {}: {error}", folder.display())))?,
    }
    Ok(Exit::Done)
}

fn unwritten(error: io::Error) -> Failure {
    Failure::new(Exit::Fault, format!("the text cannot be written: {error}"))
}
