//! The recipes for jobs without a secret that `docs/ci.md` shows are run, against the configuration that it shows.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use serde_json::{Value, json};

use crate::harness::{SINGLETRACK, TestServer, issuer::Issuer};

const PIPELINE: &str = "[[projects.web.pipelines.deploy.phases]]\nname = \"only\"\nrun = \"true\"\n";

/// The fenced blocks of this language in the chapter about jobs without a secret.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ci.md")).unwrap();
    let chapter = text.split("\n# Deploying without a secret\n").nth(1).unwrap();
    let chapter = chapter.split("\n# What is written for the CI\n").next().unwrap();
    let fence = format!("```{language}\n");
    chapter.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_recipes_deploy_without_any_secret() {
    let (github, gitlab) = (Issuer::start(), Issuer::start());
    let [configuration] = &blocks("toml")[..] else { panic!("one configuration") };
    let configuration = configuration
        .replace("https://token.actions.githubusercontent.com", &github.url)
        .replace("https://gitlab.com", &gitlab.url);
    let server = TestServer::start(&format!("{configuration}\n{PIPELINE}"));
    let recipes: Vec<Value> = blocks("yaml").iter().map(|text| yaml_serde::from_str(text).unwrap()).collect();
    let [in_github, in_gitlab] = &recipes[..] else { panic!("two recipes") };

    let folder = tempfile::tempdir().unwrap();
    symlink(SINGLETRACK, folder.path().join("singletrack")).unwrap();
    let run = |script: &Value, given: &Value, variables: Vec<(String, String)>| {
        assert_eq!(given["SINGLETRACK_URL"], "https://deploys.example.com");
        let output = Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", script.as_str().unwrap()])
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            .env("SINGLETRACK_URL", &server.base)
            .envs(variables)
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        assert!(told.contains("succeeded"), "{told}");
    };

    let job = &in_github["jobs"]["deploy"];
    assert_eq!(job["permissions"]["id-token"], "write");
    let step = &job["steps"][0];
    run(&step["run"], &step["env"], github.job("secret", vec![github.token(&json!({}))]).to_vec());

    let [(name, wanted)] = &in_gitlab["deploy"]["id_tokens"].as_object().unwrap().iter().collect::<Vec<_>>()[..] else {
        panic!("one token")
    };
    let token = gitlab.token(&json!({
        "aud": wanted["aud"], "sub": "project_path:acme/web:ref_type:branch:ref:main", "event_name": null, "repository": null,
        "project_path": "acme/web", "ref": "main", "ref_path": "refs/heads/main", "pipeline_source": "push",
    }));
    let variables = vec![("GITLAB_CI".to_owned(), "true".to_owned()), ((*name).clone(), token)];
    run(&in_gitlab["deploy"]["script"][0], &in_gitlab["deploy"]["variables"], variables);
}
