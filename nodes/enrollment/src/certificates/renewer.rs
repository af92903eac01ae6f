//! Renewal and rotation of a member's certificate.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{error, info, warn};
use twinbox_alarms::{Alarms, Code, Kind};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_pki::{CertificateAuthority, NodeIdentity, Validity};
use twinbox_roles::{Fingerprint, MemberKind, Roles};
use twinbox_wire::join::{AuthorityRequest, RenewRequest, certificates_client::CertificatesClient};

use super::{Signer, left, rotation::Outcome};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Period before an expiry in which the alarm is raised.
const ALARM: Duration = DAY.saturating_mul(30);
/// Interval at which an alarm is repeated in the log.
const ALARM_AGAIN: Duration = DAY;
/// Poll interval of certificates when nothing is due (the time of day may jump), and retry interval after a
/// failure. A poll costs almost nothing.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Minimum poll interval for a certificate that is due, and for a rotation that cannot continue.
const SOONEST: Duration = Duration::from_secs(1);
/// Timeout for another member to sign.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Renewer of a member's certificate.
pub struct CertificateRenewer {
    /// Certificate of this member.
    pub tls: Arc<NodeIdentity>,
    /// Folder of the certificate.
    pub tls_dir: PathBuf,
    /// CA keys of a node; `None` on a witness.
    pub signer: Option<Arc<Signer>>,
    /// Source of the other members and of the agreed state.
    pub roles: Roles,
    /// Receiver of alarms; `None` on a witness, which only logs them.
    pub alarms: Option<Alarms>,
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

impl CertificateRenewer {
    /// Renews and rotates the certificate until stopped.
    pub async fn watch(self, stop: CancellationToken) {
        let mut logged = LoggedStates::default();
        loop {
            let seen = self.roles.agreed().certificates.clone();
            let next = async {
                let outcome = self.follow_rotation(&mut logged).await;
                self.keep_authority(&mut logged).await;
                let next = self.keep_certificate(&mut logged).await;
                self.alarm(&mut logged);
                match outcome {
                    Outcome::UpToDate => next,
                    Outcome::TryAgain => next.min(SOONEST),
                }
            };
            let pause = tokio::select! {
                pause = next => pause,
                () = stop.cancelled() => return,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.roles.certificates_beyond(&seen) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Renews the certificate when it is due; returns the wait until the next poll.
    async fn keep_certificate(&self, logged: &mut LoggedStates) -> Duration {
        // One that is valid later only was signed while the clock was ahead; no other member accepts it.
        let is_of_the_future = !left(self.tls.begins()).is_zero();
        if is_of_the_future || left(self.tls.renew_at()).is_zero() {
            match self.renew().await {
                Ok(by) => {
                    logged.renewal.clear();
                    let days = left(self.tls.expires()).as_secs() / DAY.as_secs();
                    info!(%by, days, "this member's certificate is renewed");
                    if let Some(alarms) = &self.alarms {
                        let detail = format!("by {by}, good for {days} days");
                        alarms.event(Kind::CertificateRenewed, self.tls.name.as_str(), detail);
                    }
                }
                Err(reason) if logged.renewal == reason => {}
                Err(reason) => {
                    warn!(%reason, "this member's certificate could not be renewed; retrying");
                    logged.renewal = reason;
                }
            }
        }
        match left(self.tls.renew_at()) {
            Duration::ZERO => (left(self.tls.expires()) / 10).clamp(SOONEST, LOOK_EVERY),
            until => until.clamp(SOONEST, LOOK_EVERY),
        }
    }

    async fn renew(&self) -> Result<NodeName, String> {
        let (by, certificate) = self.certificate_of(self.tls.issuer()).await?;
        self.tls.renew(&certificate).map_err(|error| format!("{by}: {error}"))?;
        Ok(by)
    }

    /// Obtains a new certificate of that CA: signed by this node, or by another node.
    pub(super) async fn certificate_of(&self, authority: Fingerprint) -> Result<(NodeName, String), String> {
        let key = self.tls.public_key();
        let mut reasons = Vec::new();
        if let Some(signer) = &self.signer {
            let (name, kind) = (&self.tls.name, self.tls.kind);
            let opened = signer.seal.open(&authority);
            match opened.and_then(|ca| ca.certify(&key, name, kind, Validity::of_member())) {
                Ok(certificate) => return Ok((name.clone(), certificate)),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        for (name, channel) in self.other_nodes() {
            let request = RenewRequest { public_key: key.clone().into(), authority: authority.to_vec().into() };
            let mut client = CertificatesClient::new(channel);
            match timeout(ANSWER_WITHIN, client.renew(request)).await {
                Ok(Ok(answer)) => return Ok((name, answer.into_inner().certificate)),
                Ok(Err(status)) => reasons.push(format!("{name}: {}", status.message())),
                Err(_) => reasons.push(format!("{name}: no answer within {ANSWER_WITHIN:?}")),
            }
        }
        Err(reasons.join("; "))
    }

    /// A node that cannot sign obtains the CA key: from `ca.key` next to its certificate, where an administrator
    /// put it, otherwise from another node. An obstacle is logged once.
    async fn keep_authority(&self, logged: &mut LoggedStates) {
        let Some(signer) = &self.signer else { return };
        let Err(unusable) = signer.authority() else {
            logged.authority.clear();
            return;
        };
        let plain = self.tls_dir.join("ca.key");
        if plain.exists() {
            let sealed =
                CertificateAuthority::load(&self.tls_dir).and_then(|authority| signer.seal.close(&authority));
            match sealed
                .map_err(|e| e.to_string())
                .and_then(|()| std::fs::remove_file(&plain).map_err(|e| e.to_string()))
            {
                Ok(()) => return info!("sealed the CA key and removed the plain file"),
                Err(error) => warn!(file = %plain.display(), %error, "the CA key cannot be sealed"),
            }
        }
        let fetched = self.fetch_key(signer, self.tls.issuer(), signer.authority_pem()).await;
        if fetched {
            return;
        }
        let reason = unusable.to_string();
        if logged.authority != reason {
            warn!(%reason, "this node cannot sign certificates; asking other nodes for the CA key");
            logged.authority = reason;
        }
    }

    /// Fetches a CA key from another node; returns whether this node has the key now.
    pub(super) async fn fetch_key(&self, signer: &Signer, wanted: Fingerprint, certificate_pem: String) -> bool {
        for (name, channel) in self.other_nodes() {
            let request = AuthorityRequest { authority: wanted.to_vec().into() };
            let mut client = CertificatesClient::new(channel);
            let Ok(Ok(answer)) = timeout(ANSWER_WITHIN, client.authority(request)).await else { continue };
            let key = answer.into_inner().key;
            let authority = CertificateAuthority::from_pem(&self.tls_dir, certificate_pem.clone(), &key);
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

    fn other_nodes(&self) -> Vec<(NodeName, Channel)> {
        let members = self.roles.members().borrow().clone();
        members
            .iter()
            .filter(|member| member.kind == MemberKind::Node && member.name != self.tls.name)
            .filter_map(|m| Some((m.name.clone(), self.tls.endpoint(&m.name, &m.address).ok()?.connect_lazy())))
            .collect()
    }

    fn alarm(&self, logged: &mut LoggedStates) {
        let due = left(self.tls.renew_at()).is_zero();
        let certificate = Some(left(self.tls.expires())).filter(|left| due && *left < ALARM);
        let authority = Some(left(self.tls.authority_expires())).filter(|left| *left < ALARM);
        let days = |left: Duration| left.as_secs() / DAY.as_secs();
        let in_words = |left: Duration| format!("it ends in {} days", days(left));
        self.tell("node", certificate.map(|left| format!("{} and could not be renewed", in_words(left))));
        self.tell("authority", authority.map(in_words));
        self.alarm_stranded(logged);
        if certificate.is_none() && authority.is_none() {
            logged.alarm = None;
            return;
        }
        if logged.alarm.is_some_and(|at| at.elapsed() < ALARM_AGAIN) {
            return;
        }
        logged.alarm = Some(BootInstant::now());
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
        let Some(alarms) = &self.alarms else { return };
        match wrong {
            Some(detail) => alarms.raise(Code::CertificateExpiry, subject, detail),
            None => alarms.clear(Code::CertificateExpiry, subject),
        }
    }

    /// Other members show certificates of a CA that is unknown here: the CA was rotated without waiting for this
    /// member. The member cannot recover automatically; the alarm names the remedy.
    fn alarm_stranded(&self, logged: &mut LoggedStates) {
        let strangers = self.tls.unknown_authorities();
        let met = strangers > logged.strangers;
        logged.strangers = strangers;
        if !met || logged.stranded.is_some_and(|at| at.elapsed() < ALARM_AGAIN) {
            return;
        }
        logged.stranded = Some(BootInstant::now());
        let file = self.tls_dir.join("node.pem");
        error!(
            certificate = %file.display(),
            "ALARM: other members show certificates of an authority that is unknown here: the cluster has replaced its \
             authority without this member. Copy this certificate (it is no secret) to a node that runs, give there \
             'twinbox cluster ca reissue --certificate FILE --out DIR', and put both files of DIR into this folder; then \
             start this member again"
        );
    }
}
