//! The files for a CI job: a step's outputs and summary, a file of variables, and the result as JSON. They are
//! written however the job ends, also if it ended before there was a deployment. A file that cannot be written
//! costs a warning, and never the deployment.

use std::{cell::Cell, io, path::Path};

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::{
    JobEndArgs,
    ci::{self, Environment, Files, JobFacts, markdown},
    exit::{Exit, Failure},
    screen::{
        Screen, Story, print,
        words::{between, is_rolled_back, repairs, source, span},
    },
};
use crate::{
    model::{PhaseState, ProjectName, Status},
    wire::{Deployment, ascii},
};

/// The files to write.
#[derive(Debug)]
pub struct Reports<'a> {
    files: Files,
    dotenv: Option<&'a Path>,
    result: Option<&'a Path>,
    is_written: Cell<bool>,
}

/// The content of the files.
pub struct JobOutcome<'a> {
    /// The project.
    pub project: &'a ProjectName,
    /// The deployment as it stood last; `None` where none was made, or nothing is known of it.
    pub deployment: Option<&'a Deployment>,
    /// The one that superseded it and was followed to its end.
    pub successor: Option<&'a Deployment>,
    /// How the command ends.
    pub ended: &'a Result<Exit, Failure>,
}

impl<'a> Reports<'a> {
    /// The files that the CI and the command line ask for.
    pub fn wanted(end: &'a JobEndArgs) -> Self {
        let get = |name: &str| std::env::var(name).ok();
        Reports {
            files: Environment::new(&get).files(),
            dotenv: end.dotenv.as_deref(),
            result: end.result_file.as_deref(),
            is_written: Cell::new(false),
        }
    }

    /// Whether there is no file to write.
    pub fn is_empty(&self) -> bool {
        self.files == Files::default() && self.dotenv.is_none() && self.result.is_none()
    }

    /// Writes them where the job ended before that was done: it got no answer, say, or could not even ask.
    pub fn or_write(&self, project: &ProjectName, ended: &Result<Exit, Failure>) {
        if !self.is_written.get() {
            self.write(None, &JobOutcome { project, deployment: None, successor: None, ended });
        }
    }

    /// Writes them. `screen` is what still shows progress.
    pub fn write(&self, screen: Option<&Screen>, outcome: &JobOutcome<'_>) {
        self.is_written.set(true);
        let facts = outcome.facts();
        if let Some(path) = self.dotenv {
            let (text, left_out) = ci::dotenv(&facts);
            told(screen, path, ci::write(path, &text), &left_out);
        }
        if let Some(path) = self.result {
            let written = ascii::to_string_pretty(&outcome.result())
                .map_err(io::Error::other)
                .and_then(|text| ci::write(path, &format!("{text}\n")));
            told(screen, path, written, &[]);
        }
        if let Some(path) = self.files.outputs.as_deref() {
            let mut bytes = [0; 16];
            let written = getrandom::fill(&mut bytes)
                .map_err(io::Error::other)
                .map(|()| ci::outputs(&facts, &format!("singletrack_{}", HEXLOWER.encode(&bytes))));
            match written {
                Ok((text, left_out)) => told(screen, path, ci::append(path, &text, ci::OUTPUTS_LIMIT), &left_out),
                Err(error) => told(screen, path, Err(error), &[]),
            }
        }
        if let Some(path) = &self.files.summary {
            let text = outcome.summary(&screen.map(Screen::story).unwrap_or_default());
            told(screen, path, ci::append(path, &text, ci::SUMMARY_LIMIT), &[]);
        }
    }
}

fn told(screen: Option<&Screen>, path: &Path, written: io::Result<()>, left_out: &[String]) {
    let text = match written {
        Err(error) => format!("{} was not written: {error}", path.display()),
        Ok(()) if left_out.is_empty() => return,
        Ok(()) => format!("{} has no place for: {}", path.display(), left_out.join(", ")),
    };
    match screen {
        Some(screen) => screen.warning(&text),
        None => print::warning(&text),
    }
}

