//! Warnings to owners in the store of a node: noted with their mails, once on every node.

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::{MailboxId, Pii, Timestamp};
use twinbox_mailbox::UserAddress;
use twinbox_mailstore::{
    EffectOutcome, Mailbox, NewMailbox, Rule, SystemContent, SystemMail, UserAddresses, rows::system_mail_in,
};
use twinbox_outbox::{Channel, Destination, Effect};
use twinbox_store_kit::{Node, audio};
use twinbox_system_mail::{SystemMails, Warned};

const DAY_MS: u64 = 24 * 3_600 * 1_000;

async fn owner(node: &Node, number: &str, mail: Option<&str>) -> Mailbox {
    let mail = mail.map(|mail| UserAddress::address(mail).expect("an address"));
    let addresses = UserAddresses { mail, ..UserAddresses::default() };
    node.mailstore.create(NewMailbox { addresses, ..NewMailbox::new(number, "2580") }).await.expect("a mailbox").0
}

async fn effects(node: &Node) -> Vec<Effect> {
    node.mailstore.effects().await.expect("effects")
}

/// The mails in the outbox of a node, oldest first.
async fn mails(node: &Node) -> Vec<SystemMail> {
    let read = |effect: &Effect| node.mailstore.system_mail_of(effect).expect("readable").expect("a mail");
    effects(node).await.iter().map(read).collect()
}

#[tokio::test]
async fn full_mailbox_has_one_mail_also_when_another_node_repeats_the_job() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, b) = (Node::alone(first.path(), "a"), Node::alone(second.path(), "b"));
    let anna = owner(&a, "1001", Some("anna@example.test")).await;
    let silent = owner(&a, "1002", None).await;
    let on_a = SystemMails::new(a.mailstore.clone(), || true);
    assert_eq!(on_a.warn_of_quota(&anna, 50, 90).await.unwrap(), Warned::NotDue);
    assert_eq!(on_a.warn_of_quota(&anna, 92, 90).await.unwrap(), Warned::Queued);
    assert_eq!(on_a.warn_of_quota(&anna, 92, 90).await.unwrap(), Warned::NotDue);
    for _ in 0..2 {
        assert_eq!(on_a.warn_of_quota(&silent, 92, 90).await.unwrap(), Warned::NoAddress, "told in each run");
    }

    a.hand_over(&b).await;
    let on_b = SystemMails::new(b.mailstore.clone(), || true);
    assert_eq!(on_b.warn_of_quota(&anna, 92, 90).await.unwrap(), Warned::NotDue, "the node before did it");
    // Two nodes that do not see each other make one effect.
    assert_eq!(on_a.warn_of_quota(&anna, 101, 90).await.unwrap(), Warned::Queued);
    assert_eq!(on_b.warn_of_quota(&anna, 101, 90).await.unwrap(), Warned::Queued);
    a.hand_over(&b).await;
    let mails = mails(&b).await;
    assert_eq!(mails.len(), 2, "{mails:?}");
    let percents = mails.iter().map(|mail| match &mail.content {
        SystemContent::Quota { number, percent, .. } => (number.clone(), *percent),
        other => panic!("{other:?}"),
    });
    let mut percents: Vec<_> = percents.collect();
    percents.sort_unstable();
    assert_eq!(percents, [("1001".to_owned(), 92), ("1001".to_owned(), 101)]);
    assert_eq!(mails[0].to.reveal(), "anna@example.test");

    // A hold of the address keeps the mail.
    let effect = effects(&b).await.remove(0);
    assert_eq!(effect.new.channel, Channel::System);
    let holder = "anna@example.test".parse::<Destination>().expect("a destination");
    assert!(b.mailstore.destinations(&effect).unwrap().contains(&holder));

    // Of two notes that were written on two sides of a split one is left; the mails of the other are there.
    let content = SystemContent::Quota { number: "1001".to_owned(), name: Pii::default(), percent: 91 };
    let lost = SystemMail { to: Pii::new("anna@example.test".to_owned()), content };
    let owner = anna.id;
    assert!(a.mailstore.commit(move |draft| system_mail_in(draft, &lost, owner, 3)).await.unwrap().0);
    assert_eq!(on_a.warn_of_quota(&anna, 50, 90).await.unwrap(), Warned::NotDue);
    assert_eq!(on_a.warn_of_quota(&anna, 93, 90).await.unwrap(), Warned::Queued);
    assert_eq!(effects(&a).await.len(), 4);

    a.mailstore.remove(anna.id).await.expect("removed");
    assert_eq!(on_a.forget_removed().await.unwrap(), 1);
    assert_eq!(on_a.forget_removed().await.unwrap(), 0);
}

#[tokio::test]
async fn owner_is_warned_of_messages_before_they_age_and_once() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let anna = owner(&node, "1001", Some("anna@example.test")).await;
    let mails_of = SystemMails::new(node.mailstore.clone(), || true);
    for _ in 0..2 {
        node.leave(anna.id, &audio(1_500)).await;
    }
    let later = |days: u64| Timestamp(wall().0 + days * DAY_MS);
    let rules = vec![(Rule::NewDays, Some(30))];
    node.mailstore.change_class("default", rules).await.unwrap();
    assert_eq!(mails_of.warn_of_ageing(&anna, later(29)).await.unwrap(), Warned::NotDue, "without warn-days");
    node.mailstore.change_class("default", vec![(Rule::WarnDays, Some(7))]).await.unwrap();
    assert_eq!(mails_of.warn_of_ageing(&anna, later(22)).await.unwrap(), Warned::NotDue);
    assert_eq!(mails_of.warn_of_ageing(&anna, later(24)).await.unwrap(), Warned::Queued);
    for days in [24, 25, 29] {
        assert_eq!(mails_of.warn_of_ageing(&anna, later(days)).await.unwrap(), Warned::NotDue, "{days}");
    }
    let mails = mails(&node).await;
    let [SystemMail { content: SystemContent::Ageing { messages, .. }, .. }] = mails.as_slice() else {
        panic!("{mails:?}")
    };
    assert_eq!(*messages, 2);
}

#[tokio::test]
async fn first_pin_is_in_the_store_only_until_its_mail_is_sent_or_dropped() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let outcomes = [Some(EffectOutcome::Done("250 taken".to_owned())), None];
    for (number, outcome) in (1_u128..).zip(outcomes) {
        let (to, pin) = (Pii::new("anna@example.test".to_owned()), Pii::new("482913".to_owned()));
        let content = SystemContent::FirstPin { number: "1001".to_owned(), name: Pii::default(), pin };
        let mail = SystemMail { to, content };
        let (id, written) = (mail.effect(MailboxId(number), 0, wall()).id(), mail.clone());
        let (new, _) = node
            .mailstore
            .commit(move |draft| system_mail_in(draft, &written, MailboxId(number), 0))
            .await
            .unwrap();
        assert!(new);
        let again = EffectOutcome::Failed("451 busy".to_owned(), Timestamp(0));
        node.mailstore.end_attempt(id, again, Vec::new()).await.unwrap();
        let effect = node.mailstore.effect(id).unwrap().expect("an effect");
        assert_eq!(node.mailstore.system_mail_of(&effect).unwrap(), Some(mail), "the next attempt needs it");
        match outcome {
            Some(outcome) => node.mailstore.end_attempt(id, outcome, Vec::new()).await.map(drop).unwrap(),
            None => node.mailstore.drop_effect(id).await.map(drop).unwrap(),
        }
        assert_eq!(node.mailstore.system_mail_of(&effect).unwrap(), None, "{number}");
    }
}
