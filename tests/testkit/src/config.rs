//! Specification of a test's cluster, and its members' configuration files.

use std::{fmt::Write, net::SocketAddr, path::PathBuf};

use crate::NetPlace;

/// Specification of a test's cluster. The defaults are those of production, except for short drains, and for an
/// `ack_timeout` that a machine busy with other tests can meet; tests that check times set their own.
#[derive(Debug, Clone)]
pub struct Spec {
    /// With a witness in addition to the two nodes.
    pub witness: bool,
    /// Log filter of all members.
    pub log: &'static str,
    /// `ack_timeout_ms`.
    pub ack_timeout_ms: u64,
    /// `timing`: `lan` or `wan`.
    pub timing: &'static str,
    /// `max_calls`.
    pub max_calls: u32,
    /// `reserve_mb`.
    pub reserve_mb: u32,
    /// `ports` of `[rtp]`.
    pub rtp_ports: &'static str,
    /// A PBX that wants MWI as unsolicited NOTIFYs.
    pub mwi: Option<SocketAddr>,
    /// Further lines of `[sip]`.
    pub sip: Vec<String>,
    /// Further lines of the `[[trunk]]` that phones and PBX call from.
    pub trunk: Vec<String>,
    /// Time that calls in progress may continue after SIGTERM, in seconds.
    pub drain_seconds: u32,
    /// Further lines of `[voicemail]`.
    pub voicemail: Vec<String>,
    /// Put these members' data into these folders instead of the cluster's.
    pub data_dirs: Vec<(String, PathBuf)>,
    /// Lines of nodes' `[alarms]`, and of tables beneath it.
    pub alarms: Vec<String>,
    /// Lines of nodes' `[mail]`, and of tables beneath it; `{node}` and `{ip}` become the node's name and address.
    pub mail: Vec<String>,
    /// Further lines of `[node]`.
    pub node: Vec<String>,
    /// The environment of members: member, name, value.
    pub env: Vec<(&'static str, &'static str, String)>,
    /// The initial program of members, instead of the one under test.
    pub program: Option<PathBuf>,
    /// Do not wait for the cluster, and add no users.
    pub raw: bool,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            witness: true,
            log: "info",
            ack_timeout_ms: 1000,
            timing: "lan",
            max_calls: 500,
            reserve_mb: 16,
            rtp_ports: "10000-12999",
            mwi: None,
            sip: Vec::new(),
            trunk: Vec::new(),
            drain_seconds: 1,
            voicemail: Vec::new(),
            data_dirs: Vec::new(),
            alarms: Vec::new(),
            mail: Vec::new(),
            node: Vec::new(),
            env: Vec::new(),
            program: None,
            raw: false,
        }
    }
}

/// The input of a member's configuration file.
pub(crate) struct Page<'a> {
    pub spec: &'a Spec,
    pub cluster_name: &'a str,
    pub cluster_id: &'a str,
    pub name: &'a str,
    pub place: &'a NetPlace,
    pub home: &'a std::path::Path,
    pub data_dir: &'a std::path::Path,
    /// Name, kind, address of every member.
    pub members: &'a [(String, &'static str, SocketAddr)],
    /// Networks that may call.
    pub callers: String,
}

impl Page<'_> {
    /// The file's text.
    pub fn text(&self) -> String {
        let witness = self.kind() == "witness";
        let mut text = String::new();
        let (own, cluster) = if witness { ("witness", "[[cluster]]") } else { ("node", "[cluster]") };
        let _ = writeln!(text, "[{own}]\nname = {:?}\ndata_dir = {:?}", self.name, self.data_dir);
        if !witness {
            let socket = self.home.join("admin.sock");
            let (reserve, drain) = (self.spec.reserve_mb, self.spec.drain_seconds);
            let _ = writeln!(text, "admin_socket = {socket:?}\ndrain_seconds = {drain}\nreserve_mb = {reserve}");
            let _ = writeln!(text, "{}", self.spec.node.join("\n"));
        }
        let _ = writeln!(
            text,
            "\n{cluster}\nname = {:?}\nid = {:?}\ntls_dir = {:?}\nbind = \"{}\"\nack_timeout_ms = {}\ntiming = {:?}",
            self.cluster_name,
            self.cluster_id,
            self.home.join("tls"),
            self.place.port(7070),
            self.spec.ack_timeout_ms,
            self.spec.timing,
        );
        for (name, kind, address) in self.members {
            let _ =
                writeln!(text, "\n[[cluster.member]]\nname = {name:?}\nkind = {kind:?}\naddress = \"{address}\"");
        }
        if !witness {
            self.node(&mut text);
        }
        let _ = writeln!(text, "\n[log]\nfilter = {:?}", self.spec.log);
        text
    }

    fn kind(&self) -> &'static str {
        self.members.iter().find(|(name, _, _)| name == self.name).map_or("node", |(_, kind, _)| kind)
    }

    fn node(&self, text: &mut String) {
        let ip = self.place.ip;
        let _ = writeln!(text, "\n[sip]\nmax_calls = {}\n{}", self.spec.max_calls, self.spec.sip.join("\n"));
        for transport in ["udp", "tcp"] {
            let _ = writeln!(text, "\n[[sip.listener]]\ntransport = \"{transport}\"\nbind = \"{ip}:5060\"");
        }
        let ports = self.spec.rtp_ports;
        let _ = writeln!(text, "\n[rtp]\nbind = \"{ip}\"\nports = \"{ports}\"\nthreads = 1\ntimeout_seconds = 5");
        let _ = writeln!(text, "\n[metrics]\nbind = \"{ip}:9090\"");
        let _ = writeln!(text, "\n[[trunk]]\nname = \"phones\"\naddresses = [{:?}]", self.callers);
        if let Some(pbx) = self.spec.mwi {
            let _ = writeln!(text, "mwi = \"sip:{{mailbox}}@{pbx}\"\nproxy = \"{pbx}\"");
        }
        let _ = writeln!(text, "{}", self.spec.trunk.join("\n"));
        let _ = writeln!(text, "\n[voicemail]\n{}", self.spec.voicemail.join("\n"));
        let _ = writeln!(text, "\n[alarms]\n{}", self.spec.alarms.join("\n"));
        if !self.spec.mail.is_empty() {
            let lines = self.spec.mail.join("\n").replace("{node}", self.name).replace("{ip}", &ip.to_string());
            let _ = writeln!(text, "\n[mail]\n{lines}");
        }
    }
}
