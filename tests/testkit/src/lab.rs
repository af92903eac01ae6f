//! A small network: a namespace for each machine, a bridge between them, cuts and heals.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::Place;

static LABS: AtomicU32 = AtomicU32::new(0);

/// A bridge in a namespace of its own with one machine after the other on it: `10.77.0.1`, `10.77.0.2` …; the
/// phones stand at the bridge itself, `10.77.0.254`. Two labs never see each other. Dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    machines: Vec<String>,
}

fn run(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
}

impl Lab {
    /// A network of these machines.
    pub fn new(machines: &[&str]) -> Self {
        let prefix = format!("tb{}x{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let lab = Self { prefix, machines: machines.iter().map(ToString::to_string).collect() };
        let hub = lab.namespace("hub");
        run(&["netns", "add", &hub]);
        run(&["-n", &hub, "link", "set", "lo", "up"]);
        run(&["-n", &hub, "link", "add", "br0", "type", "bridge"]);
        run(&["-n", &hub, "addr", "add", "10.77.0.254/24", "dev", "br0"]);
        run(&["-n", &hub, "link", "set", "br0", "up"]);
        for (n, machine) in machines.iter().enumerate() {
            let (namespace, port) = (lab.namespace(machine), format!("p{n}"));
            run(&["netns", "add", &namespace]);
            run(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
            run(&["-n", &hub, "link", "set", &port, "master", "br0", "up"]);
            run(&["-n", &namespace, "link", "set", "lo", "up"]);
            run(&["-n", &namespace, "addr", "add", &format!("{}/24", lab.ip(machine)), "dev", "eth0"]);
            run(&["-n", &namespace, "link", "set", "eth0", "up"]);
        }
        lab
    }

    fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }

    fn ip(&self, machine: &str) -> Ipv4Addr {
        let n = self.machines.iter().position(|m| m == machine);
        let n = n.unwrap_or_else(|| panic!("the lab has no machine {machine}"));
        Ipv4Addr::new(10, 77, 0, n as u8 + 1)
    }

    /// Where a machine is.
    pub fn place(&self, machine: &str) -> Place {
        self.named(machine, self.ip(machine))
    }

    /// Where the phones are: at the bridge, in reach of every machine.
    pub fn phones(&self) -> Place {
        self.named("hub", Ipv4Addr::new(10, 77, 0, 254))
    }

    fn named(&self, machine: &str, ip: Ipv4Addr) -> Place {
        Place { ip, namespace: Some(PathBuf::from("/run/netns").join(self.namespace(machine))) }
    }

    /// What `from` sends no longer reaches `to` (one way, silently: nothing is refused).
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let source = self.ip(from).to_string();
        self.iptables(to, &["-I", "INPUT", "-s", &source, "-j", "DROP"]);
    }

    /// Neither hears the other.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// `machine` refuses TCP from `from` at once, though all its processes live: a hint, never proof of death.
    pub fn refuse(&self, from: &str, machine: &str) {
        let source = self.ip(from).to_string();
        let rule = ["-I", "INPUT", "-p", "tcp", "-s", &source, "-j", "REJECT", "--reject-with", "tcp-reset"];
        self.iptables(machine, &rule);
    }

    /// Everybody hears everybody again.
    pub fn heal(&self) {
        for machine in &self.machines {
            self.iptables(machine, &["-F", "INPUT"]);
        }
    }

    fn iptables(&self, machine: &str, rule: &[&str]) {
        let namespace = self.namespace(machine);
        let mut arguments = vec!["netns", "exec", &namespace, "iptables", "-w"];
        arguments.extend(rule);
        run(&arguments);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for machine in self.machines.iter().map(String::as_str).chain(["hub"]) {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(machine)]).output();
        }
    }
}
