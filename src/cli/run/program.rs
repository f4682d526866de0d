//! Looks for a command before the slot is taken: a typing error must not take the slot.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{Access, access};

use crate::cli::exit::{Exit, Failure};

/// A shell's exit code for a command that does not exist.
const NOT_FOUND: Exit = Exit::Command(127);
/// A shell's exit code for a command that cannot be run.
pub(super) const NOT_EXECUTABLE: Exit = Exit::Command(126);

/// Where the C library looks where there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// How much of a file the kernel reads to find its interpreter.
const INTERPRETER_LIMIT: u64 = 256;

/// Whether the command can be run, as the system would look for it.
pub(super) fn check(name: &OsStr) -> Result<(), Failure> {
    let shown = name.to_string_lossy();
    let found = if name.as_bytes().contains(&b'/') {
        Some(PathBuf::from(name)).filter(|path| path.exists())
    } else {
        let candidates: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
            .map(|folder| folder.join(name))
            .filter(|path| path.is_file())
            .collect();
        candidates.iter().find(|path| is_executable(path)).or(candidates.first()).cloned()
    };
    match found {
        Some(path) if is_executable(&path) => check_interpreter(&path),
        Some(path) if path.is_dir() => Err(Failure::new(NOT_EXECUTABLE, format!("{shown} is a folder"))),
        Some(path) => Err(Failure::new(NOT_EXECUTABLE, format!("{} is not executable", path.display()))
            .hint(format!("`chmod +x {}`, or name what runs it: `-- sh {0}`", path.display()))),
        None => Err(Failure::new(NOT_FOUND, format!("there is no command {shown}"))
            .hint("the command and its arguments stand after `--`, each by itself: `-- ./deploy.sh production`")),
    }
}

/// Whether a script's interpreter exists: `#!/bin/sh` in its first line, for one.
fn check_interpreter(script: &Path) -> Result<(), Failure> {
    let mut beginning = Vec::new();
    // A program without read permission can still be run, if it is not a script.
    let read = File::open(script).and_then(|file| file.take(INTERPRETER_LIMIT).read_to_end(&mut beginning));
    let Some(rest) = beginning.strip_prefix(b"#!").filter(|_| read.is_ok()) else { return Ok(()) };
    let shown = script.display();
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.ends_with(b"\r") {
        let message = format!("{shown} has the line ends of Windows, so its interpreter is not found");
        return Err(Failure::new(NOT_EXECUTABLE, message)
            .hint(format!("`sed -i 's/\\r$//' {shown}`, and `*.sh text eol=lf` in .gitattributes")));
    }
    let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    let Some(interpreter) = words.next().map(|word| Path::new(OsStr::from_bytes(word))) else { return Ok(()) };
    if !interpreter.exists() {
        let message = format!("{shown} cannot be run: its interpreter {} is not there", interpreter.display());
        return Err(Failure::new(NOT_EXECUTABLE, message).hint("install it, or name another one in the first line"));
    }
    if !is_executable(interpreter) {
        let message = format!("{shown} cannot be run: its interpreter {} is not executable", interpreter.display());
        return Err(Failure::new(NOT_EXECUTABLE, message));
    }
    Ok(())
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// Replaces this process by the command (exec).
pub(super) fn become_it(command: &[std::ffi::OsString]) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return Failure::new(Exit::Usage, "there is no command");
    };
    let error = Command::new(program).args(arguments).exec();
    Failure::new(NOT_EXECUTABLE, format!("{} cannot be run: {error}", program.to_string_lossy()))
}
