//! The way of one stream into the log: its bytes are cleaned line by line, directives are obeyed, secrets are masked in
//! the cleaned text, and at last the text is cut into lines again. See decision 0059.

use super::{
    announced::{announced, begins_to_announce, may_be_for_us},
    directive::Directive,
    lines::{Cutter, LinePart, LineSplitter},
    mask::{Masker, NotMasked},
    phase::PhaseOutput,
};
use crate::exec::report::Stream;

/// How long a line may be that announces a secret: the longest value of an environment variable.
const ANNOUNCED_LIMIT: usize = 128 << 10;

/// One stream of a phase.
pub struct StreamLog {
    splitter: LineSplitter,
    taker: Taker,
}

struct Taker {
    output: PhaseOutput,
    stream: Stream,
    masker: Masker,
    cutter: Cutter,
    /// A line that announces a secret and is not complete yet.
    announcing: Option<String>,
    /// Whether directives are ignored, because they were obeyed already.
    is_deaf: bool,
    line_ended: bool,
    withheld: bool,
}

impl StreamLog {
    /// For a stream from its beginning.
    pub fn new(output: PhaseOutput, stream: Stream) -> Self {
        let masker = Masker::new(output.secrets().clone());
        let cutter = Cutter::default();
        let (announcing, is_deaf, line_ended, withheld) = (None, false, false, false);
        let taker = Taker { output, stream, masker, cutter, announcing, is_deaf, line_ended, withheld };
        StreamLog { splitter: LineSplitter::default(), taker }
    }

    /// Takes bytes. Returns whether a line has ended.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let StreamLog { splitter, taker } = self;
        taker.line_ended = false;
        splitter.push(bytes, &mut |part| taker.take(part));
        taker.line_ended
    }

    /// Whether there is text that [`StreamLog::flush`] would show.
    pub fn is_waiting(&self) -> bool {
        let Taker { masker, cutter, .. } = &self.taker;
        self.splitter.is_waiting(may_be_for_us) || masker.is_waiting() || cutter.is_waiting()
    }

    /// Shows the beginning of an incomplete line, such as a prompt.
    pub fn flush(&mut self) {
        let StreamLog { splitter, taker } = self;
        if splitter.is_waiting(may_be_for_us) {
            splitter.flush(&mut |part| taker.take(part));
        }
        let Taker { output, stream, masker, cutter, .. } = taker;
        let mut line = |line| output.line(*stream, line);
        masker.flush(&mut |text, ends| cutter.push(text, ends, &mut line));
        cutter.flush(&mut line);
    }

    /// Takes complete lines of a part of the stream that is otherwise left out. Only the directives in them count.
    pub fn hear(&mut self, lines: &[u8]) {
        let taker = &mut self.taker;
        let mut splitter = LineSplitter::default();
        splitter.push(lines, &mut |part| _ = taker.hear(&part));
    }

    /// Takes bytes whose directives were obeyed already.
    pub fn push_heard(&mut self, bytes: &[u8]) {
        self.taker.is_deaf = true;
        self.push(bytes);
        self.taker.is_deaf = false;
    }

    /// Continues after a missing part. `context` is the end of that part; it ends with a complete line unless the rest
    /// is `within_line`. The directives in the `tail` that follows were obeyed already.
    pub fn skip(&mut self, note: String, context: &[u8], within_line: bool, tail: &[u8]) {
        let StreamLog { splitter, taker } = self;
        splitter.finish(&mut |part| taker.take(LinePart { ends: false, ..part }));
        let Taker { output, stream, masker, cutter, .. } = &mut *taker;
        let mut line = |line| output.line(*stream, line);
        masker.show_rest(true, &mut |text, ends| cutter.push(text, ends, &mut line));
        cutter.break_off(&mut line);
        output.note(note);
        (taker.announcing, taker.cutter) = (None, if within_line { Cutter::within_line() } else { Cutter::default() });
        *splitter = LineSplitter::default();
        splitter.push(context, &mut |part| taker.masker.push_unseen(&part.text, part.ends));
        if within_line {
            splitter.flush(&mut |part| taker.masker.push_unseen(&part.text, part.ends));
            *splitter = LineSplitter::within_line();
        }
        self.push_heard(tail);
    }

    /// Shows the rest when the stream has ended.
    pub fn finish(&mut self) {
        let StreamLog { splitter, taker } = self;
        splitter.finish(&mut |part| taker.take(part));
        let Taker { output, stream, masker, cutter, .. } = taker;
        let mut line = |line| output.line(*stream, line);
        let is_cut = masker.is_in_line();
        masker.show_rest(is_cut, &mut |text, ends| cutter.push(text, ends, &mut line));
        if cutter.is_waiting() {
            cutter.push("".into(), true, &mut line);
        }
    }
}

impl Taker {
    fn take(&mut self, part: LinePart) {
        self.line_ended |= part.ends;
        if self.hear(&part) {
            return;
        }
        if self.output.secrets().are_overfull() {
            if !self.withheld {
                self.output.note(
                    "no more output is sent to the server: the command announced a secret that cannot be masked \
                     (one secret too many, or one that came too fast)",
                );
            }
            self.withheld = true;
            return;
        }
        let Taker { output, stream, masker, cutter, .. } = self;
        masker.push(part.text.into(), part.ends, &mut |text, ends| {
            cutter.push(text, ends, &mut |line| output.line(*stream, line));
        });
    }

    /// Obeys a directive, or masks an announced secret. Returns whether the line was one of these; such a line is not
    /// shown.
    fn hear(&mut self, part: &LinePart) -> bool {
        if let Some(line) = &mut self.announcing {
            line.push_str(&part.text);
            if part.ends || line.len() > ANNOUNCED_LIMIT {
                let line = std::mem::take(line);
                self.announcing = if part.ends { None } else { Some(String::new()) };
                self.learn(announced(&line));
            }
            return true;
        }
        match part {
            LinePart { begins: true, ends: false, text } if begins_to_announce(text) => {
                self.announcing = Some(text.clone());
                true
            }
            LinePart { begins: true, ends: true, text } => {
                let secret = announced(text);
                let is_secret = secret.is_some();
                self.learn(secret);
                // A directive that was not understood is shown, so that its author can see why nothing happened.
                is_secret || Directive::parse(text).is_some_and(|command| self.is_deaf || self.output.obey(command))
            }
            LinePart { .. } => false,
        }
    }

    fn learn(&self, secret: Option<String>) {
        let Some(secret) = secret.filter(|secret| !secret.is_empty() && !self.is_deaf) else { return };
        match self.output.secrets().add(&secret) {
            // `TooMany` is reported where the first line is withheld.
            Ok(()) | Err(NotMasked::TooMany) => {}
            Err(why) => self.output.note(format!("a value that the command wants masked is not: {why}")),
        }
    }
}