impl JobOutcome<'_> {
    /// The deployment whose outputs count.
    fn produced<'d>(&'d self, deployment: &'d Deployment) -> &'d Deployment {
        match (self.ended, self.successor) {
            (Ok(_), Some(successor)) => successor,
            (Ok(_) | Err(_), _) => deployment,
        }
    }

    /// The exit code of the command.
    fn exit(&self) -> Exit {
        match self.ended {
            Ok(exit) => *exit,
            Err(failure) => failure.exit,
        }
    }

    /// Why the command ended so, for programs; `None` where it ended well.
    fn reason(&self) -> Option<String> {
        match self.ended {
            Ok(Exit::Command(1..)) => {
                self.deployment.and_then(|deployment| Some(deployment.error.as_ref()?.code.clone()))
            }
            Ok(_) => None,
            Err(failure) => failure.reason().map(str::to_owned),
        }
    }

    /// What later steps and jobs are told.
    fn facts(&self) -> JobFacts {
        let facts = self.deployment.map(|deployment| JobFacts::of(deployment, self.produced(deployment)));
        let mut facts = facts.unwrap_or_default();
        facts.own.push(("exit-code", self.exit().code().to_string()));
        facts.own.extend(self.reason().map(|reason| ("reason", reason)));
        facts
    }

    /// The result as `--json` has it, and how the command ended in every case.
    fn result(&self) -> Value {
        let deployment = self.deployment.map(|deployment| self.produced(deployment));
        let mut result = match (self.ended, deployment) {
            (Err(failure), None) => failure.to_json(),
            (Err(failure), Some(_)) if failure.problem.is_some() => failure.to_json(),
            (_, Some(deployment)) => serde_json::to_value(deployment).unwrap_or_default(),
            (Ok(_), None) => json!({}),
        };
        result["exitCode"] = json!(self.exit().code());
        result["reason"] = json!(self.reason());
        result
    }

    fn title(&self) -> String {
        let pipeline = self.deployment.map_or("deploy", |deployment| deployment.pipeline.as_str());
        let became = match (self.deployment.map(|deployment| deployment.status), self.ended) {
            (_, Ok(_)) if self.successor.is_some() => "superseded by a deployment that succeeded",
            (Some(Status::Cancelled), _) if self.is_superseded() => "superseded",
            (Some(Status::Succeeded), _) => "succeeded",
            (Some(Status::Failed), _) => "failed",
            (Some(Status::Cancelled), _) => "cancelled",
            (Some(Status::Running), _) => "still running",
            (Some(Status::Pending), _) => "still waiting",
            (None, Ok(_)) => "done",
            (None, Err(_)) => "not deployed",
        };
        format!("{}: {} {became}", markdown::text(self.project.as_str()), markdown::text(pipeline))
    }

    fn is_superseded(&self) -> bool {
        self.deployment.is_some_and(|deployment| deployment.superseded_by.is_some())
    }

    /// The summary, in Markdown.
    fn summary(&self, story: &Story) -> String {
        let mut text = format!("### {}\n\n{}", self.title(), markdown::head(&["", ""]));
        let mut add = |name: &str, value: Option<String>| {
            text.extend(value.map(|value| markdown::row(&[name, &value])));
        };
        let own = |text: &str| markdown::text(text);
        if let Some(deployment) = self.deployment {
            add("deployment", Some(own(&deployment.mention().name())));
            add("id", Some(own(&deployment.id.to_string())));
            let what = source(deployment.ref_name.as_deref(), deployment.commit.as_deref());
            add("source", what.as_deref().map(own));
            add("actor", deployment.actor.as_deref().map(own));
            add("job", deployment.url.as_deref().map(markdown::address));
        }
        for wait in story.waits() {
            let url = wait.url.as_deref().map(|url| format!(" {}", markdown::address(url))).unwrap_or_default();
            add("waited", Some(format!("{} for {}{url}", span(wait.length()), own(&wait.who))));
        }
        if let Some(deployment) = self.deployment {
            let ran = deployment.started_at.zip(deployment.ended_at).map(|(begin, end)| span(between(begin, end)));
            add("ran", ran);
            if let Some(error) = &deployment.error {
                let phase = error.phase.as_deref().map(|phase| format!(" in phase {}", own(phase))).unwrap_or_default();
                add("reason", Some(format!("{}{phase}: {}", own(&error.code), own(&error.message))));
            }
            add("rollback", is_rolled_back(deployment).then(|| "done".to_owned()));
            repairs(deployment).iter().for_each(|repair| add("rollback failed", Some(own(repair))));
            add("superseded by", deployment.successor().map(|by| own(&by.to_string())));
        }
        if let Some(successor) = self.successor {
            let became = own(successor.status.as_str());
            let error = successor.error.as_ref().map(|error| format!(": {}", own(&error.message))).unwrap_or_default();
            add("followed", Some(format!("{} {became}{error}", own(&successor.mention().to_string()))));
            repairs(successor).iter().for_each(|repair| add("rollback failed", Some(own(repair))));
        }
        if let Err(failure) = self.ended {
            add("exit code", Some(format!("{}: {}", failure.exit.code(), own(&failure.message))));
            add("what to do", failure.hint.as_deref().map(own));
        }
        if !story.phases().is_empty() {
            text.push_str(&format!("\n{}", markdown::head(&["phase", "", "took"])));
            for phase in story.phases() {
                let took = phase.took.map(span).unwrap_or_default();
                text.push_str(&markdown::row(&[&own(&phase.name), state(phase.state), &took]));
            }
        }
        let produced = self.deployment.map(|deployment| JobFacts::of(deployment, self.produced(deployment)).outputs);
        let produced = produced.unwrap_or_default();
        if !produced.is_empty() {
            text.push_str(&format!("\n{}", markdown::head(&["output", "value"])));
            for (name, value) in &produced {
                text.push_str(&markdown::row(&[&own(name), &markdown::address(value)]));
            }
        }
        text
    }
}

fn state(state: PhaseState) -> &'static str {
    match state {
        PhaseState::Started => "not ended",
        PhaseState::Succeeded => "succeeded",
        PhaseState::Failed => "failed",
        PhaseState::Skipped => "skipped",
        PhaseState::RollingBack => "rollback not ended",
        PhaseState::RolledBack => "rolled back",
        PhaseState::RollbackFailed => "rollback failed",
    }
}
