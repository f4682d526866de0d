//! The help of every command, as it is shown in a terminal of 80 columns. After a change that is meant:
//! `INSTA_UPDATE=always INSTA_FORCE_PASS=1 cargo test --test it cli_help`, and look at the difference.

use std::process::{Command, Stdio};

use clap::CommandFactory;
use singletrack::cli::Cli;

use crate::harness::SINGLETRACK;

/// The words that lead to each command; none for the program itself.
fn paths(command: &clap::Command, to: &[String]) -> Vec<Vec<String>> {
    let mut all = vec![to.to_vec()];
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let mut path = to.to_vec();
        path.push(sub.get_name().to_owned());
        all.extend(paths(sub, &path));
    }
    all
}

fn help(path: &[String], flag: &str) -> String {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("COLUMNS", "80").args(path).arg(flag).stdin(Stdio::null());
    let output = command.output().expect("it runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{path:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_help_is_as_reviewed() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots/help");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in paths(&Cli::command(), &[]) {
            let name = [&["singletrack".to_owned()], path.as_slice()].concat().join("_");
            insta::assert_snapshot!(name, help(&path, "--help"));
        }
    });
}

/// The flags under "Server:".
const SERVER_FLAGS: [&str; 4] = ["--server", "--token-file", "--oidc-audience", "--ca-cert"];

#[test]
fn every_help_fits_a_terminal_of_80_columns_and_groups_its_flags() {
    for path in paths(&Cli::command(), &[]) {
        let short = help(&path, "-h");
        let too_wide: Vec<_> = short.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(too_wide.is_empty(), "{path:?}: {too_wide:?}");
        let server = short.split("\nServer:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
        let flags = server.split_whitespace().filter(|word| word.starts_with("--"));
        let strange: Vec<_> = flags.filter(|flag| !SERVER_FLAGS.contains(flag)).collect();
        assert!(strange.is_empty(), "{path:?} has under \"Server:\" {strange:?}");
    }
}
