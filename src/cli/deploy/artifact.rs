//! `--artifact`: packs and uploads the artifact, and shows the progress.

use std::path::PathBuf;

use crate::{
    cli::{
        exit::{Exit, Failure},
        screen::words::size,
        session::Session,
        signals::Signals,
    },
    client::{self, deadline::Deadline, upload::Progress},
    exec::archive::{self, IGNORE_FILE, LeftOut, PackError, PackOptions, Packed},
    model::Digest,
};

/// Packs the artifact.
///
/// # Errors
/// Packing failed, or `--timeout` passed.
pub async fn pack(
    session: &Session,
    path: PathBuf,
    options: PackOptions,
    deadline: &Deadline,
    signals: &mut Signals,
) -> Result<Packed, Failure> {
    let shown = path.display().to_string();
    let packing = tokio::task::spawn_blocking(move || archive::pack(&path, options));
    let packed = in_time(packing, deadline, signals, "packing the artifact").await?;
    let packed = packed.map_err(|error| Failure::new(Exit::Fault, format!("packing ended: {error}")))?;
    let packed = packed.map_err(|error| {
        let exit = if matches!(error, PackError::Unwritable(_)) { Exit::Fault } else { Exit::Usage };
        Failure::new(exit, format!("--artifact {shown}: {error}"))
    })?;
    let LeftOut { count, .. } = &packed.left_out;
    if *count > 0 {
        let files = if options.respect_gitignore { ".singletrackignore and .gitignore" } else { IGNORE_FILE };
        let things = if *count == 1 { "1 file or folder is" } else { "files or folders are" };
        let things = if *count == 1 { things.to_owned() } else { format!("{count} {things}") };
        session.screen.line(&format!("--artifact {shown}: {things} left out by {files}: {}", packed.left_out));
    }
    Ok(packed)
}

/// Uploads the artifact, unless the server has it.
///
/// # Errors
/// The server refuses the artifact, or `--timeout` passed.
pub async fn upload(
    session: &Session,
    packed: &Packed,
    deadline: &Deadline,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let show = |progress| show(session, packed, progress);
    let uploading = client::upload::upload(&session.connection, packed, &show);
    let ended = in_time(uploading, deadline, signals, "uploading the artifact").await;
    let ended = ended.and_then(|ended| ended.map_err(Failure::from));
    if ended.is_err() {
        session.screen.clear();
    }
    ended
}

async fn in_time<T>(
    work: impl Future<Output = T>,
    deadline: &Deadline,
    signals: &mut Signals,
    what: &str,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = signals.first() => Err(Failure::new(Exit::Interrupted, format!("interrupted while {what}; nothing was deployed"))),
        () = deadline.passed() => {
            Err(Failure::new(Exit::TimedOut, format!("`--timeout` passed while {what}; nothing was deployed"))
                .hint("pass a longer --timeout; what has been uploaded is not uploaded again"))
        }
    }
}

fn show(session: &Session, packed: &Packed, progress: Progress) {
    let (screen, name, all) = (&session.screen, short(&packed.digest), packed.bytes);
    match progress {
        Progress::Begins { offset } => {
            let from = if offset > 0 { format!(", going on at {}", size(offset)) } else { String::new() };
            screen.line(&format!("uploading artifact {name}: {} files, {}{from}", packed.entry_count, size(all)));
        }
        Progress::At(sent) => screen.upload(sent, all),
        Progress::Busy => screen.line(&format!("artifact {name} is being uploaded by another client; waiting")),
        Progress::WasThere => screen.line(&format!("artifact {name} is on the server already: {}", size(all))),
        Progress::Done => screen.line(&format!("artifact {name} is uploaded: {}", size(all))),
    }
}

/// A digest shortened for people.
fn short(digest: &Digest) -> &str {
    digest.as_str().get(..12).unwrap_or_default()
}
