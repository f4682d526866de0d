//! Finished output in compressed blocks: how a block is made and read, and how its events come back among the others.
//! See decision 0079.
//!
//! A block holds events of type `log` only. The events between them stay in their own rows, and the last event of a
//! final deployment is one of those. So whoever reads rows sees a hole where a block has the events.

use std::io::Read as _;

use jiff::Timestamp;

use crate::model::{Event, EventBody, Stream};

/// A block is closed when it holds so much: a larger block compresses little better, and each read decompresses a
/// whole block.
pub const BLOCK_BYTES: usize = 256 << 10;
/// The most events in a block.
pub const BLOCK_EVENTS: usize = 4096;
/// What claims to be larger than this is no block of ours. One event may be some MiB.
const READ_LIMIT: u64 = 64 << 20;
/// Level 3 is zstd's own default: above it, blocks become a little smaller and much slower to make.
const LEVEL: i32 = 3;

/// An event as its row has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the deployment's history.
    pub seq: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub at: i64,
    /// What happened, as JSON.
    pub body: String,
}

/// Some output of one deployment, compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The `seq` of the first event.
    pub first_seq: u64,
    /// The `seq` of the last event.
    pub last_seq: u64,
    /// How many events it holds.
    pub event_count: u64,
    /// How long its content is before it is compressed.
    pub raw_bytes: u64,
    /// The compressed events.
    pub body: Vec<u8>,
}

/// A block as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// The `seq` of the first event.
    pub first_seq: u64,
    /// The `seq` of the last event.
    pub last_seq: u64,
    /// The compressed events.
    pub body: Vec<u8>,
}

impl Block {
    /// Compresses these events, which are in order. `None` for none.
    ///
    /// # Errors
    /// There is no memory.
    pub fn of(events: &[StoredEvent]) -> Result<Option<Block>, String> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(None) };
        let mut raw = Vec::with_capacity(events.iter().map(|event| event.body.len() + 32).sum());
        for StoredEvent { seq, at, body } in events {
            // JSON has no line end outside of a text, and within one it is escaped.
            raw.extend_from_slice(format!("{seq} {at} {body}\n").as_bytes());
        }
        let compress = || {
            let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
            // With a checksum, a block that was damaged is told from one that was not.
            compressor.include_checksum(true)?;
            compressor.compress(&raw)
        };
        let body = compress().map_err(|error| format!("cannot compress: {error}"))?;
        Ok(Some(Block {
            first_seq: first.seq,
            last_seq: last.seq,
            event_count: events.len() as u64,
            raw_bytes: raw.len() as u64,
            body,
        }))
    }
}

impl StoredBlock {
    /// Its events, as their rows had them.
    ///
    /// # Errors
    /// It is damaged.
    pub fn events(&self) -> Result<Vec<StoredEvent>, String> {
        let decode = || -> std::io::Result<String> {
            let mut raw = String::new();
            zstd::Decoder::new(self.body.as_slice())?.take(READ_LIMIT).read_to_string(&mut raw)?;
            Ok(raw)
        };
        let raw = decode().map_err(|error| format!("a block of output is damaged: {error}"))?;
        let events = raw.lines().map(event_of_line).collect::<Option<Vec<_>>>();
        let events = events.ok_or_else(|| "a block of output is damaged: a line of it is no event".to_owned())?;
        let is_ours = events.first().is_some_and(|first| first.seq == self.first_seq)
            && events.last().is_some_and(|last| last.seq == self.last_seq);
        if is_ours { Ok(events) } else { Err("a block of output is damaged: it holds other events".to_owned()) }
    }

    /// Its events for readers. In place of a damaged block stands a line that says so; `damaged` is told why.
    fn read(&self, damaged: &mut dyn FnMut(String)) -> Vec<Event> {
        let read = self.events().and_then(|events| events.iter().map(StoredEvent::read).collect::<Result<_, _>>());
        read.unwrap_or_else(|why| {
            damaged(why);
            let line = format!(
                "[singletrack: this output is damaged in the store and cannot be shown (events {} to {})]",
                self.first_seq, self.last_seq
            );
            let body = EventBody::Log { stream: Stream::Stderr, phase: None, lines: vec![line] };
            vec![Event { seq: self.last_seq, at: Timestamp::UNIX_EPOCH, body }]
        })
    }
}

