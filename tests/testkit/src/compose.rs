//! A cluster in containers: a compose file of `deploy/`, in a separate project and on separate networks.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Found, Loopback, NetPlace, Speech,
    g711::{self, Law},
    wait_for,
};

/// A project that is removed, with its volumes, networks and image, when this is dropped.
#[derive(Debug)]
pub struct Compose {
    file: PathBuf,
    image: String,
    project: String,
    /// Third byte of both networks' addresses.
    block: u8,
    _claim: Loopback,
}

impl Compose {
    /// `docker-compose up -d` with this file and a separate image.
    pub fn up(file: &Path, image: &str) -> Self {
        let claim = Loopback::claim();
        let block = claim.place(1).ip.octets()[2];
        let project = format!("twinboxtest{block}");
        let compose = Self { file: file.to_owned(), image: image.to_owned(), project, block, _claim: claim };
        // Leftovers of an earlier test that was killed.
        let _ = compose.command(&["down", "--volumes"]).output();
        compose.run(&["up", "-d"]);
        compose
    }

    /// The machine itself, as the containers see it: the place of a PBX.
    pub fn phones(&self) -> NetPlace {
        NetPlace::here([10, 214, self.block, 1].into())
    }

    /// A node's address on the PBX's network, by its last byte.
    pub fn sip(&self, last: u8) -> std::net::SocketAddr {
        std::net::SocketAddr::from(([10, 214, self.block, last], 5060))
    }

    /// Disconnects a service's container from one of the project's networks, silently for its peers.
    pub fn cut(&self, service: &str, network: &str) {
        self.docker(&["network", "disconnect", &self.named(network), &self.container(service)]);
    }

    /// Reconnects it at its address, of which this is the last byte.
    pub fn heal(&self, service: &str, network: &str, last: u8) {
        let second = if network == "pbx" { 214 } else { 213 };
        let address = format!("10.{second}.{}.{last}", self.block);
        self.docker(&["network", "connect", "--ip", &address, &self.named(network), &self.container(service)]);
    }

    /// Removes a service's volume, like a broken disk, with the containers that use it.
    pub fn lose(&self, service: &str) {
        self.run(&["rm", "-sfv", service, "form"]);
        self.docker(&["volume", "rm", &self.named(service)]);
    }

    /// A network or volume of the project.
    fn named(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// Another image under the same name, with the same program.
    pub fn renew_image(&self) {
        let mut command = Command::new("docker");
        command.args(["build", "--quiet", "--tag", &self.image, "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut build = command.spawn().expect("docker runs");
        let text = format!("FROM {}\nLABEL renewed=yes\n", self.image);
        let given = build.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
        assert!(given.is_some_and(|given| given.is_ok()) && build.wait().is_ok_and(|s| s.success()), "{command:?}");
    }

    /// Whether a service's container is of the newest image of that name.
    pub fn is_renewed(&self, service: &str) -> bool {
        let newest = self.docker(&["image", "inspect", "--format", "{{.Id}}", &self.image]);
        self.docker(&["inspect", "--format", "{{.Image}}", &self.container(service)]) == newest
    }

    /// Removes everything and checks that nothing is left.
    pub fn tear_down(self) {
        let (project, image) = (self.project.clone(), self.image.clone());
        self.run(&["down", "--volumes", "--timeout", "3"]);
        drop(self);
        let label = format!("label=com.docker.compose.project={project}");
        for what in [&["ps", "--all"][..], &["volume", "ls"], &["network", "ls"]] {
            let mut command = Command::new("docker");
            command.args(what).args(["--quiet", "--filter", &label]);
            let left = succeed(command).stdout;
            assert!(left.is_empty(), "{what:?}: {}", String::from_utf8_lossy(&left));
        }
        let mut command = Command::new("docker");
        command.args(["image", "ls", "--quiet", &image]);
        assert!(succeed(command).stdout.is_empty(), "{image} is left");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let standalone = Command::new("docker-compose").arg("version").output().is_ok_and(|o| o.status.success());
        let mut command = Command::new(if standalone { "docker-compose" } else { "docker" });
        if !standalone {
            command.arg("compose");
        }
        command
            .env("TWINBOX_IMAGE", &self.image)
            .env("TWINBOX_CLUSTER_NET", format!("10.213.{}", self.block))
            .env("TWINBOX_PBX_NET", format!("10.214.{}", self.block))
            .args(["--project-name", &self.project, "--file"])
            .arg(&self.file)
            .args(arguments);
        command
    }

    /// docker-compose with these arguments, which must succeed.
    pub fn run(&self, arguments: &[&str]) -> Output {
        succeed(self.command(arguments))
    }

    /// docker with these arguments, which must succeed; returns its output.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("docker");
        command.args(arguments);
        String::from_utf8_lossy(&succeed(command).stdout).trim().to_owned()
    }

    /// The id of a service's container.
    pub fn container(&self, service: &str) -> String {
        let (project, service) = (&self.project, format!("label=com.docker.compose.service={service}"));
        let project = format!("label=com.docker.compose.project={project}");
        let ids = self.docker(&["ps", "--all", "--quiet", "--filter", &project, "--filter", &service]);
        ids.lines().next().unwrap_or_else(|| panic!("no container with {service}")).to_owned()
    }

    /// `twinbox` inside a service's container.
    pub fn twinbox(&self, service: &str, arguments: &[&str]) -> Output {
        twinbox_in(&self.container(service), arguments)
    }

    /// Waits until every member is in service, as this service sees it.
    pub fn wait_in_service(&self, service: &str) {
        self.twinbox(service, &["cluster", "status", "--wait", "in-service", "--timeout", "60"]);
    }

    /// Waits until the engine's health check reports a service's container as healthy.
    pub fn wait_healthy(&self, service: &str) {
        let container = self.container(service);
        wait_for("the health check to say healthy", Duration::from_secs(60), || {
            let health = self.docker(&["inspect", "--format", "{{.State.Health.Status}}", &container]);
            assert_ne!(health, "unhealthy", "{service}");
            (health == "healthy").then_some(())
        });
    }

    /// The piece of `speech` in a message of this mailbox on this node; waits for it. All of the message must be that
    /// piece, bit for bit.
    pub fn wait_kept(&self, service: &str, mailbox: &str, speech: &Speech, spoken: usize) -> Found {
        let container = self.container(service);
        let mut others = std::collections::BTreeSet::new();
        wait_for("the message to be there", Duration::from_secs(20), || {
            let list = twinbox_in(&container, &["--json", "message", "list", mailbox]);
            let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
            list["messages"].as_array()?.iter().rev().find_map(|message| {
                let id = message["id"].as_str()?;
                if !others.insert(id.to_owned()) {
                    return None;
                }
                let wav = twinbox_in(&container, &["message", "export", mailbox, id, "--output", "-"]).stdout;
                let audio = g711::from_wav(&wav, Law::Mu).expect("a message is audio");
                let found = speech.find_in(&audio, spoken)?;
                assert_eq!(found.length, audio.len(), "all of the message is what was said, bit for bit");
                Some(found)
            })
        })
    }
}

fn twinbox_in(container: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(["exec", container, "twinbox"]).args(arguments);
    succeed(command)
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        said(&output.stdout),
        said(&output.stderr)
    );
    output
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(logs) = self.command(&["logs", "--no-color", "--tail", "40"]).output()
        {
            eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        if std::env::var_os("TWINBOX_KEEP").is_none() {
            let _ = self.command(&["kill"]).output();
            let _ = self.command(&["down", "--volumes", "--timeout", "1"]).output();
            let _ = Command::new("docker").args(["image", "rm", &self.image]).output();
        }
    }
}
