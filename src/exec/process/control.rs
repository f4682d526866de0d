//! The shim's end of the socket to its worker. Each line is an order or an answer; `shim` lists them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::clock::BootInstant;

/// The worker's orders before the command starts.
#[derive(Default)]
pub(super) struct Orders {
    pub(super) variables: Vec<(String, String)>,
    pub(super) deadline: Option<BootInstant>,
    pub(super) will: Option<String>,
    pub(super) open_files: Option<u64>,
}

/// The socket to the worker.
pub(super) struct Control {
    pub(super) stream: UnixStream,
    buffer: Vec<u8>,
    pub(super) open: bool,
}

impl Control {
    pub(super) fn new(stream: UnixStream) -> Self {
        Control { stream, buffer: Vec::new(), open: true }
    }

    /// Sends a line to the worker. An error is ignored, because the end of file soon tells that the worker is gone.
    pub(super) fn say(&mut self, line: &str) {
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
    }

    /// Blocks until the worker sends `start`; returns the orders before it. The shim holds its lock by then. So if a
    /// restarted server finds the lock free, nothing will be started late.
    pub(super) fn wait_for_start(&mut self) -> io::Result<Orders> {
        let mut orders = Orders::default();
        loop {
            let order = self.wait_for_line()?;
            match order.split_once(' ').unwrap_or((&order, "")) {
                ("start", "") => break,
                ("env", assignment) => {
                    let assignment = assignment.split_once('=');
                    orders.variables.extend(assignment.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
                ("deadline", at) => {
                    orders.deadline = at.parse().map(Duration::from_millis).map(BootInstant::from_start).ok();
                }
                ("open-files", count) => orders.open_files = count.parse().ok(),
                ("will", text) => orders.will = Some(text.to_owned()),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        self.stream.set_nonblocking(true)?;
        Ok(orders)
    }

    /// Whether the worker is gone, even if orders of it are still to be read.
    pub(super) fn is_deserted(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
    }

    /// Blocks until the worker knows that the command has ended, or until the worker is gone. Returns whether it knows.
    pub(super) fn is_told_done(&mut self) -> bool {
        if self.stream.set_nonblocking(false).is_err() {
            return false;
        }
        loop {
            match self.wait_for_line() {
                Ok(line) if line == "done" => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// The next complete line. The bytes after it stay for the next call, or for `take`.
    fn wait_for_line(&mut self) -> io::Result<String> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(line) = self.next_line() {
                return Ok(line);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the orders that have arrived, without waiting.
    pub(super) fn take(&mut self) -> Vec<String> {
        let mut chunk = [0; 512];
        while self.open {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.open = false,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
        }
        std::iter::from_fn(|| self.next_line()).collect()
    }

    /// The next line of the arrived bytes.
    fn next_line(&mut self) -> Option<String> {
        let newline = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.buffer.drain(..=newline).take(newline).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}
