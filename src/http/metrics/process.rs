//! The figures of the process under the names that every Prometheus library gives them, read from `/proc`.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    param::clock_ticks_per_second,
    process::{Resource, getrlimit},
};

/// Reads the figures at each scrape. What the system does not tell is left out.
#[derive(Debug)]
pub struct ProcessCollector {
    /// In Unix seconds; it never changes.
    started_at: Option<f64>,
}

impl ProcessCollector {
    pub fn new() -> Self {
        let started_at = stat().and_then(|stat| Some(boot_time()? + stat.start_seconds));
        ProcessCollector { started_at }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let stat = stat();
        if let Some(stat) = &stat {
            let help = "Processor time that the process has taken, in seconds.";
            let cpu = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(stat.cpu_seconds).encode(cpu)?;
        }
        let limit = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64);
        let resident = stat.as_ref().map(|stat| stat.resident_bytes);
        let virtual_size = stat.as_ref().map(|stat| stat.virtual_bytes);
        let gauges = [
            ("process_resident_memory_bytes", "Memory that the process has in use, in bytes.", resident),
            ("process_virtual_memory_bytes", "Memory that the process has addresses for, in bytes.", virtual_size),
            ("process_open_fds", "File descriptors that are open.", open_descriptors()),
            ("process_max_fds", "How many file descriptors may be open.", Some(limit)),
            ("process_start_time_seconds", "When the process started, in Unix seconds.", self.started_at),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        Ok(())
    }
}

/// A part of `/proc/self/stat`.
struct ProcessStat {
    cpu_seconds: f64,
    /// After the machine's start.
    start_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

fn stat() -> Option<ProcessStat> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may contain anything; behind it stand numbers, from the third field on.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let ticks = clock_ticks_per_second() as f64;
    Some(ProcessStat {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        start_seconds: field(22)? / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * rustix::param::page_size() as f64,
    })
}

/// When the machine started, in Unix seconds.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn open_descriptors() -> Option<f64> {
    // Without the one by which the folder is read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}
