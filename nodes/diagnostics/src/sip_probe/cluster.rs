//! The cluster of a prober.

use std::{collections::BTreeSet, sync::Arc};

use twinbox_ids::NodeName;
use twinbox_members::MemberClients;
use twinbox_roles::{Roles, RolesView, Timing};
use twinbox_wire::admin::NodeInfoReply;

/// The part of a cluster that a prober needs.
pub trait ProbedCluster: Send + Sync + 'static {
    /// The cluster as this member sees it.
    fn view(&self) -> Arc<RolesView>;

    /// Whether this member has heard `member` more recently than any lease of `member` can run.
    fn is_heard(&self, member: &NodeName) -> bool;

    /// Whether there is an exit proof of that member.
    fn has_exited(&self, member: &NodeName) -> bool;

    /// Receives the nodes that answer at none of their addresses, also when they have not changed.
    fn unanswered(&self, nodes: BTreeSet<NodeName>);

    /// Address of a node for other members (`HOST:PORT`), and the state that it reports; `None` if it does not answer.
    fn info(&self, node: &NodeName) -> impl Future<Output = Option<(String, NodeInfoReply)>> + Send;
}

/// A cluster by its role manager, with connections to its members.
pub struct ProbedMembers {
    /// Source of the members' last contacts, and receiver of the results.
    pub roles: Roles,
    /// Lease times.
    pub timing: Timing,
    /// Connections to the members, to read their SIP addresses.
    pub members: Arc<MemberClients>,
}

impl ProbedCluster for ProbedMembers {
    fn view(&self) -> Arc<RolesView> {
        self.roles.watch().borrow().clone()
    }

    fn is_heard(&self, member: &NodeName) -> bool {
        let limit = self.timing.silence_limit(&self.roles.agreed());
        self.roles.since_contact(member).is_some_and(|ago| ago <= limit)
    }

    fn has_exited(&self, member: &NodeName) -> bool {
        self.roles.has_exited(member)
    }

    fn unanswered(&self, nodes: BTreeSet<NodeName>) {
        self.roles.unanswered(nodes);
    }

    async fn info(&self, node: &NodeName) -> Option<(String, NodeInfoReply)> {
        let address = self.members.address(node)?;
        Some((address, self.members.show(node).await?))
    }
}
