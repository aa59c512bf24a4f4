//! The `process_*` metrics with their standard names, read from `/proc` at each scrape; what cannot be read is left out.

use std::fmt;
use std::path::PathBuf;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Linux shows times to programs in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads this process's entry in `/proc`.
#[derive(Debug)]
pub(super) struct Process {
    root: PathBuf,
}

impl Default for Process {
    fn default() -> Self {
        Self { root: PathBuf::from("/proc/self") }
    }
}

impl Process {
    fn read(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }

    /// A field of `status`, which is in KiB, as bytes.
    fn memory(&self, field: &str) -> Option<i64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<i64>().ok()?.checked_mul(1024)
    }

    /// User and system time in seconds.
    fn cpu(&self) -> Option<f64> {
        let stat = self.read("stat")?;
        // The command's name may hold spaces; what follows it does not. `utime` and `stime` are fields 14 and 15.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u32 = fields.next()?.parse().ok()?;
        let system: u32 = fields.next()?.parse().ok()?;
        Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
    }

    fn open_fds(&self) -> Option<i64> {
        i64::try_from(std::fs::read_dir(self.root.join("fd")).ok()?.count()).ok()
    }

    fn max_fds(&self) -> Option<i64> {
        let limits = self.read("limits")?;
        limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory size in bytes", self.memory("VmRSS")),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", self.memory("VmSize")),
            ("process_open_fds", "Open file descriptors", self.open_fds()),
            ("process_max_fds", "Most open file descriptors allowed", self.max_fds()),
        ] {
            if let Some(value) = value {
                let gauge = ConstGauge::<i64>::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            }
        }
        if let Some(seconds) = self.cpu() {
            let counter = ConstCounter::new(seconds);
            let help = "User and system CPU time spent in seconds";
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_entry_can_be_read() {
        let process = Process::default();
        assert!(process.memory("VmRSS").unwrap() > 1 << 20);
        assert!(process.cpu().unwrap() >= 0.0);
        assert!(process.open_fds().unwrap() >= 3);
        assert!(process.max_fds().unwrap() > 0);
    }

    #[test]
    fn an_odd_command_name_does_not_confuse() {
        let directory = tempfile::tempdir().unwrap();
        let stat = "7 (a b) c) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 1 1 1\n";
        std::fs::write(directory.path().join("stat"), stat).unwrap();
        let process = Process { root: directory.path().to_owned() };
        assert_eq!(process.cpu(), Some(2.0));
        assert_eq!(process.memory("VmRSS"), None);
    }
}
