//! How long the disk takes to make a write durable. All other figures must be compared with this figure.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::report::{Spread, Times};

/// How long it is measured.
const DURATION: Duration = Duration::from_millis(500);

/// Writes 4 KiB and waits until that is durable, again and again, within a file that has its room already.
pub fn fsync_latency(name: &str) -> Result<Spread> {
    let dir = tempfile::tempdir()?;
    let file = OpenOptions::new().create_new(true).write(true).open(dir.path().join("probe"))?;
    let block = [7; 4096];
    for at in 0..256 {
        file.write_all_at(&block, at * 4096)?;
    }
    file.sync_all()?;
    let mut times = Times::default();
    let begun = Instant::now();
    for at in (0..256).cycle() {
        if begun.elapsed() > DURATION {
            break;
        }
        let asked = Instant::now();
        file.write_all_at(&block, at * 4096)?;
        file.sync_data()?;
        times.add(asked.elapsed());
    }
    Ok(times.spread(name))
}
