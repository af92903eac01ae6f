//! The parts of a node that its pages, its services for administrators and members, its certificates and its probes get.

use std::sync::Arc;

use twinbox_admin_api::{AdminHandles, NodeFacts, NodeState};
use twinbox_diagnostics::{ProbeCounts, ProbedMembers, SipProber};
use twinbox_enrollment::certificates::{CertificateRenewer, MemberCluster, RenewerParts, Signer};
use twinbox_mail_gateway::Gateway;
use twinbox_metrics::Pages;

use super::Node;

impl Node {
    pub(super) fn state(&self) -> NodeState {
        NodeState {
            config: self.config.clone(),
            calls: self.calls.clone(),
            peers: self.peers.clone(),
            mailstore: self.mailstore.clone(),
            roles: self.roles.clone(),
            drain: self.drain.clone(),
            health: self.health.clone(),
            notifier: self.duties.notifier.clone(),
            directory_sync: self.duties.directory_sync.clone(),
            mailbox_sync: self.duties.mailbox_sync.clone(),
        }
    }

    pub(super) fn admin_handles(&self) -> AdminHandles {
        AdminHandles {
            name: self.config.name.clone(),
            config: self.config.clone(),
            store: self.store.clone(),
            peers: self.peers.clone(),
            roles: self.roles.clone(),
            mailstore: self.mailstore.clone(),
            settings: self.settings.clone(),
            alarms: self.alarms.clone(),
            members: self.members.clone(),
            notifier: self.duties.notifier.clone(),
            directory_sync: self.duties.directory_sync.clone(),
            mailbox_sync: self.duties.mailbox_sync.clone(),
            templates: self.config.mail.templates.clone(),
        }
    }

    pub(super) fn renewer(&self, signer: Arc<Signer>) -> CertificateRenewer<MemberCluster> {
        let cluster = &self.config.cluster;
        CertificateRenewer::new(RenewerParts {
            tls: cluster.tls.clone(),
            tls_dir: cluster.tls_dir.clone(),
            signer: Some(signer),
            cluster: MemberCluster { roles: self.roles.clone(), tls: cluster.tls.clone() },
            alarms: Some(self.alarms.clone()),
        })
    }

    pub(super) fn sip_prober(&self, counts: Arc<ProbeCounts>) -> SipProber<ProbedMembers> {
        let (roles, timing, members) = (self.roles.clone(), self.config.cluster.timing, self.members.clone());
        let cluster = Arc::new(ProbedMembers { roles, timing, members });
        SipProber { own: self.config.name.clone(), cluster, counts }
    }

    pub(super) fn pages(&self, facts: &Arc<NodeFacts>, probe_counts: &Arc<ProbeCounts>) -> Pages {
        Pages {
            config: self.config.clone(),
            peers: self.peers.clone(),
            roles: self.roles.clone(),
            calls: self.calls.clone(),
            media: self.media.clone(),
            alarms: self.alarms.clone(),
            health: self.health.clone(),
            facts: facts.clone(),
            probe_counts: probe_counts.clone(),
            mailstore: self.mailstore.clone(),
            outbox: vec![("notifier", self.duties.notifier.counts()), ("mta", self.duties.mta.counts())],
            gateway: self.gateway.as_ref().map(Gateway::counts),
        }
    }
}
