//! Looks for a command before the slot is taken: a typing error must not cost anybody a place in line.

use std::{
    env,
    ffi::OsStr,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{Access, access};

use crate::client::exit::{Exit, Failure};

/// What a shell answers for a command that is not there.
const NOT_FOUND: Exit = Exit::Command(127);
/// What a shell answers for a command that cannot be run.
pub(super) const NOT_EXECUTABLE: Exit = Exit::Command(126);

/// Whether the command can be run, as the system would look for it.
pub(super) fn check(name: &OsStr) -> Result<(), Failure> {
    let shown = name.to_string_lossy();
    let found = if name.as_bytes().contains(&b'/') {
        Some(PathBuf::from(name)).filter(|path| path.exists())
    } else {
        let candidates: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(name))
            .filter(|path| path.is_file())
            .collect();
        candidates.iter().find(|path| is_executable(path)).or(candidates.first()).cloned()
    };
    match found {
        Some(path) if is_executable(&path) => Ok(()),
        Some(path) if path.is_dir() => Err(Failure::new(NOT_EXECUTABLE, format!("{shown} is a folder"))),
        Some(path) => Err(Failure::new(NOT_EXECUTABLE, format!("{} is not executable", path.display()))
            .hint(format!("`chmod +x {}`, or name what runs it: `-- sh {0}`", path.display()))),
        None => Err(Failure::new(NOT_FOUND, format!("there is no command {shown}"))
            .hint("the command and its arguments stand after `--`, each by itself: `-- ./deploy.sh production`")),
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// Becomes the command: nothing of this process is left then.
pub(super) fn become_it(command: &[std::ffi::OsString]) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return Failure::new(Exit::Usage, "there is no command");
    };
    let error = Command::new(program).args(arguments).exec();
    Failure::new(NOT_EXECUTABLE, format!("{} cannot be run: {error}", program.to_string_lossy()))
}
