//! One incarnation of the node, and its exit.

use std::fmt;

use twinbox_ids::Incarnation;

/// Report of a node to its supervisor, also stored in its pid file for the next supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessInfo {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The id of its Raft store; 0 until that is open.
    pub raft_id: u64,
    /// Number of starts of that store; 0 until it is open.
    pub run: u64,
    /// Whether it takes calls.
    pub ready: bool,
}

impl ProcessInfo {
    /// A new incarnation that begins now.
    pub fn begin() -> Self {
        Self { incarnation: Incarnation::random(), raft_id: 0, run: 0, ready: false }
    }

    /// ExitNotice for pipe and file; [`ProcessInfo::parse`] reads it.
    pub fn line(&self) -> String {
        let Self { incarnation, raft_id, run, ready } = self;
        format!("life {incarnation} {raft_id} {run} {}\n", if *ready { "ready" } else { "starting" })
    }

    /// Parses one line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("life ")?.split_ascii_whitespace();
        let info = Self {
            incarnation: words.next()?.parse().ok()?,
            raft_id: words.next()?.parse().ok()?,
            run: words.next()?.parse().ok()?,
            ready: match words.next()? {
                "ready" => true,
                "starting" => false,
                _ => return None,
            },
        };
        words.next().is_none().then_some(info)
    }
}

/// Exit code of a process whose store takes no more writes after a failed one: EX_IOERR of sysexits ("input/output error").
pub const EXIT_DISK_FAILED: i32 = 74;

/// Cause of a process's exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCause {
    /// On its own, with this exit code.
    Code(i32),
    /// By a signal.
    Signal {
        /// Its number.
        number: i32,
        /// Whether a core was written.
        core: bool,
    },
    /// Not observed, for instance under another supervisor: the exit is certain, its cause is not.
    Unknown,
}

impl ExitCause {
    /// From a status of `wait`.
    pub fn of_wait_status(raw: i32) -> Self {
        match raw & 0x7f {
            0 => Self::Code((raw >> 8) & 0xff),
            number => Self::Signal { number, core: raw & 0x80 != 0 },
        }
    }

    /// Exit code as a shell would pass it on.
    pub fn code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal { number, .. } => 128 + number,
            Self::Unknown => 1,
        };
        u8::try_from(code).unwrap_or(1)
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(EXIT_DISK_FAILED) => write!(f, "exit code {EXIT_DISK_FAILED}: its disk had failed"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { number, core } => {
                write!(f, "signal {number}")?;
                if let Some(name) = signal_name(number) {
                    write!(f, " ({name})")?;
                }
                f.write_str(if core { ", core written" } else { "" })
            }
            Self::Unknown => f.write_str("cause unknown"),
        }
    }
}

/// Names of signals that end a process, by their Linux numbers.
fn signal_name(number: i32) -> Option<&'static str> {
    const NAMES: [(i32, &str); 12] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
        (31, "SIGSYS"),
    ];
    NAMES.iter().find(|(n, _)| *n == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_line_is_parsed_and_malformed_lines_are_refused() {
        let info = ProcessInfo { raft_id: u64::MAX, run: 7, ready: true, ..ProcessInfo::begin() };
        for info in [info, ProcessInfo::begin()] {
            assert_eq!(ProcessInfo::parse(&info.line()), Some(info));
        }
        let id = info.incarnation;
        for wrong in [
            "",
            "life",
            "life x 1 1 ready",
            &format!("life {id} 1 1"),
            &format!("life {id} 1 1 ready more"),
            "lives",
        ] {
            assert_eq!(ProcessInfo::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn exit_causes_have_a_text_and_the_exit_code_of_a_shell() {
        for (raw, text, code) in [
            (0, "exit code 0", 0),
            (0x6500, "exit code 101", 101),
            (9, "signal 9 (SIGKILL)", 137),
            (0x86, "signal 6 (SIGABRT), core written", 134),
            (64, "signal 64", 192),
        ] {
            let cause = ExitCause::of_wait_status(raw);
            assert_eq!((cause.to_string().as_str(), cause.code()), (text, code));
        }
    }
}
