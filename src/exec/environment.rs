//! The environment of a phase's command. See decision 0038.

use std::ffi::{OsStr, OsString};

use super::job::Job;
use crate::model::bounds::input_variable;

/// The whole environment of a phase's command: the variables of the server or agent that `pass_env` lets through, and
/// the deployment's values. The variables that configure the server or agent itself are never among them.
///
/// Each input `name` becomes `INPUT_NAME`: upper case, with `_` for each character that is no letter or digit. It is
/// GitHub's convention, and with it no input can shadow `PATH` or `LD_PRELOAD`.
pub(super) fn environment(
    inherited: impl IntoIterator<Item = (OsString, OsString)>,
    job: &Job,
    phase: &str,
) -> Vec<(OsString, OsString)> {
    let passes = |name: &OsStr| name.to_str().is_some_and(|name| job.pass_env.passes(name));
    let mut environment: Vec<_> = inherited.into_iter().filter(|(name, _)| passes(name)).collect();
    let mut set = |name: String, value: &str| environment.push((name.into(), value.into()));
    set("SINGLETRACK_FENCING_TOKEN".into(), &job.fencing_token.to_string());
    set("SINGLETRACK_DEPLOYMENT_ID".into(), &job.deployment_id);
    set("SINGLETRACK_DEPLOYMENT_NUMBER".into(), &job.deployment_number.map(|it| it.to_string()).unwrap_or_default());
    set("SINGLETRACK_PROJECT".into(), &job.project);
    set("SINGLETRACK_PIPELINE".into(), &job.pipeline_name);
    set("SINGLETRACK_PHASE".into(), phase);
    // Set even when unknown, so that a script under `set -u` does not fail.
    set("SINGLETRACK_REF".into(), job.ref_name.as_deref().unwrap_or_default());
    set("SINGLETRACK_COMMIT".into(), job.commit.as_deref().unwrap_or_default());
    if let Some(url) = &job.server_url {
        set("SINGLETRACK_URL".into(), url);
    }
    for (name, value) in &job.inputs {
        set(input_variable(name), value);
    }
    environment
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::{
        config::{PassEnv, Pipeline},
        exec::ShimProgram,
    };

    #[test]
    fn neither_the_servers_token_nor_its_own_inputs_reach_a_command() {
        let job = Job {
            deployment_id: "id".into(),
            deployment_number: Some(17),
            project: "web".into(),
            pipeline_name: "deploy".into(),
            pipeline: Pipeline {
                timeout: Duration::ZERO,
                is_timeout_given: false,
                stall_timeout: None,
                phases: Vec::new(),
            },
            ref_name: None,
            commit: None,
            fencing_token: 3,
            pass_env: PassEnv::default(),
            inputs: BTreeMap::from([("ld-preload".into(), "x".into())]),
            secret_inputs: Default::default(),
            workspace: "/w".into(),
            artifact: None,
            unpack_limits: crate::exec::archive::UnpackLimits::default(),
            grace: Duration::ZERO,
            kill_budget: Duration::ZERO,
            server_url: None,
            shim: ShimProgram::default(),
            lease_deadline: None,
        };
        let inherited = [
            ("PATH", "/bin"),
            ("SINGLETRACK_TOKEN", "secret"),
            ("SINGLETRACK_URL", "u"),
            ("INPUT_OLD", "o"),
            ("X", "x"),
        ];
        let inherited = inherited.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let environment: BTreeMap<_, _> = environment(inherited, &job, "one").into_iter().collect();
        let get = |name: &str| environment.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!(get("PATH"), Some("/bin"));
        assert_eq!(get("INPUT_LD_PRELOAD"), Some("x"));
        assert_eq!(get("SINGLETRACK_REF"), Some(""));
        for absent in ["SINGLETRACK_TOKEN", "SINGLETRACK_URL", "INPUT_OLD", "LD_PRELOAD", "X"] {
            assert_eq!(get(absent), None, "{absent}");
        }
    }
}
