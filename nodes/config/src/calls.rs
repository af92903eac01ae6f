//! `[sip]` and `[[sip.listener]]`, and the keys of `[rtp]` and `[voicemail]` for the SIP server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use twinbox_calls::{CallsConfig, ListenerConfig, Mistake, Transport};
use twinbox_cluster_settings::Values;

use super::{node::RtpConfig, reader::Section, shared_settings::apply_to_calls, trunks::FileTrunks};

/// Reads the settings of calls; `values` and `trunks` are those that all nodes share. `rtp` is `None` if its section has mistakes,
/// which are already reported.
pub(super) fn read(
    root: &mut Section,
    values: &Values,
    trunks: &FileTrunks,
    rtp: Option<&RtpConfig>,
) -> Option<CallsConfig> {
    let mut usual = CallsConfig::default();
    apply_to_calls(values, &mut usual);
    let mut sip = root.section("sip");
    let mut config = CallsConfig {
        max_calls: sip.number("max_calls", 1..=100_000, usual.max_calls as i64) as usize,
        max_calls_per_second: sip.number("max_calls_per_second", 1..=100_000, usual.max_calls_per_second.into())
            as u32,
        max_subscriptions: sip.number("max_subscriptions", 0..=1_000_000, usual.max_subscriptions as i64) as usize,
        dns_servers: sip.list::<SocketAddr>("dns_servers", "an address with its port, such as \"10.0.0.53:53\""),
        dscp: sip.number("dscp", 0..=63, usual.dscp.into()) as u8,
        ..usual
    };
    config.listeners = sip.sections("listener").into_iter().filter_map(listener).collect();
    if let Some(rtp) = rtp {
        let usual = match config.listeners.iter().any(|listener| listener.bind.is_ipv6()) {
            true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        config.rtp = twinbox_calls::RtpConfig { bind: rtp.bind.unwrap_or(usual), advertise: rtp.advertise };
        let lines = (rtp.ports.len() / 2).max(1);
        if config.max_calls > lines {
            sip.wrong(
                "max_calls",
                format!(
                    "is {}, but rtp.ports has room for {lines} calls (two ports each): widen the one or lower the other",
                    config.max_calls
                ),
            );
        }
    }
    sip.finish();
    config.trunks = trunks.configs();
    // Settings that all nodes share were checked before.
    let own =
        |mistake: &Mistake| !["min_se_s", "session_expires_s", "max_message_ms"].contains(&mistake.key.as_str());
    for mistake in config.mistakes().into_iter().filter(own) {
        root.wrong(&file_key(&mistake.key), mistake.what);
    }
    rtp.map(|_| config)
}

fn transport(section: &mut Section) -> Option<Transport> {
    match section.word("transport", &["udp", "tcp"], "") {
        "udp" => Some(Transport::Udp),
        "tcp" => Some(Transport::Tcp),
        _ => None,
    }
}

fn listener(mut section: Section) -> Option<ListenerConfig> {
    let transport = transport(&mut section).unwrap_or(Transport::Udp);
    let bind = section.require::<SocketAddr>("bind", "an address and port, such as \"0.0.0.0:5060\"");
    let advertise = section.text("advertise");
    section.finish();
    Some(ListenerConfig { transport, bind: bind?, advertise })
}

/// Key in the file for a key of the SIP server.
fn file_key(key: &str) -> String {
    match key.split_once(['[', '.']) {
        Some(("trunks", _)) => key.replacen("trunks", "trunk", 1),
        Some(("listeners", _)) => key.replacen("listeners", "sip.listener", 1),
        Some(("rtp", _)) => key.to_owned(),
        _ if key == "listeners" => "sip.listener".to_owned(),
        _ => format!("sip.{key}"),
    }
}
