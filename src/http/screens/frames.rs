//! The frames of a stream for a screen.

use std::{fmt::Display, time::Duration};

/// What such a stream sends while nothing changes.
pub const BEAT: &[u8] = b"event: beat\ndata: {}\n\n";
/// How often.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Adds a frame for a screen to a stream. A browser drops a frame without data.
pub fn frame(bytes: &mut Vec<u8>, id: Option<&dyn Display>, name: &str, html: &str) {
    if let Some(id) = id {
        bytes.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    bytes.extend_from_slice(format!("event: {name}\n").as_bytes());
    // Each line of the data is a line of the frame, and a carriage return would end one, too.
    for line in html.split('\n') {
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(line.replace('\r', "&#13;").as_bytes());
        bytes.push(b'\n');
    }
    bytes.push(b'\n');
}
