//! How the program ends: a client's task on its runtime, and what went wrong, told with the exit code.

use std::process::ExitCode;

use super::{
    exit::{Exit, Failure},
    screen::print,
};

/// Runs one of a client's tasks to its end.
pub(super) fn on_runtime(task: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    // One thread is enough: a client waits for one thing at a time, and starts faster without more threads.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Fault, format!("the runtime does not start: {error}")))?;
    let ended = runtime.block_on(task);
    // Leak the runtime: dropping it would wait for a DNS look-up on the blocking pool, and the process ends now anyway.
    std::mem::forget(runtime);
    ended
}

/// The exit code of what has ended; what went wrong is told on standard error, and with `json` on standard output too.
pub(super) fn end(ended: Result<Exit, Failure>, json: bool) -> ExitCode {
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            tell(&failure, json);
            failure.exit.into()
        }
    }
}

fn tell(failure: &Failure, json: bool) {
    let topic = failure.topic();
    let title = topic.map_or_else(
        || format!("exit code {}", failure.exit.code()),
        |code| match code.parse::<u8>() {
            Ok(code) => format!("exit code {code}"),
            Err(_) => code.to_owned(),
        },
    );
    print::error(&format!("singletrack: {title}"), &failure.message);
    if let Some(hint) = &failure.hint {
        print::hint(hint);
    }
    if let Some(code) = topic {
        print::more(&format!("singletrack explain {code}"));
    }
    if json {
        // The exit code tells already that this did not go well.
        let _ = print::json(&failure.to_json());
    }
}
