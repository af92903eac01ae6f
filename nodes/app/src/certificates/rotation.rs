//! A member's part in a CA rotation: executes the next action ([`super::todo`]) and reports it to the cluster.

use tracing::{info, warn};
use twinbox_pki::Appointment;
use twinbox_roles::{CertificateOrder, Order, OrderId, Rotation};

use super::{
    Care, Signer,
    care::Said,
    todo::{Own, Todo, todo},
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

impl Care {
    /// Executes all actions that are possible now.
    pub(super) async fn follow_rotation(&self, said: &mut Said) -> Outcome {
        for _ in 0..MOST_AT_ONCE {
            let agreed = self.roles.agreed();
            let Some(rotation) = &agreed.certificates.rotation else { return Outcome::UpToDate };
            let what = self.next(rotation);
            if what == Todo::Nothing {
                said.rotation.clear();
                return Outcome::UpToDate;
            }
            if let Err(reason) = self.carry_out(rotation, what).await {
                if said.rotation != reason {
                    warn!(%reason, ?what, "the replacement of the authority waits here; trying on");
                    said.rotation = reason;
                }
                return Outcome::TryAgain;
            }
            if matches!(what, Todo::Say(_)) {
                // The confirmation arrives as a change of the agreed state; if it is lost, the step is reported
                // again.
                return Outcome::TryAgain;
            }
        }
        Outcome::TryAgain
    }

    fn next(&self, rotation: &Rotation) -> Todo {
        let trusts: Vec<_> = self.tls.authorities().iter().map(|trusted| trusted.fingerprint).collect();
        let keys = self.signer.as_ref().map(|signer| signer.seal.holds());
        let own = Own {
            trusts: &trusts,
            shows: self.tls.issuer(),
            linked: self.tls.is_linked(),
            keys: keys.as_deref(),
            said: rotation.done.get(&self.tls.name).copied(),
        };
        todo(rotation, &own)
    }

    async fn carry_out(&self, rotation: &Rotation, what: Todo) -> Result<(), String> {
        let appointment = || {
            Appointment::read(self.tls.cluster, &rotation.certificate, &rotation.cross).map_err(|e| e.to_string())
        };
        let forget_key = |signer: &Signer, gone: [u8; 32]| {
            let left: Vec<_> = signer.seal.holds().into_iter().filter(|held| *held != gone).collect();
            signer.seal.keep_only(&left).map_err(|e| e.to_string())
        };
        match what {
            Todo::Nothing => Ok(()),
            Todo::Trust => {
                let next = appointment()?;
                if next.fingerprint() != rotation.next {
                    return Err("the next authority is not the one that was agreed on".to_owned());
                }
                self.tls.trust(&next).map_err(|e| e.to_string())?;
                info!("certificates of the cluster's next authority are taken now, too");
                Ok(())
            }
            Todo::FetchKey => {
                let Some(signer) = &self.signer else { return Ok(()) };
                match self.fetch_key(signer, rotation.next, rotation.certificate.clone()).await {
                    true => Ok(()),
                    false => {
                        Err(format!("no node that answers has the next authority's key; {} made it", rotation.by))
                    }
                }
            }
            Todo::Show => {
                let (by, certificate) = self.certificate_of(rotation.next).await?;
                self.tls.show(&certificate, &appointment()?).map_err(|e| e.to_string())?;
                info!(%by, "this member shows a certificate of the cluster's next authority now");
                Ok(())
            }
            Todo::Forget(gone) => {
                self.tls.forget(&gone).map_err(|e| e.to_string())?;
                info!("certificates of one authority are taken now, and of no other");
                Ok(())
            }
            Todo::DropKey(gone) => self.signer.as_ref().map_or(Ok(()), |signer| forget_key(signer, gone)),
            Todo::Say(step) => {
                let (name, next) = (self.tls.name.clone(), rotation.next);
                let order = Order::Certificates(CertificateOrder::Did { name, next, step });
                self.roles.order(OrderId(rand::random()), order).await.map_err(|e| e.to_string())
            }
        }
    }
}
