//! Callers behind NAT: their session description names an unreachable address, and their packets come from another one.
//! They hear the node all the same, and their messages are stored bit for bit.

use std::time::Duration;

use twinbox_system_tests::assert_kept;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Lab, Spec, Transport, begin_to_speak, g711::Law, hang_up, leave_message, need,
};

fn lab() -> Option<Lab> {
    need::all(&[need::NAMESPACES]).then(|| Lab::new(&["a", "b", "w", "router"]))
}

/// Signalling and media come through the same NAT.
#[test]
fn caller_behind_nat_hears_the_greeting_and_is_recorded() {
    let Some(lab) = lab() else { return };
    let cluster = Cluster::start_in(&lab, &Spec::default());
    let user = Cluster::USERS[0];
    let behind = lab.behind_nat("router");
    // It waits until it hears the greeting, then skips it by a key.
    let deposit = leave_message(&behind, cluster.sip("a"), user.number, 2.0);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    for node in ["a", "b"] {
        assert_kept(&cluster, node, user.number, &deposit, 2.0, Duration::from_secs(5));
    }
}

/// The signalling comes from a proxy, the media through a NAT that the proxy does not know: accepted if the trunk
/// permits media from any host.
#[test]
fn caller_whose_media_alone_comes_through_nat_is_recorded_where_the_trunk_allows_it() {
    let Some(lab) = lab() else { return };
    let trunk = vec!["media_from_any_host = true".to_owned()];
    let cluster = Cluster::start_in(&lab, &Spec { trunk, ..Spec::default() });
    let user = Cluster::USERS[0];
    let endpoint = Endpoint::open(&lab.behind_nat("router"), Law::Mu);
    let invite = Invite::new(user.number, "2001", endpoint.address());
    let call =
        Call::place(cluster.phones(), cluster.sip("a"), Transport::Udp, &invite).expect("the call is answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(3.0);
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    for node in ["a", "b"] {
        assert_kept(&cluster, node, user.number, &deposit, 2.0, Duration::from_secs(5));
    }
}
