//! Removal of secrets that nothing needs any more.

use twinbox_ids::Timestamp;
use twinbox_mailstore::{MailError, Mailstore, blocking};
use twinbox_outbox::{Effect, Phase, forget_secret, next_retry, schema};

/// Effects that one search reads, and that one commit changes: it holds up no caller who leaves a message.
const AT_A_TIME: usize = 500;

/// Removes the secrets of effects that do not need them any more; returns their number. The end of an effect removes its
/// secret. One that was written on the other side of a split may outlive that, and a dead letter keeps its secret for an
/// administrator's retry until its time is over.
pub async fn forget_secrets(mailstore: &Mailstore, now: Timestamp) -> Result<usize, MailError> {
    let (mut after, mut count) = (None, 0);
    loop {
        let found = mailstore.newest_effects(&[Phase::Done, Phase::Dead], after, AT_A_TIME).await?;
        let Some(last) = found.last() else { return Ok(count) };
        after = Some((last.new.created, last.id));
        let store = mailstore.clone();
        let outlived = blocking(move || {
            let mut outlived = Vec::new();
            for effect in found {
                if has_outlived_secret(&store, &effect, now)? {
                    outlived.push(effect);
                }
            }
            Ok::<_, MailError>(outlived)
        });
        let outlived = outlived.await??;
        if outlived.is_empty() {
            continue;
        }
        count += outlived.len();
        mailstore
            .commit(move |draft| {
                for effect in outlived {
                    draft.edit(schema::effect_key(effect.id), forget_secret(&effect).into_iter().collect())?;
                }
                Ok(())
            })
            .await?;
    }
}

/// Whether the record of an effect has a secret that neither the effect nor a retry of it needs.
fn has_outlived_secret(mailstore: &Mailstore, effect: &Effect, now: Timestamp) -> Result<bool, MailError> {
    let may_have = forget_secret(effect).is_some() && effect.new.retry == 0;
    if !may_have || mailstore.system_mail_of(effect)?.is_none() {
        return Ok(false);
    }
    let mut latest = effect.clone();
    while let Some(next) = mailstore.effect(next_retry(&latest))? {
        latest = next;
    }
    Ok(latest.done.is_some() || (latest.dead.is_some() && latest.new.expires < now))
}
