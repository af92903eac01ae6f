//! A small network: a namespace for each machine, a bridge between them, cuts and heals.

use std::{
    fs,
    net::Ipv4Addr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    NetPlace,
    switch::{Link, Switch},
};

static LABS: AtomicU32 = AtomicU32::new(0);
const PHONES: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// The inner side of a router that is a NAT, the one address behind it, and the ports that it assigns.
const NAT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
const NAT_PORTS: RangeInclusive<u16> = 50_000..=59_999;

/// A bridge in a separate namespace with its machines: `10.77.0.1`, `10.77.0.2` …; the phones are at the bridge itself,
/// `10.77.0.254`. Two labs never reach each other. Dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    machines: Vec<String>,
    switch: Option<Switch>,
}

fn run(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
}

impl Lab {
    /// A network of these machines.
    pub fn new(machines: &[&str]) -> Self {
        let lab = Self::named_spaces(machines);
        let hub = lab.namespace("hub");
        run(&["-n", &hub, "link", "add", "br0", "type", "bridge"]);
        run(&["-n", &hub, "addr", "add", &format!("{PHONES}/24"), "dev", "br0"]);
        run(&["-n", &hub, "link", "set", "br0", "up"]);
        for (n, machine) in machines.iter().enumerate() {
            let (namespace, port) = (lab.namespace(machine), format!("p{n}"));
            run(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
            run(&["-n", &hub, "link", "set", &port, "master", "br0", "up"]);
            lab.bring_up(machine, lab.ip(machine));
        }
        lab
    }

    /// A network of these machines whose links have delay and loss ([`Lab::set_link`]): frames pass through a switch in
    /// this process. `seed` decides the frames that are lost.
    pub fn switched(machines: &[&str], seed: u64) -> Self {
        let mut lab = Self::named_spaces(machines);
        let names: Vec<&str> = machines.iter().copied().chain(["hub"]).collect();
        let places: Vec<NetPlace> = names.iter().map(|name| lab.named(name, lab.ip(name))).collect();
        lab.switch = Some(Switch::start(&places, seed));
        names.iter().for_each(|name| lab.bring_up(name, lab.ip(name)));
        lab
    }

    fn named_spaces(machines: &[&str]) -> Self {
        let prefix = format!("tb{}x{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let lab = Self { prefix, machines: machines.iter().map(ToString::to_string).collect(), switch: None };
        for machine in machines.iter().copied().chain(["hub"]) {
            run(&["netns", "add", &lab.namespace(machine)]);
            run(&["-n", &lab.namespace(machine), "link", "set", "lo", "up"]);
        }
        lab
    }

    fn bring_up(&self, machine: &str, ip: Ipv4Addr) {
        let namespace = self.namespace(machine);
        run(&["-n", &namespace, "addr", "add", &format!("{ip}/24"), "dev", "eth0"]);
        run(&["-n", &namespace, "link", "set", "eth0", "up"]);
    }

    /// Sets both directions between these two from now on. Only for a lab with a switch; `"hub"` is the place of the
    /// phones.
    pub fn set_link(&self, one: &str, other: &str, link: Link) {
        let (one, other) = (self.port(one), self.port(other));
        self.switch().set(one, other, link);
        self.switch().set(other, one, link);
    }

    /// Bytes of Ethernet frames between these two, both directions together. Only for a lab with a switch.
    pub fn bytes_between(&self, one: &str, other: &str) -> u64 {
        let (one, other) = (self.port(one), self.port(other));
        self.switch().bytes(one, other) + self.switch().bytes(other, one)
    }

    fn switch(&self) -> &Switch {
        self.switch.as_ref().expect("the lab was made with a switch")
    }

    fn port(&self, machine: &str) -> usize {
        match machine {
            "hub" => self.machines.len(),
            _ => usize::from(self.ip(machine).octets()[3]) - 1,
        }
    }

    fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }

    fn ip(&self, machine: &str) -> Ipv4Addr {
        if machine == "hub" {
            return PHONES;
        }
        let n = self.machines.iter().position(|m| m == machine);
        let n = n.unwrap_or_else(|| panic!("the lab has no machine {machine}"));
        Ipv4Addr::new(10, 77, 0, n as u8 + 1)
    }

    /// Place of a machine.
    pub fn place(&self, machine: &str) -> NetPlace {
        self.named(machine, self.ip(machine))
    }

    /// Place of the phones: at the bridge, reachable by every machine.
    pub fn phones(&self) -> NetPlace {
        self.named("hub", PHONES)
    }

    fn named(&self, machine: &str, ip: Ipv4Addr) -> NetPlace {
        NetPlace { ip, namespace: Some(PathBuf::from("/run/netns").join(self.namespace(machine))) }
    }

    /// A place behind `router`, a machine of this lab that becomes a NAT: packets from there have the router's address
    /// and another port, and only replies come in. The inner address is unknown to other machines.
    pub fn behind_nat(&self, router: &str) -> NetPlace {
        let (outside, inside) = (self.namespace(router), self.namespace(&format!("{router}-in")));
        run(&["netns", "add", &inside]);
        run(&["-n", &inside, "link", "set", "lo", "up"]);
        run(&["-n", &outside, "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", &inside]);
        run(&["-n", &outside, "addr", "add", &format!("{NAT}/24"), "dev", "eth1"]);
        run(&["-n", &outside, "link", "set", "eth1", "up"]);
        run(&["-n", &inside, "addr", "add", &format!("{PRIVATE}/24"), "dev", "eth0"]);
        run(&["-n", &inside, "link", "set", "eth0", "up"]);
        run(&["-n", &inside, "route", "add", "default", "via", &NAT.to_string()]);
        run(&["netns", "exec", &outside, "sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        let ports = format!("{}-{}", NAT_PORTS.start(), NAT_PORTS.end());
        let rewrite = ["-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-p", "udp", "-j", "MASQUERADE"];
        self.iptables(router, &[&rewrite[..], &["--to-ports", &ports, "--random"]].concat());
        // Forward only what the inside began; the rest would be routed without NAT.
        let known =
            ["-A", "FORWARD", "-i", "eth0", "-m", "conntrack", "!", "--ctstate", "ESTABLISHED", "-j", "DROP"];
        self.iptables(router, &known);
        NetPlace { ip: PRIVATE, namespace: Some(PathBuf::from("/run/netns").join(inside)) }
    }

    /// Programs started by [`Lab::command`] look names up at this address from now on.
    pub fn name_server(&self, at: Ipv4Addr) {
        let folder = self.resolver();
        fs::create_dir_all(&folder).expect("a namespace can have files of its own");
        fs::write(folder.join("resolv.conf"), format!("nameserver {at}\n")).expect("they can be written");
    }

    /// Folder of the replacements for files of `/etc`, used by `ip netns exec`.
    fn resolver(&self) -> PathBuf {
        Path::new("/etc/netns").join(self.namespace("hub"))
    }

    /// A program at the phones' place.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace("hub")]).arg(program);
        command
    }

    /// Packets of `from` no longer reach `to` (one way, silently: nothing is refused).
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let source = self.ip(from).to_string();
        self.iptables(to, &["-I", "INPUT", "-s", &source, "-j", "DROP"]);
    }

    /// Cuts both directions.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// `machine` refuses TCP from `from` immediately, though all its processes live: a hint, never proof of death.
    pub fn refuse(&self, from: &str, machine: &str) {
        let source = self.ip(from).to_string();
        let rule = ["-I", "INPUT", "-p", "tcp", "-s", &source, "-j", "REJECT", "--reject-with", "tcp-reset"];
        self.iptables(machine, &rule);
    }

    /// Packets to this UDP port of `machine` are lost, from itself too.
    pub fn drop_udp(&self, machine: &str, port: u16) {
        self.iptables(machine, &["-I", "INPUT", "-p", "udp", "--dport", &port.to_string(), "-j", "DROP"]);
    }

    /// TCP on these ports between `machine` and the other machines is lost, both ways; all other traffic passes.
    pub fn cut_ports(&self, machine: &str, first: u16, last: u16) {
        let ports = format!("{first}:{last}");
        for other in self.machines.iter().filter(|other| *other != machine) {
            for (from, to) in [(machine, other.as_str()), (other.as_str(), machine)] {
                let source = self.ip(from).to_string();
                for side in ["--dport", "--sport"] {
                    self.iptables(to, &["-I", "INPUT", "-s", &source, "-p", "tcp", side, &ports, "-j", "DROP"]);
                }
            }
        }
    }

    /// Removes all cuts.
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
        let _ = fs::remove_dir_all(self.resolver());
        for machine in self.machines.iter().map(String::as_str).chain(["hub"]) {
            for namespace in [self.namespace(machine), self.namespace(&format!("{machine}-in"))] {
                let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
            }
        }
    }
}
