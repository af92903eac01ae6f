//! Ports of a node's listeners: two of them with the same one are found before the node starts, not by the bind of the second.

use std::net::{IpAddr, SocketAddr};

use twinbox_calls::Transport;

use super::reader::Section;

/// The listeners of a node so far.
#[derive(Debug, Default)]
pub(super) struct Ports(Vec<Listener>);

#[derive(Debug)]
struct Listener {
    /// Its key in the file.
    key: String,
    transport: Transport,
    bind: SocketAddr,
}

impl Ports {
    /// Adds the listener of a key; records a mistake if an earlier one has its port.
    pub(super) fn add(&mut self, root: &Section, key: &str, transport: Transport, bind: SocketAddr) {
        let added = Listener { key: key.to_owned(), transport, bind };
        if let Some(Listener { key: first, bind: taken, .. }) = self.0.iter().find(|first| first.meets(&added)) {
            let transport = transport.label();
            root.wrong(
                key,
                format!("'{bind}' ({transport}) has the port of {first}, '{taken}': give one of them another"),
            );
        }
        self.0.push(added);
    }
}

impl Listener {
    /// Whether this listener and the other one cannot both be bound. Port 0 is any free port.
    fn meets(&self, other: &Self) -> bool {
        // A socket on all IPv6 addresses includes the IPv4 ones.
        let anywhere = |ip: IpAddr, towards: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || towards.is_ipv4());
        let (own, others) = (self.bind.ip(), other.bind.ip());
        let same_address = own == others || anywhere(own, others) || anywhere(others, own);
        let port = self.bind.port();
        self.transport == other.transport && port != 0 && port == other.bind.port() && same_address
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::{example, load_node};

    #[test]
    fn listeners_with_the_same_port_are_named_both() {
        let text = example("node.example.toml");
        let with = |metrics: &str, tcp: &str, smtp: &str| {
            let tcp = format!("transport = \"tcp\"\nbind = \"{tcp}\"");
            let text = text
                .replace("bind = \"127.0.0.1:9090\"", &format!("bind = \"{metrics}\""))
                .replace("transport = \"tcp\"\nbind = \"0.0.0.0:5060\"", &tcp)
                .replace("\n[mail.in]\n", &format!("\n[mail.in]\nsmtp = [{smtp}]\n"));
            load_node(&text)
        };
        let (metrics, tcp) = ("127.0.0.1:9090", "0.0.0.0:5060");
        for (metrics, tcp, smtp, [key, first]) in [
            ("0.0.0.0:7070", tcp, "", ["metrics.bind: '0.0.0.0:7070' (tcp)", "cluster.bind, '0.0.0.0:7070'"]),
            ("127.0.0.1:7071", tcp, "", ["metrics.bind: '127.0.0.1:7071'", "cluster.supervisor, '0.0.0.0:7071'"]),
            (
                metrics,
                "[::]:9090",
                "",
                ["sip.listener[1].bind: '[::]:9090' (tcp)", "metrics.bind, '127.0.0.1:9090'"],
            ),
            (metrics, tcp, "\"[::]:5060\"", ["sip.listener[1].bind: '0.0.0.0:5060'", "mail.in.smtp, '[::]:5060'"]),
            (metrics, tcp, "\"[::1]:25\", \"[::1]:25\"", ["mail.in.smtp: '[::1]:25'", "mail.in.smtp, '[::1]:25'"]),
        ] {
            let error = with(metrics, tcp, smtp).expect_err(key);
            let report = error.to_string();
            assert!(
                error.count() == 1 && report.contains(key) && report.contains(first),
                "no '{key}', '{first}': {report}"
            );
        }
        // Other addresses, port 0, and UDP beside TCP.
        for (metrics, tcp, smtp) in [
            (metrics, tcp, ""),
            ("127.0.0.1:0", "0.0.0.0:0", "\"0.0.0.0:0\""),
            ("127.0.0.1:9090", "10.0.0.1:9090", "\"[::1]:9090\""),
        ] {
            with(metrics, tcp, smtp).unwrap_or_else(|error| panic!("{metrics} {tcp} {smtp}: {error}"));
        }
    }
}
