//! Findings from observations. Pure, so that a table can test all cases.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use serde::Serialize;

/// Certificates are renewed automatically long before: if this little validity is left, the renewal does not work.
const EXPIRY_MS: i64 = 30 * DAY_MS;
const DAY_MS: i64 = 86_400_000;
/// Maximum difference between clocks; a larger one makes time stamps wrong.
const DRIFT_MS: i64 = 1_000;

/// A fault with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Area of the check: `clock`, `disk` …
    pub area: &'static str,
    /// Description of the fault.
    pub what: String,
    /// Remedy for the administrator.
    pub remedy: String,
}

impl Finding {
    /// Creates a finding.
    pub fn new(area: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { area, what: what.into(), remedy: remedy.into() }
    }
}

/// A mistake in the configuration. Its text usually ends with the remedy.
pub fn mistake(file: &Path, key: &str, words: &str) -> Finding {
    let area = match key {
        "cluster.tls_dir" => "certificates",
        "sip.max_calls" if words.contains("rtp.ports") => "rtp",
        _ if key.starts_with("rtp.") => "rtp",
        // A witness has several clusters.
        _ if key.ends_with("].tls_dir") => "certificates",
        _ => "configuration",
    };
    let check = || format!("correct it; 'twinbox config check {}' shows details", file.display());
    if key.is_empty() {
        return Finding::new(area, format!("{} {words}", file.display()), check());
    }
    if words.contains("does not verify") || words.contains("; take it from a backup") {
        let words = words.split("; take it from a backup").next().unwrap_or(words);
        let remedy = "take the file from a backup of this folder; otherwise make a new folder for this member: 'twinbox cluster \
                      replace' on a node, 'twinbox cluster join' here";
        return Finding::new(area, format!("{key}: {words}"), remedy);
    }
    let (what, remedy) = match words.rfind(": ").into_iter().chain(words.rfind("; ")).max() {
        Some(at) => (&words[..at], words[at + 2..].to_owned()),
        None => (words, check()),
    };
    Finding::new(area, format!("{key}: {what}"), remedy)
}

/// Observations about a data folder.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Whether the path is a folder.
    pub there: bool,
    /// Reason why it is not writable.
    pub not_writable: Option<String>,
    /// Owner of the data, if it is another member.
    pub of_another: Option<String>,
    /// Free space, in bytes.
    pub free: u64,
    /// Reserved space, in bytes.
    pub reserve: u64,
}

/// Findings about the data folder `dir`, named by the setting `key`.
pub fn disk(key: &str, dir: &Path, seen: &Disk) -> Vec<Finding> {
    let dir = dir.display();
    let one = |what: String, remedy: &str| vec![Finding::new("disk", what, remedy)];
    if !seen.there {
        return one(
            format!("{key}: there is no folder {dir}"),
            "mount its disk, or create it and make the node's user its owner",
        );
    }
    if let Some(owner) = &seen.of_another {
        return one(
            format!("{key}: {dir} holds the data of {owner}"),
            "mount the right disk there, or set another folder",
        );
    }
    if let Some(why) = &seen.not_writable {
        return one(
            format!("{key}: {dir} cannot be written: {why}"),
            "mount it for writing, and make the node's user its owner",
        );
    }
    let mb = |bytes: u64| bytes >> 20;
    let room = "free space on the data disk, or use a larger disk";
    let then = match seen.free {
        free if free <= seen.reserve / 4 => "the node does not start with so little space",
        free if free <= seen.reserve => "new messages are refused",
        free if free < seen.reserve.saturating_mul(2) => "soon new messages are refused",
        _ => return Vec::new(),
    };
    one(format!("{} MB are free, {} MB are reserved: {then}", mb(seen.free), mb(seen.reserve)), room)
}

/// Validity of certificates, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// Begin of the member's certificate.
    pub begins: i64,
    /// End of the member's certificate.
    pub ends: i64,
    /// End of the CA certificate.
    pub authority_ends: i64,
}

