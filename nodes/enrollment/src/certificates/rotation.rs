//! A member's part in a CA rotation: executes the next action ([`super::rotation_action`]) and reports it to the cluster.

use tracing::{info, warn};
use twinbox_pki::CrossSignedCa;
use twinbox_roles::{CertificateOrder, Fingerprint, Rotation};

use super::{
    CertificateCluster, CertificateRenewer, RenewerParts, Signer,
    rotation_action::{Own, RotationAction, next_action},
};

/// Result of one poll.
pub(super) enum RotationOutcome {
    /// No action until the agreed state changes.
    UpToDate,
    /// An action failed or waits for its confirmation.
    TryAgain,
}

/// Maximum number of actions per poll; ends a loop regardless of the state of the disk.
const MOST_AT_ONCE: usize = 16;

impl<C: CertificateCluster> CertificateRenewer<C> {
    /// Executes all actions that are possible now.
    pub(super) async fn follow_rotation(&mut self) -> RotationOutcome {
        for _ in 0..MOST_AT_ONCE {
            let agreed = self.member.cluster.certificates();
            let Some(rotation) = &agreed.rotation else { return RotationOutcome::UpToDate };
            let what = self.next(rotation, &agreed.called_off);
            if what == RotationAction::Nothing {
                self.logged.rotation.clear();
                return RotationOutcome::UpToDate;
            }
            if let Err(reason) = self.carry_out(rotation, what).await {
                if self.logged.rotation != reason {
                    warn!(%reason, ?what, "CA rotation waits for this member; retrying");
                    self.logged.rotation = reason;
                }
                return RotationOutcome::TryAgain;
            }
            if matches!(what, RotationAction::Report(_)) {
                // The confirmation arrives as a change of the agreed state; if it is lost, the step is reported
                // again.
                return RotationOutcome::TryAgain;
            }
        }
        RotationOutcome::TryAgain
    }

    fn next(&self, rotation: &Rotation, called_off: &[Fingerprint]) -> RotationAction {
        let RenewerParts { tls, signer, .. } = &self.member;
        let trusts: Vec<_> = tls.authorities().iter().map(|trusted| trusted.fingerprint).collect();
        let keys = signer.as_ref().map(|signer| signer.seal.holds());
        let own = Own {
            trusts: &trusts,
            shows: tls.issuer(),
            linked: tls.is_linked(),
            keys: keys.as_deref(),
            reported: rotation.done.get(&tls.name).copied(),
        };
        next_action(rotation, called_off, &own)
    }

    async fn carry_out(&self, rotation: &Rotation, what: RotationAction) -> Result<(), String> {
        let RenewerParts { tls, signer, cluster, .. } = &self.member;
        let cross_signed =
            || CrossSignedCa::read(tls.cluster, &rotation.certificate, &rotation.cross).map_err(|e| e.to_string());
        let forget_key = |signer: &Signer, gone: [u8; 32]| {
            let left: Vec<_> = signer.seal.holds().into_iter().filter(|held| *held != gone).collect();
            signer.seal.keep_only(&left).map_err(|e| e.to_string())
        };
        match what {
            RotationAction::Nothing => Ok(()),
            RotationAction::Trust => {
                let next = cross_signed()?;
                if next.fingerprint() != rotation.next {
                    return Err("the next authority is not the one that was agreed on".to_owned());
                }
                tls.trust(&next).map_err(|e| e.to_string())?;
                info!("this member trusts the next CA, too");
                Ok(())
            }
            RotationAction::FetchKey => {
                let Some(signer) = signer else { return Ok(()) };
                match self.fetch_key(signer, rotation.next, rotation.certificate.clone()).await {
                    true => Ok(()),
                    false => {
                        Err(format!("no node that answers has the next authority's key; {} made it", rotation.by))
                    }
                }
            }
            RotationAction::Show => {
                let (by, certificate) = self.certificate_of(rotation.next).await?;
                tls.show(&certificate, &cross_signed()?).map_err(|e| e.to_string())?;
                info!(%by, "this member uses a certificate of the next CA");
                Ok(())
            }
            RotationAction::Forget(gone) => {
                tls.forget(&gone).map_err(|e| e.to_string())?;
                info!("this member trusts one CA only");
                Ok(())
            }
            RotationAction::DropKey(gone) => signer.as_ref().map_or(Ok(()), |signer| forget_key(signer, gone)),
            RotationAction::Report(step) => {
                let (name, next) = (tls.name.clone(), rotation.next);
                cluster.order(CertificateOrder::Did { name, next, step }).await
            }
        }
    }
}
