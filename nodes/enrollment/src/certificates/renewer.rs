//! Renewal and rotation of a member's certificate.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use twinbox_alarms::{Alarms, Code, Kind};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_pki::{CertificateAuthority, NodeIdentity, Validity};
use twinbox_roles::Fingerprint;

use super::{
    CertificateCluster, Signer,
    certificate_times::{CertificateTimes, DAY, SOONEST},
    left,
    rotation::RotationOutcome,
};

/// Interval at which an alarm is repeated in the log.
const ALARM_AGAIN: Duration = DAY;

/// The parts of a member that a renewer uses.
pub struct RenewerParts<C> {
    /// Certificate of this member, and the clock by which it is renewed.
    pub tls: Arc<NodeIdentity>,
    /// Folder of the certificate.
    pub tls_dir: PathBuf,
    /// CA keys of a node; `None` on a witness.
    pub signer: Option<Arc<Signer>>,
    /// Agreed state and other nodes.
    pub cluster: C,
    /// Receiver of alarms; `None` on a witness, which only logs them.
    pub alarms: Option<Alarms>,
}

/// Renewer of a member's certificate.
pub struct CertificateRenewer<C> {
    pub(super) member: RenewerParts<C>,
    pub(super) logged: LoggedStates,
}

/// States already logged, so that the log does not repeat them.
#[derive(Default)]
pub(super) struct LoggedStates {
    authority: String,
    renewal: String,
    pub(super) rotation: String,
    alarm: Option<BootInstant>,
    strangers: u64,
    stranded: Option<BootInstant>,
}

impl<C: CertificateCluster> CertificateRenewer<C> {
    /// Creates the renewer; [`Self::watch`] runs it.
    pub fn new(member: RenewerParts<C>) -> Self {
        Self { member, logged: LoggedStates::default() }
    }

