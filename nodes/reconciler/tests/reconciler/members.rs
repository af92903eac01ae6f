//! Replication follows the list of members.

use std::time::Duration;

use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use twinbox_reconciler::follow_members;
use twinbox_roles::{MemberAddress, MemberKind};
use twinbox_store_kit::{name, pair};

fn member(node: &str, kind: MemberKind, address: &str) -> MemberAddress {
    MemberAddress { name: name(node), kind, address: address.to_owned() }
}

#[tokio::test]
async fn node_is_followed_at_its_new_address_until_it_is_removed() {
    let dir = TempDir::new().expect("a folder");
    let (a, _b) = pair(dir.path()).await;
    let moved = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = moved.local_addr().expect("an address").to_string();
    let own = member("a", MemberKind::Node, "127.0.0.1:1");
    let witness = member("w", MemberKind::Witness, "127.0.0.1:2");

    follow_members(&a.peers, &[own.clone(), member("b", MemberKind::Node, &address), witness.clone()]);
    assert_eq!(a.peers.known(), 1);
    let connected = timeout(Duration::from_secs(10), moved.accept()).await;
    connected.expect("a connects to the new address").expect("accepted");

    follow_members(&a.peers, &[own, witness]);
    assert_eq!(a.peers.known(), 0);
    assert!(a.mailstore.together(), "no other node holds data any more");
}
