//! Traces system calls of running processes, in one order for all of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{NetPlace, Process, wait_until};

/// An attached strace.
pub struct Strace {
    process: Process,
    output: PathBuf,
    processes: Vec<(String, u32)>,
}

/// A completed system call, in the order of completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The name given to the process.
    pub who: String,
    /// The call with its arguments and result.
    pub text: String,
}

impl Strace {
    /// Attaches to all threads of these processes (name, pid). The expressions are strace's: `trace=…`, `inject=…`.
    pub fn attach(processes: &[(&str, u32)], expressions: &[&str], folder: &Path) -> Self {
        let output = folder.join("strace.out");
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "600", "-o"]).arg(&output);
        command.args(expressions.iter().flat_map(|expression| ["-e", *expression]));
        for (_, pid) in processes {
            command.args(["-p", &pid.to_string()]);
        }
        let here = NetPlace::here(std::net::Ipv4Addr::LOCALHOST);
        let process = Process::start("strace", command, &here, &folder.join("strace.log"));
        let traced = |pid: u32| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
            tasks.map(status).all(|s| !s.contains("TracerPid:\t0\n"))
        };
        wait_until("strace to hold every thread", Duration::from_secs(10), || {
            processes.iter().all(|(_, p)| traced(*p))
        });
        let processes = processes.iter().map(|(n, p)| (n.to_string(), *p)).collect();
        Self { process, output, processes }
    }

    /// Detaches and returns the events.
    pub fn finish(mut self) -> Vec<Event> {
        let threads: Vec<(u32, String)> = (self.processes.iter())
            .flat_map(|(name, pid)| {
                let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
                tasks.filter_map(|t| Some((t.file_name().to_str()?.parse().ok()?, name.clone())))
            })
            .collect();
        self.process.signal(libc::SIGINT);
        if self.process.wait(Duration::from_secs(5)).is_none() {
            self.process.stop(Duration::from_secs(5));
        }
        events(&String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()), &threads)
    }
}

/// Joins the halves of interrupted calls; a call is placed where it *ended*.
fn events(output: &str, threads: &[(u32, String)]) -> Vec<Event> {
    let (mut events, mut begun) = (Vec::new(), std::collections::HashMap::new());
    for line in output.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Ok(pid) = pid.parse::<u32>() else { continue };
        let rest = rest.trim_start();
        let text = if let Some(head) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, head.to_owned());
            continue;
        } else if let Some((_, tail)) = rest.strip_prefix("<... ").and_then(|r| r.split_once(" resumed>")) {
            begun.remove(&pid).unwrap_or_default() + tail
        } else {
            rest.to_owned()
        };
        let who = threads.iter().find(|(t, _)| *t == pid).map_or_else(|| "?".to_owned(), |(_, n)| n.clone());
        events.push(Event { who, text });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_is_placed_at_its_end() {
        let output = "7 fdatasync(3 <unfinished ...>\n8 sendto(4, \"SIP/2.0 200\", 11) = 11\n7 <... fdatasync resumed>) = 0\n";
        let events = events(output, &[(7, "a".to_owned()), (8, "b".to_owned())]);
        let texts: Vec<(&str, &str)> = events.iter().map(|e| (e.who.as_str(), e.text.as_str())).collect();
        assert_eq!(texts, [("b", "sendto(4, \"SIP/2.0 200\", 11) = 11"), ("a", "fdatasync(3) = 0")]);
    }
}