    /// Renews and rotates the certificate until stopped.
    pub async fn watch(mut self, stop: CancellationToken) {
        loop {
            let seen = self.member.cluster.certificates();
            let pause = tokio::select! {
                pause = self.poll(BootInstant::now()) => pause,
                () = stop.cancelled() => return,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.member.cluster.certificates_beyond(&seen) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One poll at `now`: takes the steps of a CA rotation, obtains the CA key, renews what is due, raises or clears
    /// alarms. Returns the wait until the next poll.
    pub async fn poll(&mut self, now: BootInstant) -> Duration {
        let rotation = self.follow_rotation().await;
        self.keep_authority().await;
        let next = self.keep_certificate().await;
        self.alarm(now);
        match rotation {
            RotationOutcome::UpToDate => next,
            RotationOutcome::TryAgain => next.min(SOONEST),
        }
    }

    /// Renews the certificate when it is due; returns the wait until the next poll.
    async fn keep_certificate(&mut self) -> Duration {
        let tls = self.member.tls.clone();
        if CertificateTimes::of(&tls).is_due(tls.time()) {
            match self.renew().await {
                Ok(by) => {
                    self.logged.renewal.clear();
                    let days = left(tls.expires(), tls.time()).as_secs() / DAY.as_secs();
                    info!(%by, days, "this member's certificate is renewed");
                    if let Some(alarms) = &self.member.alarms {
                        let detail = format!("by {by}, good for {days} days");
                        alarms.event(Kind::CertificateRenewed, tls.name.as_str(), detail);
                    }
                }
                Err(reason) if self.logged.renewal == reason => {}
                Err(reason) => {
                    warn!(%reason, "this member's certificate could not be renewed; retrying");
                    self.logged.renewal = reason;
                }
            }
        }
        CertificateTimes::of(&tls).pause(tls.time())
    }

    async fn renew(&self) -> Result<NodeName, String> {
        let tls = &self.member.tls;
        let (by, certificate) = self.certificate_of(tls.issuer()).await?;
        tls.renew(&certificate).map_err(|error| format!("{by}: {error}"))?;
        Ok(by)
    }

    /// Obtains a new certificate of that CA: signed by this node, or by another node.
    pub(super) async fn certificate_of(&self, authority: Fingerprint) -> Result<(NodeName, String), String> {
        let RenewerParts { tls, signer, cluster, .. } = &self.member;
        let key = tls.public_key();
        let mut reasons = Vec::new();
        if let Some(signer) = signer {
            let (name, kind) = (&tls.name, tls.kind);
            let opened = signer.seal.open(&authority);
            match opened.and_then(|ca| ca.certify(&key, name, kind, Validity::of_member(signer.time()))) {
                Ok(certificate) => return Ok((name.clone(), certificate)),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        for name in cluster.other_nodes() {
            match cluster.certificate_from(&name, &key, authority).await {
                Ok(certificate) => return Ok((name, certificate)),
                Err(reason) => reasons.push(format!("{name}: {reason}")),
            }
        }
        Err(reasons.join("; "))
    }

    /// A node that cannot sign obtains the CA key: from `ca.key` next to its certificate, where an administrator
    /// put it, otherwise from another node. An obstacle is logged once.
    async fn keep_authority(&mut self) {
        let RenewerParts { tls, tls_dir, signer, .. } = &self.member;
        let Some(signer) = signer else { return };
        let Err(unusable) = signer.authority() else {
            self.logged.authority.clear();
            return;
        };
        let plain = tls_dir.join("ca.key");
        if plain.exists() {
            let sealed = CertificateAuthority::load(tls_dir).and_then(|authority| signer.seal.close(&authority));
            match sealed
                .map_err(|e| e.to_string())
                .and_then(|()| std::fs::remove_file(&plain).map_err(|e| e.to_string()))
            {
                Ok(()) => return info!("sealed the CA key and removed the plain file"),
                Err(error) => warn!(file = %plain.display(), %error, "the CA key cannot be sealed"),
            }
        }
        let fetched = self.fetch_key(signer, tls.issuer(), signer.authority_pem()).await;
        if fetched {
            return;
        }
        let reason = unusable.to_string();
        if self.logged.authority != reason {
            warn!(%reason, "this node cannot sign certificates; asking other nodes for the CA key");
            self.logged.authority = reason;
        }
    }

    /// Fetches a CA key from another node; returns whether this node has the key now.
    pub(super) async fn fetch_key(&self, signer: &Signer, wanted: Fingerprint, certificate_pem: String) -> bool {
        let RenewerParts { tls_dir, cluster, .. } = &self.member;
        for name in cluster.other_nodes() {
            let Ok(key) = cluster.key_from(&name, wanted).await else { continue };
            let authority = CertificateAuthority::from_pem(tls_dir, certificate_pem.clone(), &key);
            match authority.and_then(|authority| signer.seal.close(&authority)) {
                Ok(()) => {
                    info!(from = %name, "received the CA key");
                    return true;
                }
                Err(error) => warn!(from = %name, %error, "CA key of another node is not usable here"),
            }
        }
        false
    }

    fn alarm(&mut self, now: BootInstant) {
        let (times, time) = (CertificateTimes::of(&self.member.tls), self.member.tls.time());
        let (certificate, authority) = (times.ending(time), times.authority_ending(time));
        let days = |left: Duration| left.as_secs() / DAY.as_secs();
        let in_words = |left: Duration| format!("it ends in {} days", days(left));
        self.tell("node", certificate.map(|left| format!("{} and could not be renewed", in_words(left))));
        self.tell("authority", authority.map(in_words));
        self.alarm_stranded(now);
        if certificate.is_none() && authority.is_none() {
            self.logged.alarm = None;
            return;
        }
        if self.logged.alarm.is_some_and(|at| now.since(at) < ALARM_AGAIN) {
            return;
        }
        self.logged.alarm = Some(now);
        if let Some(left) = certificate {
            let hours = left.as_secs() % DAY.as_secs() / 3_600;
            let days = days(left);
            warn!(days, hours, "ALARM: this member's certificate ends soon and could not be renewed");
        }
        if let Some(left) = authority {
            let days = days(left);
            warn!(
                days,
                "ALARM: the certificate of the cluster's authority ends soon: 'twinbox cluster ca rotate' replaces it"
            );
        }
    }

    /// Raises or clears an alarm about a certificate.
    fn tell(&self, subject: &str, wrong: Option<String>) {
        let Some(alarms) = &self.member.alarms else { return };
        match wrong {
            Some(detail) => alarms.raise(Code::CertificateExpiry, subject, detail),
            None => alarms.clear(Code::CertificateExpiry, subject),
        }
    }

    /// Other members show certificates of a CA that is unknown here: the CA was rotated without waiting for this
    /// member. The member cannot recover automatically; the alarm names the remedy.
    fn alarm_stranded(&mut self, now: BootInstant) {
        let strangers = self.member.tls.unknown_authorities();
        let met = strangers > self.logged.strangers;
        self.logged.strangers = strangers;
        if !met || self.logged.stranded.is_some_and(|at| now.since(at) < ALARM_AGAIN) {
            return;
        }
        self.logged.stranded = Some(now);
        let file = self.member.tls_dir.join("node.pem");
        error!(
            certificate = %file.display(),
            "ALARM: other members show certificates of an authority that is unknown here: the cluster has replaced its \
             authority without this member. Copy this certificate (it is no secret) to a node that runs, give there \
             'twinbox cluster ca reissue --certificate FILE --out DIR', and put both files of DIR into this folder; then \
             start this member again"
        );
    }
}