/// Findings about a member's certificates at time `now`.
pub fn certificates(seen: Validity, now: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let renewal = "it is renewed automatically while this member runs and reaches a node with the authority: start it, and \
                   check its log for the obstacle";
    let rotation = "create a new authority before then";
    for (what, ends, remedy) in [
        ("this member's certificate", seen.ends, renewal),
        ("the cluster's authority", seen.authority_ends, rotation),
    ] {
        let left = ends.saturating_sub(now);
        if left <= 0 {
            findings.push(Finding::new("certificates", format!("{what} has expired"), remedy));
        } else if left < EXPIRY_MS {
            let days = left / DAY_MS;
            findings.push(Finding::new("certificates", format!("{what} expires in {days} days"), remedy));
        }
    }
    if seen.begins > now {
        findings.push(Finding::new(
            "certificates",
            "this member's certificate is not valid yet",
            "set this machine's clock (chrony, systemd-timesyncd)",
        ));
    }
    findings
}

/// Finding if the limit of open files `most` is too low for `max_calls`.
pub fn open_files(most: Option<u64>, max_calls: u64) -> Option<Finding> {
    let needed = crate::open_files_for(max_calls);
    let most = most.filter(|most| *most < needed)?;
    Some(Finding::new(
        "limits",
        format!("{most} open files are allowed, sip.max_calls = {max_calls} needs {needed}"),
        "raise LimitNOFILE of the unit (or ulimit -n), or lower sip.max_calls",
    ))
}

/// Finding about a port of the setting `key` that could not be bound.
pub fn port(key: &str, transport: &str, bind: SocketAddr, why: &std::io::Error) -> Finding {
    let what = format!("{key}: {transport} {bind} cannot be bound: {why}");
    let remedy = match why.kind() {
        std::io::ErrorKind::AddrNotAvailable => {
            format!("assign {} to this machine, or change the setting", bind.ip())
        }
        std::io::ErrorKind::PermissionDenied => "use a port from 1024, or grant CAP_NET_BIND_SERVICE".to_owned(),
        _ => {
            format!(
                "stop the process that uses it ('ss -lpn sport = :{}' shows it), or change the setting",
                bind.port()
            )
        }
    };
    Finding::new("ports", what, remedy)
}

/// Result of contacting another member at its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name has no address.
    NoAddress(String),
    /// No connection was accepted.
    NoConnection(String),
    /// The answer is not from that member.
    NotItself(String),
    /// Clock of the member, and of this machine before and after.
    Clock {
        /// Time of the member.
        theirs: i64,
        /// Time here at the request.
        before: i64,
        /// Time here at the answer.
        after: i64,
    },
}

/// Finding about another member, contacted at the address that the other members use.
pub fn member(name: &str, address: &str, answer: &Answer) -> Option<Finding> {
    Some(match answer {
        Answer::NoAddress(why) => Finding::new(
            "dns",
            format!("{name}'s address {address} does not resolve: {why}"),
            "correct that [[cluster.member]], or add the name to DNS or /etc/hosts",
        ),
        Answer::NoConnection(why) => Finding::new(
            "ports",
            format!("{name} is not reachable at {address} (tcp): {why}"),
            "start it, or open that port between the members in the firewall",
        ),
        Answer::NotItself(why) => Finding::new(
            "certificates",
            format!("the server at {address} does not prove to be {name}: {why}"),
            "correct that [[cluster.member]], or copy the right folder of this cluster to the member",
        ),
        Answer::Clock { theirs, before, after } => {
            // The answer was given at some time between the two.
            let apart = match theirs {
                theirs if theirs > after => theirs - after,
                theirs if theirs < before => theirs - before,
                _ => 0,
            };
            if apart.abs() <= DRIFT_MS {
                return None;
            }
            let way = if apart > 0 { "ahead of" } else { "behind" };
            Finding::new(
                "clock",
                format!("{name}'s clock is {:.1} s {way} this machine's", apart.abs() as f64 / 1000.0),
                "use the same time servers on both (chrony, systemd-timesyncd)",
            )
        }
    })
}

