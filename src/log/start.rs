//! Begins to log: the filter, the format, and the hook for panics.

use std::{
    io::{self, IsTerminal as _},
    thread,
};

use tracing_subscriber::EnvFilter;

use super::{
    format::Lines,
    line::LogFormat,
    sink::{self, LogLine},
};

/// Logs to standard error from now on, filtered by `SINGLETRACK_LOG` or else by `default`. A panic is logged, too.
pub fn start(default: &str, format: LogFormat) {
    sink::begin(format);
    let filter = EnvFilter::try_from_env("SINGLETRACK_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let is_coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogLine)
        // The subscriber would print its own errors, and panic where that fails.
        .log_internal_errors(false)
        .event_format(Lines { format, is_coloured })
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let name = thread::current().name().unwrap_or("unnamed").to_owned();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = %name, "{panic}");
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            tracing::error!("{backtrace}");
        }
        if name == "main" {
            sink::flush();
        }
    }));
}
