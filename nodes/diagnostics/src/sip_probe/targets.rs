//! SIP addresses of a node, read once per incarnation while it runs, for probes when it is silent. Kept in memory
//! only: a member that has not heard the node since its own start knows no address and reports nothing.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::lookup_host, time::timeout};
use twinbox_calls::Transport;
use twinbox_ids::Incarnation;
use twinbox_wire::admin::NodeInfoReply;

/// Maximum number of addresses probed per node.
const MOST: usize = 8;
/// Timeout of a name look-up.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(1);
/// Maximum length of a host name (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;

/// A SIP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SipTarget {
    /// Transport of the address.
    pub transport: Transport,
    /// Address and port.
    pub address: SocketAddr,
}

/// SIP addresses of one incarnation of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipTargets {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// At most [`MOST`] addresses; none if the node listens on loopback only.
    pub targets: Vec<SipTarget>,
}

/// Parses an address as a node reports it: `udp 10.0.0.1:5060`.
fn said(text: &str) -> Option<(Transport, &str, u16)> {
    let (transport, address) = text.split_once(' ')?;
    let transport = [Transport::Udp, Transport::Tcp].into_iter().find(|t| t.label() == transport)?;
    let (host, port) = host_and_port(address)?;
    Some((transport, host, port))
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && host.len() <= LONGEST_NAME).then_some((host, port))
}

/// Whether this can be an address of the node that other members reach at `own`. A loopback address of the node
/// would lead to this machine.
fn leads_there(address: IpAddr, own: &[IpAddr]) -> bool {
    let address = address.to_canonical();
    let group = address.is_multicast() || address == IpAddr::from([255; 4]);
    !group && (!address.is_loopback() || own.iter().any(IpAddr::is_loopback))
}

/// Addresses that a node has reported, whose address for other members is `member`. `None` if the report is of
/// another incarnation than `incarnation`, or a name has no address now.
pub async fn learn(info: &NodeInfoReply, incarnation: Incarnation, member: &str) -> Option<SipTargets> {
    if info.incarnation.parse() != Ok(incarnation) {
        return None;
    }
    let (host, port) = host_and_port(member)?;
    let own: Vec<IpAddr> = look_up(host, port).await?.iter().map(SocketAddr::ip).collect();
    let mut targets = Vec::new();
    // Callers and members may use different networks: a partition of one of them must not look like a death.
    let said_all = info.sip.iter().chain(&info.sip_of_trunks).take(MOST);
    for (transport, host, port) in said_all.filter_map(|text| said(text)) {
        let everywhere = host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        let found = match everywhere {
            // The node listens on all addresses: its member address is one of them.
            true => own.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
            false => look_up(host, port).await?,
        };
        for address in found.into_iter().filter(|address| leads_there(address.ip(), &own)) {
            let target = SipTarget { transport, address };
            if targets.len() < MOST && !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    Some(SipTargets { incarnation, targets })
}

async fn look_up(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse() {
        return Some(vec![SocketAddr::new(ip, port)]);
    }
    let found = timeout(LOOK_UP_WITHIN, lookup_host((host, port))).await.ok()?.ok()?;
    let found: Vec<_> = found.filter(|found| !found.ip().is_unspecified()).take(MOST).collect();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn learned(member: &str, sip: &[&str]) -> Option<Vec<String>> {
        let sip = sip.iter().map(ToString::to_string).collect();
        let info = NodeInfoReply { incarnation: Incarnation(7).to_string(), sip, ..Default::default() };
        assert_eq!(learn(&info, Incarnation(8), member).await, None, "of another incarnation");
        let known = learn(&info, Incarnation(7), member).await?;
        Some(known.targets.iter().map(|p| format!("{} {}", p.transport.label(), p.address)).collect())
    }

    #[tokio::test]
    async fn addresses_are_taken_as_they_are_said_and_only_if_they_can_be_the_nodes() {
        let many: Vec<String> = (1..30).map(|port| format!("udp 10.0.0.2:{port}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (member, sip, expected) in [
            (
                "10.0.0.2:7070",
                &["udp 192.0.2.2:5060", "tcp 192.0.2.2:5080"][..],
                &["udp 192.0.2.2:5060", "tcp 192.0.2.2:5080"][..],
            ),
            ("10.0.0.2:7070", &["udp 0.0.0.0:5060", "tcp [::]:5060"], &["udp 10.0.0.2:5060", "tcp 10.0.0.2:5060"]),
            ("[2001:db8::2]:7070", &["udp [::]:5060", "udp [2001:db8::2]:5060"], &["udp [2001:db8::2]:5060"]),
            ("10.0.0.2:7070", &["udp 127.0.0.1:5060"], &[]),
            ("10.0.0.2:7070", &["udp 127.0.0.1:5060", "udp 10.0.0.2:5060"], &["udp 10.0.0.2:5060"]),
            ("127.0.4.2:7070", &["udp 127.0.4.2:5060"], &["udp 127.0.4.2:5060"]),
            ("10.0.0.2:7070", &["udp 224.0.1.75:5060", "udp 255.255.255.255:5060"], &[]),
            (
                "10.0.0.2:7070",
                &["", "udp", "tls 10.0.0.2:5061", "udp 10.0.0.2", "udp :5060", "udp 10.0.0.2:0"],
                &[],
            ),
            ("10.0.0.2:7070", &many, &many[..MOST]),
            ("10.0.0.2:7070", &[], &[]),
        ] {
            let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            assert_eq!(learned(member, sip).await, Some(expected), "{member} {sip:?}");
        }
        // A node that listens on all addresses is also probed at its addresses for callers.
        let info = NodeInfoReply {
            incarnation: Incarnation(7).to_string(),
            sip: vec!["udp 0.0.0.0:5060".into()],
            sip_of_trunks: vec!["udp 10.0.0.2:5060".into(), "udp 192.0.2.2:5060".into()],
            ..Default::default()
        };
        let known = learn(&info, Incarnation(7), "10.0.0.2:7070").await.expect("addresses");
        let ips: Vec<String> = known.targets.iter().map(|p| p.address.ip().to_string()).collect();
        assert_eq!(ips, ["10.0.0.2", "192.0.2.2"]);
        // Unknown is not dead: a name without an address is looked up again later.
        let nowhere = "x".repeat(300);
        assert_eq!(learned("10.0.0.2:7070", &["udp no.such.name.invalid:5060"]).await, None);
        assert_eq!(learned(&format!("{nowhere}:7070"), &[]).await, None);
    }
}