/// Reason why a SIP target was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreachable {
    /// The name has no address; the text includes the remedy.
    Name(String),
    /// No address answered OPTIONS.
    Silent(String),
}

/// Finding about a trunk's proxy that does not answer.
pub fn trunk(name: &str, proxy: &str, why: &Unreachable) -> Finding {
    match why {
        Unreachable::Name(why) => {
            Finding::new("dns", format!("the proxy of trunk '{name}', {proxy}, does not resolve"), why.as_str())
        }
        Unreachable::Silent(why) => Finding::new(
            "trunks",
            format!("trunk '{name}' does not answer OPTIONS at {proxy}: {why}"),
            "correct its proxy, or allow SIP from this node's address on the PBX",
        ),
    }
}

/// Finding about a value of the file that differs from the cluster's, which counts.
pub fn ignored_setting(key: &str, file: &str, in_force: &str) -> Option<Finding> {
    let cluster = if in_force.is_empty() { "none" } else { in_force };
    (file != in_force).then(|| {
        Finding::new(
            "settings",
            format!("{key} = {file} in the file has no effect: the cluster's value, {cluster}, is used"),
            format!(
                "delete the key from the file; to change the cluster's value: 'twinbox setting set {key}=VALUE'"
            ),
        )
    })
}

/// Finding about an address that a node advertises and that is not reachable.
pub fn advertised(node: &str, address: &str, why: &Unreachable) -> Finding {
    match why {
        Unreachable::Name(why) => Finding::new(
            "dns",
            format!("{node} advertises {address} for SIP, which does not resolve"),
            why.as_str(),
        ),
        Unreachable::Silent(why) => Finding::new(
            "addresses",
            format!("{node} advertises {address} for SIP, which is not reachable from here: {why}"),
            "correct 'advertise' of that [[sip.listener]], or open the port in firewall and router",
        ),
    }
}

/// Finding about the audio address announced to callers.
pub fn media(announced: IpAddr, sip_is_outside: bool) -> Option<Finding> {
    (announced.is_loopback() && sip_is_outside).then(|| {
        Finding::new(
            "addresses",
            format!("RTP is announced at {announced}, which other machines cannot reach"),
            "set rtp.advertise to an address that the PBX reaches",
        )
    })
}

