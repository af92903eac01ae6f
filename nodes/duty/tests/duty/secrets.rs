//! Secrets in the outbox: as long as something needs them.

use twinbox_clock::wall;
use twinbox_duty::forget_secrets;
use twinbox_ids::{MailboxId, Pii, Timestamp};
use twinbox_mailstore::{EffectOutcome, SystemContent, SystemMail, rows::system_mail_in};
use twinbox_outbox::{Effect, NewEffect};

use crate::support::Node;

/// The effect of a mail with a first PIN that was given up.
async fn given_up(node: &Node, mailbox: u128) -> Effect {
    let (to, pin) = (Pii::new("anna@example.test".to_owned()), Pii::new("482913".to_owned()));
    let content = SystemContent::FirstPin { number: "1001".to_owned(), name: Pii::default(), pin };
    let mail = SystemMail { to, content };
    let new: NewEffect = mail.effect(MailboxId(mailbox), 0, wall());
    let write = node.mailstore.commit(move |draft| system_mail_in(draft, &mail, MailboxId(mailbox), 0));
    assert!(write.await.expect("written").0);
    let dead = EffectOutcome::Dead("550 unknown".to_owned());
    node.mailstore.end_attempt(new.id(), dead, Vec::new()).await.expect("written");
    node.effect(new.id())
}

#[tokio::test]
async fn secret_of_a_dead_letter_goes_with_its_retry_or_with_the_end_of_its_time() {
    let node = Node::alone().await;
    let has_secret = |effect: &Effect| node.mailstore.system_mail_of(effect).expect("readable").is_some();
    let (retried, left) = (given_up(&node, 1).await, given_up(&node, 2).await);
    assert_eq!(forget_secrets(&node.mailstore, wall()).await.expect("searched"), 0);
    let again = node.mailstore.retry_effect(retried.id).await.expect("retried");
    // The retry needs the secret of the first, which is done by now.
    assert_eq!(forget_secrets(&node.mailstore, wall()).await.expect("searched"), 0);
    assert!(has_secret(&node.effect(again)) && has_secret(&left));
    let sent = EffectOutcome::Done("250 taken".to_owned());
    node.mailstore.end_attempt(again, sent, Vec::new()).await.expect("written");
    assert!(!has_secret(&retried) && !has_secret(&node.effect(again)));
    assert_eq!(forget_secrets(&node.mailstore, Timestamp(u64::MAX)).await.expect("searched"), 1);
    assert!(!has_secret(&left));
}