impl StoredEvent {
    fn read(&self) -> Result<Event, String> {
        let at = Timestamp::from_millisecond(self.at).map_err(|error| error.to_string())?;
        let body: EventBody = serde_json::from_str(&self.body).map_err(|error| error.to_string())?;
        Ok(Event { seq: self.seq, at, body })
    }
}

fn event_of_line(line: &str) -> Option<StoredEvent> {
    let mut parts = line.splitn(3, ' ');
    let (seq, at, body) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    Some(StoredEvent { seq, at, body: body.to_owned() })
}

/// Rows of events, among which those from blocks are to come.
pub(super) struct Merging {
    events: Vec<Event>,
    limit: usize,
    /// Forwards: everything up to here is complete. Backwards: everything from here on.
    reached: u64,
    /// The end of the rows that were read: beyond it, blocks are of no interest.
    end: u64,
    is_forwards: bool,
}

impl Merging {
    /// The rows after `after`, in order. `Err` with the rows, where none of them can be missing.
    pub(super) fn forwards(after: u64, rows: Vec<Event>, limit: usize) -> Result<Merging, Vec<Event>> {
        let Some(last) = rows.last().map(|event| event.seq) else { return Err(rows) };
        // `seq` counts without a gap, so where as many came as there can be, nothing is missing.
        if last - after == rows.len() as u64 {
            return Err(rows);
        }
        Ok(Merging { events: rows, limit, reached: after, end: last, is_forwards: true })
    }

    /// The rows before `before`, the last one first.
    pub(super) fn backwards(before: u64, rows: Vec<Event>, limit: usize) -> Result<Merging, Vec<Event>> {
        // Where fewer came than were asked for, these rows go down to the beginning.
        let first = rows.last().filter(|_| rows.len() >= limit).map_or(1, |event| event.seq);
        if limit == 0 || before.saturating_sub(first) == rows.len() as u64 {
            return Err(rows);
        }
        Ok(Merging { events: rows, limit, reached: before, end: first, is_forwards: false })
    }

    /// The place from which the next block is wanted: forwards the first block with an event after it, backwards the last
    /// block that begins before it. `None`: there are enough events.
    pub(super) fn wants(&self) -> Option<u64> {
        let is_within = if self.is_forwards { self.reached < self.end } else { self.reached > self.end };
        let settled = self.events.iter().filter(|event| self.is_settled(event.seq)).count();
        (is_within && settled < self.limit).then_some(self.reached)
    }

    fn is_settled(&self, seq: u64) -> bool {
        if self.is_forwards { seq <= self.reached } else { seq >= self.reached }
    }

    /// Takes the block that was wanted; `None` if there is none.
    pub(super) fn take(&mut self, block: Option<&StoredBlock>, damaged: &mut dyn FnMut(String)) {
        let Some(block) = block else {
            self.reached = self.end;
            return;
        };
        let events = block.read(damaged);
        let reached = self.reached;
        if self.is_forwards {
            self.events.extend(events.into_iter().filter(|event| event.seq > reached));
            self.reached = block.last_seq.max(reached + 1);
        } else {
            self.events.extend(events.into_iter().filter(|event| event.seq < reached));
            self.reached = block.first_seq.min(reached.saturating_sub(1));
        }
    }

    /// All of them, in the order that was asked for.
    pub(super) fn finish(mut self) -> Vec<Event> {
        // What went into a block between the two reads has come twice.
        self.events.sort_by_key(|event| event.seq);
        self.events.dedup_by_key(|event| event.seq);
        if !self.is_forwards {
            self.events.reverse();
        }
        self.events.truncate(self.limit);
        self.events
    }
}
