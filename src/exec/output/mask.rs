//! Removes secrets from the output before it is sent to the server, in every form in which tools print them and however
//! the output is cut into pieces.
//!
//! It reads cleaned text, so colours and hidden characters cannot split a secret. A window skips line ends and
//! indentation, because base64 is wrapped at some width. Text that may be the beginning of a secret is held back until
//! that is decided.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aho_corasick::{
    Anchored, MatchKind,
    automaton::{Automaton as _, StateID},
    nfa::contiguous::{Builder, NFA},
};
use thiserror::Error;

use super::forms::forms;

/// The replacement of a secret.
const MASK: &str = "***";
/// The shortest value that is masked, in bytes. A shorter one would be found everywhere.
pub const LENGTH_MIN: usize = 4;
/// The total size of all forms of all secrets: some thousand passwords, or some private keys.
const FORMS_LIMIT: usize = 1 << 20;
/// How far a wrapped text may be indented.
const INDENT_LIMIT: usize = 64;

/// Why a value is not masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotMasked {
    /// It is too short.
    #[error("it is shorter than {LENGTH_MIN} bytes: half of the log would be masked")]
    TooShort,
    /// With this value there would be too many forms.
    #[error("there are too many secrets, or too long ones: all their forms are more than 1 MiB")]
    TooMany,
}

/// The secrets of one deployment. More may be added while it runs.
#[derive(Debug, Default)]
pub struct Secrets {
    forms: Mutex<Forms>,
    /// How often secrets were added.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Forms {
    all: BTreeSet<Vec<u8>>,
    bytes: usize,
    is_overfull: bool,
    finder: Option<Arc<Finder>>,
}

