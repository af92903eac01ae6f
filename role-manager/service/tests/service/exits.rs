//! Exit proofs (rule R1): their effect, and their permitted senders.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status};
use twinbox_clock::BootInstant;
use twinbox_ids::{ClusterId, Incarnation};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_roles::{Duty, MoveObject, Timing};
use twinbox_wire::roles::{Exit, ReportRequest, exits_client::ExitsClient};

use crate::common::{Cluster, name};

/// Long enough that all moves before its expiry are due to the proof.
const LEASE: Duration = Duration::from_secs(4);

fn formed() -> Cluster {
    let mut cluster = Cluster::prepare(&["a", "b", "w"]);
    cluster.timing = Timing { lease: LEASE, ..Timing::lan() };
    cluster.run_all(&["a", "b", "w"]);
    cluster.wait_formed();
    cluster.wait_voting();
    cluster
}

/// Reports to `to` that these incarnations of `node` have ended, with this certificate.
fn report(
    cluster: &Cluster,
    identity: &Arc<NodeIdentity>,
    to: &str,
    node: &str,
    incarnations: &[Incarnation],
) -> Result<(), Status> {
    let exit = |incarnation: &Incarnation| Exit {
        incarnation: incarnation.to_bytes().to_vec().into(),
        raft_id: 1,
        run: 1,
        how: "signal 9 (SIGKILL)".to_owned(),
    };
    let request = ReportRequest { node: node.to_owned(), exits: incarnations.iter().map(exit).collect(), port: 0 };
    let endpoint = identity.endpoint(&name(to), &cluster.address(to).to_string()).expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { ExitsClient::new(endpoint.connect_lazy()).report(request).await.map(drop) })
}

/// The holder's process dies, together with Raft's leader or without it.
fn holder_dies(with_leader: bool) {
    let mut cluster = formed();
    let holder = cluster.wait_holder().0;
    if !with_leader {
        // Leadership leaves the publisher when the cluster is at rest (rule R10).
        cluster.until("another leads", |c| c.leader("w").is_some_and(|leader| leader != holder));
    }
    let leads = cluster.leader("w").is_some_and(|leader| leader == holder);
    let (text, identity) = (holder.to_string(), cluster.identity(holder.as_str()));
    let incarnation = cluster.members[&holder].incarnation;
    let others: Vec<String> = ["a", "b", "w"].into_iter().filter(|n| *n != text).map(str::to_owned).collect();
    let killed = BootInstant::now();
    cluster.kill(&text);
    for other in &others {
        report(&cluster, &identity, other, &text, &[incarnation]).expect("accepted");
    }
    let other = if text == "a" { "b" } else { "a" };
    cluster.until("the other acts", |c| c.holder_is(other));
    println!("{:?} after the kill, leader killed too: {leads}", killed.elapsed());
    let acted = killed.elapsed();
    assert!(acted < LEASE / 2, "{acted:?}: it waited for the lease");
    // The time without an acting holder counts from its last contact, also by a member that did not lead then.
    let both = [MoveObject::Publisher, MoveObject::Duty(Duty::Notifier)];
    cluster.until("it shows what moved", |c| {
        let view = c.view(other);
        let moves = &view.moves;
        both.iter().all(|what| moves.iter().any(|m| m.object == *what && m.to == name(other)))
    });
    let view = cluster.view(other);
    for what in both {
        let moved = view.moves.iter().rfind(|m| m.object == what && m.to == name(other)).expect("a move");
        println!("{what} idle for {} ms", moved.idle_ms);
        let idle = Duration::from_millis(moved.idle_ms);
        let asked = Timing::lan().lease;
        assert!(idle <= acted + asked, "{what}: {idle:?}, it acts {acted:?} after the kill");
        assert!(!leads || idle >= Timing::lan().election_min / 2, "{what}: {idle:?} with an election in it");
    }
}

#[test]
fn an_exit_proof_moves_a_duty_immediately() {
    holder_dies(false);
}

/// The next leader has the proof, and does not wait for leases without a holder (rule R4).
#[test]
fn a_new_leader_with_the_exit_proof_does_not_wait() {
    holder_dies(true);
}

/// Reports on another incarnation, or from a sender without permission: the holder goes on in its epoch.
#[test]
fn reports_on_other_nodes_are_refused_and_those_on_earlier_incarnations_ignored() {
    let cluster = formed();
    let (holder, epoch) = cluster.wait_holder();
    let incarnation = cluster.members[&holder].incarnation;
    let own = cluster.identity(holder.as_str());
    let other_node = if holder.as_str() == "a" { "b" } else { "a" };
    for other in ["b", "w", "a"] {
        for sender in [other_node, "w"] {
            let refused =
                report(&cluster, &cluster.identity(sender), other, holder.as_str(), &[incarnation]).unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{sender} reports on {holder}: {refused}");
        }
        // A permitted report on an earlier incarnation.
        report(&cluster, &own, other, holder.as_str(), &[Incarnation::random()]).expect("accepted");
        let many: Vec<_> = (0..100).map(|_| Incarnation::random()).collect();
        let refused = report(&cluster, &own, other, holder.as_str(), &many).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    // A certificate with the same name, from another CA.
    let dir = tempfile::tempdir().expect("a folder");
    let strangers = CertificateAuthority::create(ClusterId::random(), "strangers").expect("an authority");
    strangers.issue(&holder, MemberKind::Node).expect("a certificate").save(dir.path()).expect("saved");
    let stranger = Arc::new(NodeIdentity::load(dir.path()).expect("an identity"));
    report(&cluster, &stranger, other_node, holder.as_str(), &[incarnation]).expect_err("a stranger");

    cluster.throughout(Duration::from_millis(700), |c| {
        assert_eq!(c.holder().as_ref(), Some(&(holder.clone(), epoch.clone())), "it goes on");
    });
}
