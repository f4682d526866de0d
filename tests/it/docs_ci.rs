//! The recipes for CI systems that the documentation shows are run: each script by the shell that the system uses, with the system's
//! variables, against a real server with tokens.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{SINGLETRACK, TestServer, a_token, client_with};

const SHA: &str = "3f2a1b2c4d5e6f708192a3b4c5d6e7f801234567";

const PIPELINE: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "only"
run = '''
echo "::singletrack output image=${INPUT_IMAGE:-none}::"
echo "::singletrack output url=https://web.example::"
'''
"#;

/// The fenced `yaml` blocks of a part of a document.
fn recipes(document: &str, from: &str, to: &str) -> Vec<Value> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    let part = text.split(from).nth(1).unwrap_or_else(|| panic!("{document} has no {from:?}"));
    let part = part.split(to).next().unwrap();
    let blocks = part.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| yaml_serde::from_str(block).unwrap()).collect()
}

/// A machine on which jobs run.
struct Runner {
    server: TestServer,
    token: String,
    folder: TempDir,
}

impl Runner {
    fn start() -> Self {
        let (token, table) = a_token();
        let mut server = TestServer::start(&format!("{table}\n{PIPELINE}"));
        server.client = client_with(&token);
        let folder = tempfile::tempdir().unwrap();
        symlink(SINGLETRACK, folder.path().join("singletrack")).unwrap();
        // What is called is seen in the output.
        fs::write(folder.path().join("curl"), "#!/bin/sh\necho called: \"$@\"\n").unwrap();
        fs::set_permissions(folder.path().join("curl"), fs::Permissions::from_mode(0o755)).unwrap();
        Runner { server, token, folder }
    }

    /// Runs a script as the runner of GitHub does.
    fn run(&self, script: &str, variables: &BTreeMap<String, String>) -> String {
        let path = format!("{}:/usr/bin:/bin", self.folder.path().display());
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]);
        command.env_clear().env("PATH", path).envs(variables).current_dir(self.folder.path()).stdin(Stdio::null());
        let Output { status, stdout, stderr } = command.output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(status.success(), "{script}\n{stderr}");
        stdout
    }

    /// The variables that a recipe gives its job, with the secrets and the server's address of this machine.
    fn variables(&self, given: &Value, system: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut variables: BTreeMap<String, String> =
            system.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for (name, value) in given.as_object().into_iter().flatten() {
            variables.insert(name.clone(), value.as_str().unwrap().to_owned());
        }
        assert_eq!(variables["SINGLETRACK_URL"], "https://deploys.example.com", "as the documentation has it");
        variables.insert("SINGLETRACK_URL".to_owned(), self.server.base.clone());
        variables.insert("SINGLETRACK_TOKEN".to_owned(), self.token.clone());
        variables
    }
}

const GITHUB: &[(&str, &str)] = &[
    ("CI", "true"),
    ("GITHUB_ACTIONS", "true"),
    ("GITHUB_ACTOR", "octocat"),
    ("GITHUB_EVENT_NAME", "push"),
    ("GITHUB_REF", "refs/heads/main"),
    ("GITHUB_REF_NAME", "main"),
    ("GITHUB_REPOSITORY", "acme/shop"),
    ("GITHUB_RUN_ATTEMPT", "1"),
    ("GITHUB_RUN_ID", "99"),
    ("GITHUB_RUN_NUMBER", "17"),
    ("GITHUB_SERVER_URL", "https://github.com"),
    ("GITHUB_SHA", SHA),
    ("GITHUB_OUTPUT", "output"),
    ("GITHUB_STEP_SUMMARY", "summary"),
];

const GITLAB: &[(&str, &str)] = &[
    ("CI", "true"),
    ("GITLAB_CI", "true"),
    ("GITLAB_USER_LOGIN", "octocat"),
    ("CI_COMMIT_REF_NAME", "main"),
    ("CI_COMMIT_SHA", SHA),
    ("CI_JOB_ID", "7"),
    ("CI_JOB_URL", "https://gitlab.example/jobs/7"),
    ("CI_PIPELINE_IID", "17"),
    ("CI_PIPELINE_SOURCE", "push"),
];

#[tokio::test]
async fn the_recipes_of_the_readme_deploy_what_the_ci_says() {
    let recipes = recipes("README.md", "\n## In CI\n", "\n## Pipelines\n");
    let [github, gitlab] = recipes.as_slice() else { panic!("{} recipes", recipes.len()) };
    let step = &github["jobs"]["deploy"]["steps"][0];
    assert_eq!(step["env"]["SINGLETRACK_TOKEN"], "${{ secrets.SINGLETRACK_TOKEN }}");
    let script = step["run"].as_str().unwrap().replace("${{ github.sha }}", SHA);
    let jobs = [
        (script, &step["env"], GITHUB, "https://github.com/acme/shop/actions/runs/99"),
        (
            gitlab["deploy"]["script"][0].as_str().unwrap().to_owned(),
            &gitlab["deploy"]["variables"],
            GITLAB,
            "https://gitlab.example/jobs/7",
        ),
    ];
    for (script, given, system, url) in jobs {
        let runner = Runner::start();
        let stdout = runner.run(&script, &runner.variables(given, system));
        assert_eq!(stdout, format!("image=registry.example/web:{SHA}\nurl=https://web.example\n"));
        let made = &runner.server.deployments().await[0];
        let told = ["status", "ref", "commit", "actor", "url"].map(|name| made[name].as_str().unwrap());
        assert_eq!(told, ["SUCCEEDED", "main", SHA, "octocat", url]);
        assert_eq!(made["order"], 17);
    }
}

#[tokio::test]
async fn the_recipes_for_later_steps_and_jobs_find_what_was_deployed() {
    let recipes = recipes("docs/ci.md", "\n## For later steps and jobs\n", "\n# A job that was superseded\n");
    let [github, gitlab] = recipes.as_slice() else { panic!("{} recipes", recipes.len()) };

    let runner = Runner::start();
    let [deploy, check] = [&github["steps"][0], &github["steps"][1]];
    assert_eq!(deploy["id"], "deploy");
    runner.run(deploy["run"].as_str().unwrap(), &runner.variables(&deploy["env"], GITHUB));
    let outputs = fs::read_to_string(runner.folder.path().join("output")).unwrap();
    let url = outputs.split("url<<").nth(1).unwrap().lines().nth(1).unwrap();
    let script = check["run"].as_str().unwrap().replace("${{ steps.deploy.outputs.url }}", url);
    let stdout = runner.run(&script, &runner.variables(&deploy["env"], GITHUB));
    assert_eq!(stdout, "called: --fail https://web.example/healthz\n");

    let runner = Runner::start();
    let environment = serde_json::json!({ "SINGLETRACK_URL": "https://deploys.example.com" });
    let mut variables = runner.variables(&environment, GITLAB);
    runner.run(gitlab["deploy"]["script"][0].as_str().unwrap(), &variables);
    let report = gitlab["deploy"]["artifacts"]["reports"]["dotenv"].as_str().unwrap();
    for line in fs::read_to_string(runner.folder.path().join(report)).unwrap().lines() {
        let (name, value) = line.split_once('=').unwrap();
        variables.insert(name.to_owned(), value.to_owned());
    }
    let stdout = runner.run(gitlab["smoke-test"]["script"][0].as_str().unwrap(), &variables);
    assert_eq!(stdout, "called: --fail https://web.example/healthz\n");
}
