//! Configuration files to examine if the administrator names none.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use clap::Parser;
use twinbox_cli_args::{Cli, Command};
use twinbox_demo::Demo;

/// Paths of an installed member's file: manual installation, and under systemd or in a container.
const INSTALLED: [&str; 3] =
    ["/etc/twinbox/twinbox.toml", "/var/lib/twinbox/twinbox.toml", "/var/lib/twinbox-witness/twinbox.toml"];

/// Configuration files and their origin.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigFiles {
    /// Paths of the files; empty if there is nothing to examine.
    pub configs: Vec<PathBuf>,
    /// Origin as text; empty for the usual paths.
    pub origin: String,
}

/// Searches the usual paths, then the members that run on this machine, then a demo in this folder.
pub fn configs() -> ConfigFiles {
    find(&INSTALLED.map(PathBuf::from), Path::new("/proc"), Path::new("."))
}

fn find(paths: &[PathBuf], proc: &Path, folder: &Path) -> ConfigFiles {
    let installed: Vec<PathBuf> = paths.iter().filter(|file| file.exists()).cloned().collect();
    if !installed.is_empty() {
        return ConfigFiles { configs: installed, origin: String::new() };
    }
    let paths: Vec<String> = paths.iter().map(|file| file.display().to_string()).collect();
    let absent = format!("there is no {}", paths.join(", no "));
    let configs = running(proc);
    if !configs.is_empty() {
        return ConfigFiles {
            configs,
            origin: format!("{absent}: examining the members that run on this machine"),
        };
    }
    if let Some((file, configs)) = demo(folder) {
        let origin =
            format!("{absent}, and no member runs on this machine: examining the demo of {}", file.display());
        return ConfigFiles { configs, origin };
    }
    let origin = format!("{absent}, no member runs on this machine, and there is no demo in this folder");
    ConfigFiles { configs: Vec::new(), origin }
}

/// Files of the running nodes and witnesses, each once.
fn running(proc: &Path) -> Vec<PathBuf> {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut configs: Vec<PathBuf> = processes.filter_map(|process| config_of(&process.path())).collect();
    configs.sort();
    configs.dedup();
    configs
}

/// Configuration file of a process that runs a node or a witness, if the file is visible here.
fn config_of(process: &Path) -> Option<PathBuf> {
    let line = fs::read(process.join("cmdline")).ok()?;
    let words: Vec<OsString> =
        line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    let program = Path::new(words.first()?).file_name()?.to_string_lossy().contains("twinbox");
    let words = words.strip_suffix(&[OsString::new()]).unwrap_or(&words);
    let config = match Cli::try_parse_from(words).ok().filter(|_| program)?.command {
        Command::Node(args) => args.config,
        Command::Witness(args) => args.config,
        _ => return None,
    };
    let config = match config.is_absolute() {
        true => config,
        false => fs::read_link(process.join("cwd")).ok()?.join(config),
    };
    fs::canonicalize(config).ok()
}

/// A demo in this folder or directly below it: its file, and those of its members.
fn demo(folder: &Path) -> Option<(PathBuf, Vec<PathBuf>)> {
    let beneath = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = beneath.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders.insert(0, folder.to_owned());
    folders.iter().find_map(|folder| {
        let demo = Demo::load(folder).ok()?;
        let configs = demo.processes.into_iter().filter_map(|process| fs::canonicalize(process.config).ok());
        Some((Demo::file(folder), configs.collect())).filter(|(_, configs): &(_, Vec<_>)| !configs.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Machine {
        dir: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let machine = Self { dir: tempfile::tempdir().expect("a folder") };
            for folder in ["etc", "proc", "work", "here/twinbox-demo", "here/other"] {
                fs::create_dir_all(machine.path(folder)).expect("made");
            }
            machine
        }

        /// Canonical path, like the results.
        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().canonicalize().expect("a folder").join(name)
        }

        fn file(&self, name: &str) -> PathBuf {
            fs::write(self.path(name), "").expect("written");
            self.path(name)
        }

        fn process(&self, pid: &str, line: &str) {
            let process = self.path("proc").join(pid);
            fs::create_dir_all(&process).expect("made");
            fs::write(process.join("cmdline"), line.replace(' ', "\0") + "\0").expect("written");
            symlink(self.path("work"), process.join("cwd")).expect("linked");
        }

        fn find(&self) -> ConfigFiles {
            find(
                &[self.path("etc/twinbox.toml"), self.path("var/twinbox.toml")],
                &self.path("proc"),
                &self.path("here"),
            )
        }
    }

    #[test]
    fn running_members_are_found_by_command_line() {
        let machine = Machine::new();
        let (a, w) = (machine.file("work/a.toml"), machine.file("work/w.toml"));
        machine.process("10", "/usr/bin/twinbox node --config a.toml");
        machine.process("11", "/usr/bin/twinbox node --config a.toml --child");
        machine.process("12", &format!("/opt/twinbox-0.1 --json witness --config={}", w.display()));
        machine.process("13", "/usr/bin/twinbox node --config gone.toml");
        machine.process("14", "/usr/bin/twinbox user list");
        machine.process("15", "vi node --config a.toml");
        machine.process("16", "");
        let found = machine.find();
        assert_eq!(found.configs, [a, w]);
        assert!(found.origin.ends_with("examining the members that run on this machine"), "{}", found.origin);
    }

    #[test]
    fn installed_members_come_before_running_ones_and_a_demo() {
        let machine = Machine::new();
        let nothing = machine.find();
        assert_eq!(nothing.configs, Vec::<PathBuf>::new());
        assert!(
            nothing.origin.contains("no member runs on this machine, and there is no demo"),
            "{}",
            nothing.origin
        );

        let config = machine.file("here/twinbox-demo/a.toml");
        let demo = serde_json::json!({
            "base_port": 5060, "users": [],
            "processes": [{
                "name": "a", "kind": "node", "pid": 0, "config": config, "log": "a.log", "addresses": {"peer": ""},
            }],
        });
        fs::write(machine.path("here/twinbox-demo/demo.json"), demo.to_string()).expect("written");
        let found = machine.find();
        assert_eq!(found.configs, [config]);
        assert!(found.origin.contains("examining the demo of "), "{}", found.origin);

        let config = machine.file("work/a.toml");
        machine.process("10", "twinbox node --config a.toml");
        assert_eq!(machine.find().configs, [config]);

        let installed = machine.file("etc/twinbox.toml");
        assert_eq!(machine.find(), ConfigFiles { configs: vec![installed], origin: String::new() });
    }
}
