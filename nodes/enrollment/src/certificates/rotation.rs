//! A member's part in a CA rotation: executes the next action ([`super::rotation_action`]) and reports it to the cluster.

use tracing::{info, warn};
use twinbox_pki::CrossSignedCa;
use twinbox_roles::{CertificateOrder, Fingerprint, Order, OrderId, Rotation};

use super::{
    CertificateRenewer, Signer,
    renewer::LoggedStates,
    rotation_action::{Own, RotationAction, next_action},
};

/// Result of one poll.
pub(super) enum Outcome {
    /// No action until the agreed state changes.
    UpToDate,
    /// An action failed or waits for its confirmation.
    TryAgain,
}

/// Maximum number of actions per poll; ends a loop regardless of the state of the disk.
const MOST_AT_ONCE: usize = 16;

impl CertificateRenewer {
    /// Executes all actions that are possible now.
    pub(super) async fn follow_rotation(&self, logged: &mut LoggedStates) -> Outcome {
        for _ in 0..MOST_AT_ONCE {
            let agreed = self.roles.agreed();
            let Some(rotation) = &agreed.certificates.rotation else { return Outcome::UpToDate };
            let what = self.next(rotation, &agreed.certificates.called_off);
            if what == RotationAction::Nothing {
                logged.rotation.clear();
                return Outcome::UpToDate;
            }
            if let Err(reason) = self.carry_out(rotation, what).await {
                if logged.rotation != reason {
                    warn!(%reason, ?what, "CA rotation waits for this member; retrying");
                    logged.rotation = reason;
                }
                return Outcome::TryAgain;
            }
            if matches!(what, RotationAction::Report(_)) {
                // The confirmation arrives as a change of the agreed state; if it is lost, the step is reported
                // again.
                return Outcome::TryAgain;
            }
        }
        Outcome::TryAgain
    }

    fn next(&self, rotation: &Rotation, called_off: &[Fingerprint]) -> RotationAction {
        let trusts: Vec<_> = self.tls.authorities().iter().map(|trusted| trusted.fingerprint).collect();
        let keys = self.signer.as_ref().map(|signer| signer.seal.holds());
        let own = Own {
            trusts: &trusts,
            shows: self.tls.issuer(),
            linked: self.tls.is_linked(),
            keys: keys.as_deref(),
            reported: rotation.done.get(&self.tls.name).copied(),
        };
        next_action(rotation, called_off, &own)
    }

    async fn carry_out(&self, rotation: &Rotation, what: RotationAction) -> Result<(), String> {
        let cross_signed = || {
            CrossSignedCa::read(self.tls.cluster, &rotation.certificate, &rotation.cross).map_err(|e| e.to_string())
        };
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
                self.tls.trust(&next).map_err(|e| e.to_string())?;
                info!("this member trusts the next CA, too");
                Ok(())
            }
            RotationAction::FetchKey => {
                let Some(signer) = &self.signer else { return Ok(()) };
                match self.fetch_key(signer, rotation.next, rotation.certificate.clone()).await {
                    true => Ok(()),
                    false => {
                        Err(format!("no node that answers has the next authority's key; {} made it", rotation.by))
                    }
                }
            }
            RotationAction::Show => {
                let (by, certificate) = self.certificate_of(rotation.next).await?;
                self.tls.show(&certificate, &cross_signed()?).map_err(|e| e.to_string())?;
                info!(%by, "this member uses a certificate of the next CA");
                Ok(())
            }
            RotationAction::Forget(gone) => {
                self.tls.forget(&gone).map_err(|e| e.to_string())?;
                info!("this member trusts one CA only");
                Ok(())
            }
            RotationAction::DropKey(gone) => self.signer.as_ref().map_or(Ok(()), |signer| forget_key(signer, gone)),
            RotationAction::Report(step) => {
                let (name, next) = (self.tls.name.clone(), rotation.next);
                let order = Order::Certificates(CertificateOrder::Did { name, next, step });
                self.roles.order(OrderId(rand::random()), order).await.map_err(|e| e.to_string())
            }
        }
    }
}
