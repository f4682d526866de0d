//! `check-config`: says whether a configuration is valid.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use jiff::Timestamp;

use super::{
    screen::print as screen,
    service::{EX_CONFIG, fail, print},
};
use crate::config::Config;

/// `check-config`.
#[derive(Args, Clone, Debug)]
pub struct CheckConfigArgs {
    /// The configuration
    #[arg(value_name = "FILE", default_value = "singletrack.toml")]
    pub path: PathBuf,
}

/// Says whether a configuration is valid.
pub fn check_config(args: &CheckConfigArgs) -> ExitCode {
    match Config::load(Some(&args.path)) {
        Ok(config) => {
            if let Some(why) = config.tls.as_ref().and_then(|tls| tls.outdated(Timestamp::now())) {
                return fail(EX_CONFIG, &format!("{}: {why}", args.path.display()));
            }
            let (path, project_count) = (args.path.display(), config.projects.len());
            let pipeline_count: usize = config.projects.values().map(|project| project.pipelines.len()).sum();
            print(&format!("{path} is valid: projects: {project_count}, pipelines: {pipeline_count}"));
            config.warnings().iter().for_each(|warning| screen::warning(warning));
            ExitCode::SUCCESS
        }
        Err(error) => fail(EX_CONFIG, &error.to_string()),
    }
}