impl Secrets {
    /// Adds a value that is masked from now on.
    ///
    /// # Errors
    /// The value cannot be masked. With too many values no output can be shown any more, see [`Secrets::are_overfull`].
    pub fn add(&self, value: &str) -> Result<(), NotMasked> {
        if value.trim().len() < LENGTH_MIN {
            return Err(NotMasked::TooShort);
        }
        let mut known = self.lock();
        for form in forms(value, LENGTH_MIN) {
            let length = form.len();
            if known.bytes + length > FORMS_LIMIT {
                known.is_overfull = true;
                return Err(NotMasked::TooMany);
            }
            if known.all.insert(form) {
                known.bytes += length;
            }
        }
        known.finder = None;
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Whether there are secrets that are not searched for. Then no output can be trusted.
    pub fn are_overfull(&self) -> bool {
        self.lock().is_overfull
    }

    /// Marks that there is a secret whose value is unknown.
    pub fn give_up(&self) {
        self.lock().is_overfull = true;
    }

    /// A separate text, without the secrets in it.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(finder) = self.finder() else { return Cow::Borrowed(text) };
        let mut masker = Masker { finder: Some(finder), ..Masker::default() };
        let mut masked = String::new();
        let mut show = |piece: Cow<'_, str>, ends: bool| {
            masked.push_str(&piece);
            masked.extend(ends.then_some('\n'));
        };
        let mut lines = text.split('\n').peekable();
        while let Some(line) = lines.next() {
            masker.read(line, lines.peek().is_some(), &mut show);
        }
        masker.show_rest(false, &mut show);
        Cow::Owned(masked)
    }

    fn finder(&self) -> Option<Arc<Finder>> {
        let mut known = self.lock();
        if known.finder.is_none() && !known.all.is_empty() {
            // Building cannot fail, because the size is far below the finder's limit.
            known.finder = Finder::new(&known.all).map(Arc::new);
            known.is_overfull |= known.finder.is_none();
        }
        known.finder.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Forms> {
        self.forms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds all forms at once.
#[derive(Debug)]
struct Finder {
    automaton: NFA,
    start: StateID,
    /// The first bytes of all forms.
    begins: [bool; 256],
    /// For each state: how much of a form has been read, and how long the shortest such form is.
    begun: HashMap<StateID, BegunSecret>,
}

#[derive(Clone, Copy, Debug, Default)]
struct BegunSecret {
    length: u64,
    of: u64,
}

impl Finder {
    fn new(forms: &BTreeSet<Vec<u8>>) -> Option<Self> {
        let mut builder = Builder::new();
        let automaton =
            builder.match_kind(MatchKind::Standard).ascii_case_insensitive(true).prefilter(false).build(forms).ok()?;
        let start = automaton.start_state(Anchored::No).ok()?;
        let mut begun: HashMap<StateID, BegunSecret> = HashMap::new();
        let mut begins = [false; 256];
        for form in forms {
            if let Some(first) = form.first() {
                begins[usize::from(first.to_ascii_lowercase())] = true;
                begins[usize::from(first.to_ascii_uppercase())] = true;
            }
            let mut state = start;
            for (at, byte) in form.iter().enumerate() {
                state = automaton.next_state(Anchored::No, state, *byte);
                let (length, of) = (at as u64 + 1, form.len() as u64);
                let known = begun.entry(state).or_insert(BegunSecret { length, of });
                known.of = known.of.min(of);
            }
        }
        Some(Finder { automaton, start, begins, begun })
    }

    /// The length of the longest form that ends in this state.
    fn found(&self, state: StateID) -> Option<u64> {
        if !self.automaton.is_match(state) {
            return None;
        }
        let lengths = (0..self.automaton.match_len(state))
            .map(|at| self.automaton.pattern_len(self.automaton.match_pattern(state, at)) as u64);
        lengths.max()
    }
}

/// Masks one stream of clean text.
#[derive(Debug, Default)]
pub(super) struct Masker {
    secrets: Arc<Secrets>,
    version: u64,
    finder: Option<Arc<Finder>>,
    state: Option<StateID>,
    /// The text that is held back, with its line ends.
    window: Vec<u8>,
    /// The position of the window's end in the joined stream: all text that was read, without line ends and
    /// indentation.
    end: u64,
    joined_end: u64,
    /// The skipped line ends and indentation: the byte of the joined text that follows, and the length.
    skipped: VecDeque<(u64, u64)>,
    /// The ranges of the joined text that are masked.
    masked: VecDeque<(u64, u64)>,
    /// Whether the last shown text is a mask that continues.
    in_mask: bool,
    /// How far the line is indented, until its text begins.
    text_began: bool,
    indent: usize,
    /// Text before this position must not be shown.
    unseen_until: u64,
}

impl Masker {
    pub(super) fn new(secrets: Arc<Secrets>) -> Self {
        Masker { secrets, ..Masker::default() }
    }

    /// Takes a part of a line, or its end, and shows the text that is decided: parts of lines, and whether each ends
    /// its line.
    pub(super) fn push(&mut self, text: Cow<'_, str>, ends: bool, show: &mut impl FnMut(Cow<'_, str>, bool)) {
        self.learn();
        if self.finder.is_none() {
            return show(text, ends);
        }
        self.read(&text, ends, show);
    }

    /// Takes text that is not shown, but may be the beginning of a secret in the shown text after it.
    pub(super) fn push_unseen(&mut self, text: &str, ends: bool) {
        self.learn();
        if self.finder.is_some() {
            self.unseen_until = u64::MAX;
            self.read(text, ends, &mut |_, _| {});
            self.unseen_until = self.end;
        }
    }

    /// Whether the text so far ends within a line.
    pub(super) fn is_in_line(&self) -> bool {
        self.text_began
    }

    /// Whether text is held back that [`Masker::flush`] would show.
    pub(super) fn is_waiting(&self) -> bool {
        !self.window.is_empty() && self.begun().length < LENGTH_MIN as u64
    }

    /// Shows the held-back text if it is too small a part of a secret to reveal it. The rest of the secret is masked
    /// all the same, if it comes.
    pub(super) fn flush(&mut self, show: &mut impl FnMut(Cow<'_, str>, bool)) {
        if self.is_waiting() {
            self.show_until(self.end, show);
        }
    }

    /// Shows the rest when the stream has ended, or when a part of it is missing. A large part of a secret is masked,
    /// because it is nearly as good as the secret. If the text `is_cut`, each part of a secret is masked that is at
    /// least as long as the shortest secret.
    pub(super) fn show_rest(&mut self, is_cut: bool, show: &mut impl FnMut(Cow<'_, str>, bool)) {
        let BegunSecret { length, of } = self.begun();
        // A complete text often ends with the first letters of a secret, such as `https`.
        let is_secret = length >= LENGTH_MIN as u64 && (is_cut || length * 2 >= of);
        if is_secret {
            self.found(length);
        }
        self.show_until(self.end, show);
        self.forget();
    }

    fn begun(&self) -> BegunSecret {
        let known = self.finder.as_ref().zip(self.state);
        known.and_then(|(finder, state)| finder.begun.get(&state).copied()).unwrap_or_default()
    }

    /// Searches for the newly added secrets, in the held-back text as well.
    fn learn(&mut self) {
        let version = self.secrets.version.load(Ordering::Acquire);
        if version == self.version {
            return;
        }
        self.version = version;
        self.finder = self.secrets.finder();
        let kept = std::mem::take(&mut self.window);
        self.end -= kept.len() as u64;
        // A window begins with the first byte of some text, never with skipped bytes.
        let is_kept = !kept.is_empty();
        (self.text_began, self.indent) = if is_kept { (true, 0) } else { (self.text_began, self.indent) };
        self.forget();
        for byte in kept {
            self.step(byte);
        }
    }

    fn forget(&mut self) {
        self.state = self.finder.as_ref().map(|finder| finder.start);
        self.skipped.clear();
    }

    fn read(&mut self, text: &str, ends: bool, show: &mut impl FnMut(Cow<'_, str>, bool)) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            rest = &rest[self.pass_over(rest)..];
            if let Some((byte, after)) = rest.split_first() {
                self.step(*byte);
                rest = after;
            }
        }
        if ends {
            self.step(b'\n');
        }
        let kept = self.begun().length;
        let clear_until = if kept == 0 { self.end } else { self.place(self.joined_end - kept) };
        self.show_until(clear_until, show);
    }

    /// How many of these bytes begin no form, while no form has begun.
    fn pass_over(&mut self, bytes: &[u8]) -> usize {
        let Some(finder) = self.finder.as_ref().filter(|finder| self.text_began && self.state == Some(finder.start))
        else {
            return 0;
        };
        let count = bytes.iter().position(|byte| finder.begins[usize::from(*byte)]).unwrap_or(bytes.len());
        self.window.extend_from_slice(&bytes[..count]);
        self.end += count as u64;
        self.joined_end += count as u64;
        count
    }

    fn step(&mut self, byte: u8) {
        self.window.push(byte);
        self.end += 1;
        match byte {
            // An empty line is not the line end of a wrapped text.
            b'\n' if !self.text_began => self.forget(),
            b'\n' => {
                (self.text_began, self.indent) = (false, 0);
                self.skip();
            }
            b' ' | b'\t' if !self.text_began => {
                self.indent += 1;
                if self.indent > INDENT_LIMIT { self.forget() } else { self.skip() }
            }
            byte => {
                self.text_began = true;
                self.joined_end += 1;
                let Some(finder) = &self.finder else { return };
                let state = self.state.unwrap_or(finder.start);
                let state = finder.automaton.next_state(Anchored::No, state, byte);
                let found = finder.found(state);
                self.state = Some(state);
                if let Some(length) = found {
                    self.found(length);
                }
            }
        }
    }

    fn skip(&mut self) {
        match self.skipped.back_mut() {
            Some((before, length)) if *before == self.joined_end => *length += 1,
            _ => self.skipped.push_back((self.joined_end, 1)),
        }
    }

    /// The position in the stream of this byte of the joined text.
    fn place(&self, joined: u64) -> u64 {
        let behind = self.skipped.iter().rev().take_while(|(before, _)| *before > joined);
        self.end - (self.joined_end - joined) - behind.map(|(_, length)| length).sum::<u64>()
    }

    /// Masks this many bytes at the end of the joined text, and every range that they overlap.
    fn found(&mut self, length: u64) {
        let mut from = self.place(self.joined_end - length);
        let until = self.place(self.joined_end - 1) + 1;
        while let Some((earlier, _)) = self.masked.pop_back_if(|(_, until)| *until >= from) {
            from = from.min(earlier);
        }
        self.masked.push_back((from, until));
    }

    fn show_until(&mut self, until: u64, show: &mut impl FnMut(Cow<'_, str>, bool)) {
        // The flushed text may have been the beginning of the held-back text.
        let mut at = self.end - self.window.len() as u64;
        let kept = self.window.split_off(usize::try_from(until.saturating_sub(at)).unwrap_or(0));
        let shown = std::mem::replace(&mut self.window, kept);
        let mut rest = shown.as_slice();
        let mut part = String::new();
        while !rest.is_empty() {
            while self.masked.pop_front_if(|(_, until)| *until <= at).is_some() {
                self.in_mask = false;
            }
            let (is_masked, until) = match self.masked.front() {
                Some((from, until)) if *from <= at => (true, *until),
                Some((from, _)) => (false, *from),
                None => (false, u64::MAX),
            };
            let until = if at < self.unseen_until { until.min(self.unseen_until) } else { until };
            let length = usize::try_from(until - at).unwrap_or(usize::MAX).min(rest.len());
            let run = &rest[..length];
            let line_end = run.iter().position(|byte| *byte == b'\n');
            let text = &run[..line_end.unwrap_or(length)];
            if at >= self.unseen_until {
                self.show_run(text, is_masked, &mut part);
                if line_end.is_some() {
                    show(Cow::Owned(std::mem::take(&mut part)), true);
                }
            }
            if line_end.is_some() {
                self.in_mask = false;
            }
            let taken = line_end.map_or(length, |line_end| line_end + 1);
            at += taken as u64;
            rest = &rest[taken..];
        }
        if self.masked.pop_front_if(|(_, until)| *until <= at).is_some() {
            self.in_mask = false;
        }
        let oldest = self.joined_end - self.begun().length;
        while self.skipped.pop_front_if(|(before, _)| *before < oldest).is_some() {}
        if !part.is_empty() {
            show(Cow::Owned(part), false);
        }
    }

    fn show_run(&mut self, text: &[u8], is_masked: bool, part: &mut String) {
        if !is_masked {
            self.in_mask = false;
            part.push_str(&String::from_utf8_lossy(text));
            return;
        }
        let mut text = text;
        if !self.in_mask {
            // If a line begins with the rest of a secret, its indentation stays.
            let indented = text.iter().position(|byte| *byte != b' ' && *byte != b'\t').unwrap_or(text.len());
            part.push_str(&String::from_utf8_lossy(&text[..indented]));
            text = &text[indented..];
        }
        if !text.is_empty() && !self.in_mask {
            part.push_str(MASK);
            self.in_mask = true;
        }
    }
}