/// Findings from comparing the targets of the shared name over one transport with the nodes' addresses.
pub fn shared_name(
    name: &str,
    transport: &str,
    leads_to: &[SocketAddr],
    nodes: &[(String, Vec<SocketAddr>)],
) -> Vec<Finding> {
    let zone = format!("add the output of 'twinbox dns records {name}' to the zone");
    let mut findings = Vec::new();
    for (node, addresses) in nodes {
        if !addresses.is_empty() && !addresses.iter().any(|address| leads_to.contains(address)) {
            let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let what = format!("{name} does not lead to {node} ({addresses}, {transport}): it gets no calls");
            findings.push(Finding::new("dns", what, zone.as_str()));
        }
    }
    let ours: BTreeSet<_> = nodes.iter().flat_map(|(_, addresses)| addresses).collect();
    for stray in leads_to.iter().filter(|address| !ours.contains(address)) {
        let what =
            format!("{name} leads to {stray} ({transport}), which is not a node's address: calls there fail");
        findings.push(Finding::new("dns", what, zone.as_str()));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the area, and a word each of the fault and the remedy.
    fn is(finding: &Finding, area: &str, what: &str, remedy: &str) {
        assert_eq!(finding.area, area, "{finding:?}");
        assert!(finding.what.contains(what), "no '{what}' in {finding:?}");
        assert!(finding.remedy.contains(remedy), "no '{remedy}' in {finding:?}");
    }

    #[test]
    fn mistakes_of_the_file_have_an_area_and_a_remedy() {
        let found = |key: &str, words: &str| mistake(Path::new("/etc/x.toml"), key, words);
        for (key, words, area, what, remedy) in [
            ("", "cannot be read: No such file", "configuration", "/etc/x.toml cannot be read", "config check"),
            (
                "sip.max_calls",
                "is 500, but rtp.ports has room for 50 calls (two ports each): widen the one or lower the other",
                "rtp",
                "sip.max_calls: is 500",
                "widen the one",
            ),
            ("sip.max_calls", "is 0, expected a whole number from 1 to 9", "configuration", "is 0", "config check"),
            ("rtp.ports", "'9' will not do: write LOW-HIGH", "rtp", "'9' will not do", "write LOW-HIGH"),
            (
                "cluster.tls_dir",
                "/x/node.pem is not a usable certificate: ca.pem does not verify it: UnknownIssuer; take it from a backup of x",
                "certificates",
                "UnknownIssuer",
                "from a backup of this folder",
            ),
            (
                "cluster.tls_dir",
                "/x/node.pem is not valid at the time of this machine (certificate expired): set its clock if that is wrong",
                "certificates",
                "certificate expired",
                "set its clock",
            ),
            (
                "cluster.tls_dir",
                "holds the certificate of b in cluster 1: copy this member's folder of this cluster",
                "certificates",
                "certificate of b",
                "copy this member's folder",
            ),
            (
                "cluster[1].tls_dir",
                "cannot read x: none; `y` makes it",
                "certificates",
                "cannot read x",
                "`y` makes",
            ),
            ("node.nmae", "is not a key of this section; did you mean 'name'?", "configuration", "nmae", "'name'"),
        ] {
            is(&found(key, words), area, what, remedy);
        }
    }

    #[test]
    fn disk_must_exist_be_own_writable_and_have_space() {
        let good = Disk { there: true, free: 1 << 30, reserve: 256 << 20, ..Disk::default() };
        let found = |seen: Disk| disk("node.data_dir", Path::new("/data"), &seen);
        assert_eq!(found(good.clone()), []);
        for (seen, what, remedy) in [
            (Disk::default(), "there is no folder /data", "mount its disk"),
            (Disk { of_another: Some("member 'b'".into()), ..good.clone() }, "member 'b'", "the right disk"),
            (Disk { not_writable: Some("Read-only".into()), ..good.clone() }, "Read-only", "for writing"),
            (Disk { free: 300 << 20, ..good.clone() }, "300 MB are free, 256 MB are reserved: soon", "free space"),
            (Disk { free: 256 << 20, ..good.clone() }, "new messages are refused", "free space"),
            (Disk { free: 64 << 20, ..good.clone() }, "does not start", "free space"),
        ] {
            let found = found(seen);
            assert_eq!(found.len(), 1, "{found:?}");
            is(&found[0], "disk", what, remedy);
        }
    }

    #[test]
    fn certificates_must_be_valid_now_and_for_30_days() {
        let (now, far) = (1_000 * DAY_MS, 1_100 * DAY_MS);
        let good = Validity { begins: now - DAY_MS, ends: far, authority_ends: far };
        assert_eq!(certificates(good, now), []);
        for (seen, what, remedy) in [
            (
                Validity { ends: now + 29 * DAY_MS, ..good },
                "this member's certificate expires in 29 days",
                "is renewed automatically",
            ),
            (Validity { ends: now, ..good }, "this member's certificate has expired", "is renewed automatically"),
            (Validity { authority_ends: now + DAY_MS, ..good }, "authority expires in 1 days", "new authority"),
            (Validity { begins: now + 1, ..good }, "not valid yet", "clock"),
        ] {
            let found = certificates(seen, now);
            assert_eq!(found.len(), 1, "{found:?}");
            is(&found[0], "certificates", what, remedy);
        }
        assert_eq!(certificates(Validity { ends: now + 30 * DAY_MS, ..good }, now), []);
    }

    #[test]
    fn member_must_resolve_answer_prove_its_name_and_have_the_same_time() {
        let found = |answer: &Answer| member("b", "b.example:7070", answer);
        let clock = |theirs: i64| Answer::Clock { theirs, before: 10_000, after: 10_400 };
        for (theirs, what) in [
            (8_999, Some("b's clock is 1.0 s behind")),
            (9_000, None),
            (10_200, None),
            (11_400, None),
            (71_400, Some("b's clock is 61.0 s ahead of")),
        ] {
            match (found(&clock(theirs)), what) {
                (Some(finding), Some(what)) => is(&finding, "clock", what, "time servers"),
                (found, what) => assert_eq!(found.map(|f| f.what), what.map(str::to_owned), "{theirs}"),
            }
        }
        let why = || "why".to_owned();
        for (answer, area, what, remedy) in [
            (Answer::NoAddress(why()), "dns", "b's address b.example:7070 does not resolve: why", "/etc/hosts"),
            (Answer::NoConnection(why()), "ports", "b is not reachable at b.example:7070 (tcp): why", "firewall"),
            (Answer::NotItself(why()), "certificates", "does not prove to be b: why", "the right folder"),
        ] {
            is(&found(&answer).expect("a finding"), area, what, remedy);
        }
    }

    #[test]
    fn ports_limits_and_addresses_are_checked() {
        let bind: SocketAddr = "192.0.2.1:5060".parse().expect("an address");
        let refused = |kind: std::io::ErrorKind| port("[[sip.listener]] bind", "udp", bind, &kind.into());
        for (kind, remedy) in [
            (std::io::ErrorKind::AddrInUse, "ss -lpn sport = :5060"),
            (std::io::ErrorKind::AddrNotAvailable, "assign 192.0.2.1 to this machine"),
            (std::io::ErrorKind::PermissionDenied, "CAP_NET_BIND_SERVICE"),
        ] {
            is(&refused(kind), "ports", "[[sip.listener]] bind: udp 192.0.2.1:5060 cannot be bound", remedy);
        }
        assert_eq!((open_files(None, 500), open_files(Some(4_024), 500)), (None, None));
        is(&open_files(Some(1_024), 500).expect("too few"), "limits", "1024 open files", "LimitNOFILE");
        let home = IpAddr::from([127, 0, 0, 1]);
        assert_eq!((media(home, false), media(bind.ip(), true)), (None, None));
        is(&media(home, true).expect("not reached"), "addresses", "127.0.0.1", "rtp.advertise");
    }

    #[test]
    fn unreachable_sip_targets_are_reported() {
        let (name, silent) =
            (Unreachable::Name("add its records".into()), Unreachable::Silent("no answer in 2 s".into()));
        is(&trunk("pbx", "pbx.example", &name), "dns", "the proxy of trunk 'pbx', pbx.example,", "add its records");
        is(&trunk("pbx", "10.0.0.9", &silent), "trunks", "does not answer OPTIONS at 10.0.0.9: no", "its proxy");
        is(&advertised("a", "x:5060 (udp)", &name), "dns", "a advertises x:5060 (udp)", "add its records");
        is(
            &advertised("a", "x:5060 (udp)", &silent),
            "addresses",
            "is not reachable from here: no answer",
            "'advertise'",
        );
    }

    #[test]
    fn shared_name_must_resolve_to_every_node_and_nothing_else() {
        let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let (a, b, stray) = (at("10.0.0.1:5060"), at("10.0.0.2:5060"), at("10.0.0.9:5060"));
        let nodes = [("a".to_owned(), vec![a]), ("b".to_owned(), vec![b]), ("c".to_owned(), vec![])];
        let found = |leads_to: &[SocketAddr]| shared_name("vm.example", "udp", leads_to, &nodes);
        assert_eq!(found(&[a, b]), []);
        let lacking = found(&[a]);
        assert_eq!(lacking.len(), 1, "{lacking:?}");
        is(&lacking[0], "dns", "vm.example does not lead to b (10.0.0.2:5060, udp)", "dns records vm.example");
        let too_many = found(&[a, stray, b]);
        assert_eq!(too_many.len(), 1, "{too_many:?}");
        is(&too_many[0], "dns", "10.0.0.9:5060 (udp), which is not a node's", "dns records");
        // Another port is another address.
        assert_eq!(found(&[a, at("10.0.0.2:5061")]).len(), 2);
    }
}
