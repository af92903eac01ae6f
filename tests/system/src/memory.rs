//! Peak of the memory of a process, as the kernel counts it.

use std::fs;

use twinbox_testkit::peak_bytes;

/// A measurement of one process.
#[derive(Debug)]
pub struct PeakMemory {
    pid: u32,
    /// Resident memory at the beginning, in bytes.
    before: u64,
}

impl PeakMemory {
    /// Begins a measurement: from here on the peak counts.
    pub fn begin(pid: u32) -> Self {
        // 5 sets the peak to what is resident (proc(5)).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak of a process can be reset");
        Self { pid, before: peak_bytes(pid) }
    }

    /// Bytes by which the peak exceeds the memory at the beginning.
    pub fn grown(&self) -> u64 {
        peak_bytes(self.pid).saturating_sub(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_counts_what_was_given_back() {
        let memory = PeakMemory::begin(std::process::id());
        let large = vec![1_u8; 32 << 20];
        assert_eq!(large.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 32 << 20);
        drop(large);
        assert!(memory.grown() >= 24 << 20, "{} bytes", memory.grown());
    }
}
