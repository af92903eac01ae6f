//! Observations on this machine and requests to other members.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::Access,
    process::{Resource, getrlimit},
};
use tokio::net::{TcpStream, lookup_host};
use twinbox_config::ClusterConfig;
use twinbox_dns::Transport;
use twinbox_ids::NodeName;
use twinbox_wire::admin::{NodeInfoReply, NodeInfoRequest, node_info_client::NodeInfoClient};

use super::findings::{Answer, Disk};
use crate::folder::{self, Owner};

/// This machine's clock, in milliseconds since 1970.
pub fn now() -> i64 {
    i64::try_from(twinbox_clock::wall().0).unwrap_or(i64::MAX)
}

/// Observations about the data folder of `owner`.
pub fn disk(dir: &Path, owner: &Owner, reserve: u64) -> Disk {
    let Ok(space) = rustix::fs::statvfs(dir) else { return Disk::default() };
    let of_another = match folder::owner(dir) {
        Ok(found) => found.filter(|found| found != owner).map(|found| found.to_string()),
        Err(_) => None,
    };
    let refused = rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).err();
    Disk {
        there: dir.is_dir(),
        not_writable: refused.map(|errno| std::io::Error::from(errno).to_string()),
        of_another,
        free: space.f_bavail.saturating_mul(space.f_frsize),
        reserve,
    }
}

/// Maximum number of open files of a process of this user; `None`: unlimited.
pub fn most_open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Binds a port and releases it.
pub fn bind(transport: Transport, bind: SocketAddr) -> std::io::Result<()> {
    match transport {
        Transport::Udp => UdpSocket::bind(bind).map(drop),
        Transport::Tcp => TcpListener::bind(bind).map(drop),
    }
}

/// Requests name and time of another member; fails if its name, port or certificate is wrong.
pub async fn member(
    cluster: &ClusterConfig,
    name: &NodeName,
    address: &str,
    limit: Duration,
) -> (Answer, Option<NodeInfoReply>) {
    let late = || format!("no answer in {:.0} s", limit.as_secs_f64());
    let found = match tokio::time::timeout(limit, lookup_host(address)).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => return (Answer::NoAddress(error.to_string()), None),
        Err(_) => return (Answer::NoAddress(late()), None),
    };
    match tokio::time::timeout(limit, TcpStream::connect(found.as_slice())).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return (Answer::NoConnection(error.to_string()), None),
        Err(_) => return (Answer::NoConnection(late()), None),
    }
    let asked = async {
        let endpoint = cluster.tls.endpoint(name, address).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| causes(&error))?;
        // Connected: only the request and the answer are timed.
        let before = now();
        let reply = NodeInfoClient::new(channel).show(NodeInfoRequest {}).await;
        let reply = reply.map_err(|status| status.message().to_owned())?.into_inner();
        Ok::<_, String>((before, reply, now()))
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok((before, reply, after))) => {
            let theirs = i64::try_from(reply.now_ms).unwrap_or(i64::MAX);
            (Answer::Clock { theirs, before, after }, Some(reply))
        }
        Ok(Err(why)) => (Answer::NotItself(why), None),
        // The connection was accepted, as also by a process that hangs.
        Err(_) => (Answer::NoConnection(late()), None),
    }
}

/// Text of an error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // The text of many errors ends with that of their cause.
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error{0}")]
    struct Outer(&'static str, #[source] std::num::ParseIntError);

    #[test]
    fn cause_that_the_error_names_already_is_not_repeated() {
        let inner = || "x".parse::<u8>().expect_err("no number");
        let expected = "transport error: invalid digit found in string";
        for named in ["", ": invalid digit found in string"] {
            assert_eq!(causes(&Outer(named, inner())), expected);
        }
    }
}
