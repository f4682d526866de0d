//! Reading the command line: variables that are empty count as not set, and a deployment's name brings its project.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, error::ErrorKind, parser::ValueSource};

use crate::model::{DeploymentName, ProjectName};

/// Reads arguments and variables. An empty variable counts as not set, because CI systems set an empty value where the
/// real value does not exist.
pub(super) fn read<T: CommandFactory + FromArgMatches>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<T, clap::Error> {
    let args: Vec<_> = args.into_iter().collect();
    let mut command = without_empty_variables(T::command());
    // A flag wins over a variable; `--no-order` also wins over the variable of `--order`.
    if args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--no-order") {
        command = without_variable(command, "order");
    }
    let args = with_project_of_deployment(&mut command, args)?;
    let matches = command.try_get_matches_from(args)?;
    T::from_arg_matches(&matches)
}

/// Adds `--project` for a deployment's name that has the project, as in `status web#17`. That project wins over
/// the variable.
fn with_project_of_deployment(
    command: &mut clap::Command,
    mut args: Vec<OsString>,
) -> Result<Vec<OsString>, clap::Error> {
    if !args.iter().any(|arg| arg.as_encoded_bytes().contains(&b'#')) {
        return Ok(args);
    }
    // Other errors are found by the full parse below.
    let Ok(matches) = without_need_of_project(command.clone()).try_get_matches_from(&args) else { return Ok(args) };
    let Some((verb, matches)) = matches.subcommand() else { return Ok(args) };
    let named =
        ["id", "deployment"].into_iter().find_map(|id| matches.try_get_one::<DeploymentName>(id).ok().flatten());
    let Some(named) = named else { return Ok(args) };
    let Some(project) = &named.project else { return Ok(args) };
    if matches.value_source("project") == Some(ValueSource::CommandLine) {
        return match matches.get_one::<ProjectName>("project") {
            Some(other) if other != project => {
                let message =
                    format!("--project is {other}, but {named} is a deployment of {project}; leave one of them out");
                Err(command.error(ErrorKind::ArgumentConflict, message))
            }
            Some(_) | None => Ok(args),
        };
    }
    let flag = format!("--project={project}").into();
    let at = args.iter().position(|arg| arg == verb).map_or(args.len(), |at| at + 1);
    args.insert(at, flag);
    Ok(args)
}

fn without_need_of_project(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| if arg.get_id() == "project" { arg.required(false) } else { arg });
    command.mut_subcommands(without_need_of_project)
}

fn without_variable(command: clap::Command, id: &'static str) -> clap::Command {
    let command = command.mut_args(|arg| if arg.get_id() == id { arg.env(None::<&'static str>) } else { arg });
    command.mut_subcommands(|command| without_variable(command, id))
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg });
    command.mut_subcommands(without_empty_variables)
}
