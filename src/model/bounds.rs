//! How much the server accepts from others: the one table of these limits. `docs/limits.md` shows it to users, and
//! `openapi.yaml` states it; a test holds all three against each other. See decision 0039.
//!
//! The server's door keeps the limits for every caller. Our own workers and clients keep to them by themselves, so that
//! nothing of theirs is refused. Data that an older version has stored beyond a limit can still be read.
//!
//! A text is counted in characters, as in JSON Schema; a sum, a body or a line in bytes.

use std::collections::BTreeMap;

/// The name of a pipeline, a phase or an output.
pub const NAME: usize = 128;
/// A branch or tag: file systems take no longer ones.
pub const REF: usize = 1024;
/// A commit: a hash of any length, or a short description.
pub const COMMIT: usize = 256;
/// The message of a submit: a commit's whole message fits.
pub const MESSAGE: usize = 4096;
/// The actor of a deployment. It is part of a name that PostgreSQL keeps in an index, which takes 2.7 KB.
pub const ACTOR: usize = 256;
/// The job's page: browsers take no longer ones.
pub const URL: usize = 2048;
/// How many inputs a submit has.
pub const INPUTS: usize = 100;
/// The name of an input.
pub const INPUT_NAME: usize = 64;
/// All names and values of a submit's inputs together. Each decision about the deployment reads them; and the kernel
/// takes no variable of a process beyond 128 KiB.
pub const INPUTS_BYTES: usize = 64 << 10;
/// Why something is cancelled or released.
pub const REASON: usize = 1024;
/// How many reports come with one call: a second of a busy pipeline.
pub const REPORTS: usize = 256;
/// A text that a worker reports: of a phase, of progress, of a failure.
pub const REPORT_TEXT: usize = 8192;
/// How many failed rollbacks are kept with a deployment: each heartbeat reads and writes them.
pub const ROLLBACKS: usize = 100;
/// How much of the reason of a failed rollback is kept with the deployment; the event has all of it.
pub const ROLLBACK_TEXT: usize = 512;
/// How many lines one log report has.
pub const LOG_LINES: usize = 4096;
/// The lines of one log report together. They become one event, and each reader gets events whole.
pub const LOG_BYTES: usize = 256 << 10;
/// The lines of all log reports of one call together: the call is one transaction.
pub const CALL_LOG_BYTES: usize = 2 << 20;
/// A line of output; longer ones are split.
pub const LINE_BYTES: usize = 64 << 10;
/// The value of an output.
pub const OUTPUT_VALUE: usize = 8192;
/// How many outputs a deployment has.
pub const OUTPUTS: usize = 256;
/// All names and values of a deployment's outputs together: each heartbeat reads and writes them.
pub const OUTPUTS_BYTES: usize = 64 << 10;
/// The name of an agent.
pub const AGENT_NAME: usize = 100;
/// An agent's own name for one claim.
pub const CLAIM_ID: usize = 64;
/// How many projects an agent runs: each is looked at with every claim.
pub const AGENT_PROJECTS: usize = 100;
/// How many pipelines an agent runs of one project.
pub const AGENT_PIPELINES: usize = 100;
/// How many pipelines an agent runs in all.
pub const AGENT_PIPELINES_IN_ALL: usize = 1000;
/// The name of a token.
pub const TOKEN_NAME: usize = 64;
/// How many tokens may be live that were made at run time: every server has them in memory.
pub const LIVE_TOKENS: usize = 10_000;
/// How many browsers may be signed in with one token, or as one person: the oldest session makes room for the next one.
pub const SESSIONS_OF_ONE: usize = 100;
/// How many browsers may be signed in at all: every server has their sessions in memory.
pub const LIVE_SESSIONS: usize = 10_000;
/// How many patterns for projects a token has: each request is held against them.
pub const TOKEN_PROJECTS: usize = 100;
/// How many of the last lines of output can be asked for: more than are kept of most deployments.
pub const TAIL_LINES: usize = 100_000;
/// A page of a list ends before it is larger than this, one entry aside; the next page begins there.
pub const PAGE_BYTES: usize = 1 << 20;

/// Whether a text has at most so many characters.
pub fn fits(text: &str, limit: usize) -> bool {
    // Most texts are far shorter: then the number of bytes decides at once.
    text.len() <= limit || text.chars().count() <= limit
}

/// The text, cut where it is longer than so many characters.
pub fn cut(mut text: String, limit: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(limit) {
        text.truncate(end);
    }
    text
}

/// Whether a text can be the name of a pipeline, a phase or an output.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && fits(text, NAME) && !text.chars().any(char::is_control)
}

/// Whether a text may be kept and shown unchanged: its only control characters are tabs and the ends of lines.
pub fn is_text(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// How much names and values are together.
pub fn size(pairs: &BTreeMap<String, String>) -> usize {
    pairs.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// Whether a deployment may have these outputs.
pub fn outputs_fit(outputs: &BTreeMap<String, String>) -> bool {
    outputs.len() <= OUTPUTS && size(outputs) <= OUTPUTS_BYTES
}

/// The variable that carries an input to a phase's command: upper case, with `_` for every character that is no letter
/// or digit.
pub fn input_variable(name: &str) -> String {
    let fitting = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("INPUT_{}", name.chars().map(fitting).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_counted_in_characters_and_cut_between_them() {
        assert!(fits("äöü", 3) && !fits("äöü", 2));
        assert_eq!(cut("äöü".to_owned(), 2), "äö");
        assert_eq!(cut("abc".to_owned(), 3), "abc");
        assert!(is_name(&"ä".repeat(NAME)) && !is_name(&"a".repeat(NAME + 1)) && !is_name(""));
        assert!(!is_name("a\u{9b}") && is_text("a\tb\r\nc") && !is_text("a\u{1b}") && !is_text("\u{7f}"));
    }

    #[test]
    fn an_input_reaches_a_command_in_upper_case() {
        assert_eq!(input_variable("ld-preload.v2"), "INPUT_LD_PRELOAD_V2");
    }
}
