//! Holds as a pure value: names of destinations, the effects that they keep, and their end.

use twinbox_ids::{
    DeviceId, EffectId, Epoch, Incarnation, MailboxId, MessageId, NodeName, Origin, Stamp, Timestamp,
};
use twinbox_outbox::{
    Cause, Channel, Destination, Effect, Hold, Holds, LIFE_AFTER_RELEASE_MS, Limits, MAX_HOLDS, NewEffect,
    OutboxQueue, Transition, WaitingEffect, attempt, dead, done, due_now, failed, schema,
};
use twinbox_replication_core::{Edit, Key, Record};

const NOW: Timestamp = Timestamp(1_000_000_000);

fn node() -> NodeName {
    "a".parse().expect("a name")
}

/// A record with the edits of one writer.
struct Row {
    key: Key,
    record: Record,
    ticks: u64,
}

impl Row {
    fn new(key: Key) -> Self {
        Self { key, record: Record::new(), ticks: 0 }
    }

    fn edit(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            self.ticks += 1;
            let stamp = Stamp { wall: NOW.0 + self.ticks, counter: 0, origin: Origin(1) };
            self.record.merge(edit.delta(&self.record, stamp, &node()));
        }
    }

    fn effect(&self) -> Effect {
        Effect::read(&self.key, &self.record).expect("readable").expect("present")
    }
}

fn destination(text: &str) -> Destination {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn hold(text: &str, released: Option<Timestamp>) -> Hold {
    Hold { destination: destination(text), reason: "rebuilt".to_owned(), since: NOW, released }
}

fn holds(all: &[Hold]) -> Holds {
    let rows: Vec<_> = all
        .iter()
        .map(|hold| {
            let mut row = Row::new(Hold::key(&hold.destination));
            row.edit(hold.edits());
            (row.key, row.record)
        })
        .collect();
    Holds::read(&rows)
}

fn new() -> NewEffect {
    NewEffect {
        cause: Cause { mailbox: MailboxId(1), message: MessageId(2), transition: Transition::Filed },
        channel: Channel::Mail,
        target: DeviceId(3),
        repeat: 0,
        retry: 0,
        created: NOW,
        not_before: NOW,
        expires: Timestamp(NOW.0 + 1_000),
    }
}

fn created() -> Row {
    let mut row = Row::new(schema::effect_key(new().id()));
    row.edit(new().edits(None));
    row
}

#[test]
fn destinations_are_read_and_written_in_one_form() {
    for (text, form) in [
        ("mail", Destination::Channel(Channel::Mail)),
        (" SMS-HTTP ", Destination::Channel(Channel::SmsHttp)),
        ("vpim", Destination::Channel(Channel::Vpim)),
        ("Example.COM.", Destination::Host("example.com".to_owned())),
        ("[2001:DB8:0::1]", Destination::Host("2001:db8::1".to_owned())),
        ("Anna@Example.com", Destination::Address("anna@example.com".to_owned().into())),
    ] {
        assert_eq!(destination(text), form, "{text}");
        assert_eq!(destination(form.reveal()), form, "{text}");
    }
    let long = "a".repeat(400);
    for text in ["", "example.com:443", "https://example.com", "a b@example.com", "@a.example", "a@", &long] {
        let error = text.parse::<Destination>().expect_err(text).to_string();
        assert!(error.contains("write a mail domain"), "{error}");
    }
}

#[test]
fn an_effect_is_named_by_its_channel_its_address_and_its_domain_or_host() {
    let words = |all: Vec<Destination>| all.iter().map(|one| one.reveal().to_owned()).collect::<Vec<_>>();
    let mail = Destination::of_mail(Channel::Pager, "Anna@Example.com");
    assert_eq!(words(mail), ["pager", "anna@example.com", "example.com"]);
    for (url, host) in [
        ("https://Hooks.example:8443/a?b@c", Some("hooks.example")),
        ("http://user@hooks.example", Some("hooks.example")),
        ("https://[2001:db8::1]:443/", Some("2001:db8::1")),
        ("https://", None),
    ] {
        let expected: Vec<_> = ["webhook"].into_iter().chain(host).collect();
        assert_eq!(words(Destination::of_url(Channel::Webhook, url)), expected, "{url}");
    }
}

#[test]
fn a_hold_keeps_what_it_names_and_nothing_else_until_it_is_released() {
    let mail = Destination::of_mail(Channel::Mail, "anna@example.com");
    for (held, keeps) in [
        ("mail", true),
        ("example.com", true),
        ("anna@example.com", true),
        ("pager", false),
        ("mail.example.com", false),
        ("bert@example.com", false),
    ] {
        let in_force = holds(&[hold(held, None)]);
        assert_eq!(in_force.holding(&mail).is_some(), keeps, "{held}");
        let released = holds(&[hold(held, Some(NOW))]);
        assert_eq!((released.holding(&mail), released.is_empty()), (None, false), "{held}");
    }
    let both = holds(&[hold("mail", None), hold("example.com", Some(NOW))]);
    assert_eq!(both.holding(&mail).map(|hold| hold.destination.reveal()), Some("mail"), "the other one stays");
    assert_eq!(both.in_force().count(), 1);
}

#[test]
fn a_hold_that_was_removed_can_be_made_again() {
    let mut row = Row::new(Hold::key(&destination("mail")));
    row.edit(hold("mail", Some(NOW)).edits());
    row.edit(vec![Edit::Delete]);
    assert_eq!(Hold::read(&row.key, &row.record), None);
    row.edit(hold("mail", None).edits());
    assert_eq!(Hold::read(&row.key, &row.record), Some(hold("mail", None)));
}

#[test]
fn an_effect_that_waited_lives_a_day_longer_than_its_hold_and_a_later_one_does_not() {
    let mail = Destination::of_mail(Channel::Mail, "anna@example.com");
    let released = Timestamp(NOW.0 + 5_000);
    let all = holds(&[hold("example.com", Some(released)), hold("pager", Some(Timestamp(NOW.0 + 9_000)))]);
    assert_eq!(all.expires(&mail, &new()), Timestamp(released.0 + LIFE_AFTER_RELEASE_MS));
    let long = NewEffect { expires: Timestamp(released.0 + 2 * LIFE_AFTER_RELEASE_MS), ..new() };
    assert_eq!(all.expires(&mail, &long), long.expires, "its own life is longer");
    let later = NewEffect { created: Timestamp(released.0 + 1), ..new() };
    assert_eq!(all.expires(&mail, &later), later.expires);
}

#[test]
fn released_holds_are_outdated_after_a_day_or_beyond_their_number_and_holds_in_force_never() {
    let after = Timestamp(NOW.0 + LIFE_AFTER_RELEASE_MS + 1);
    let few = holds(&[hold("mail", None), hold("pager", Some(NOW)), hold("webhook", Some(after))]);
    assert!(few.outdated(NOW).is_empty());
    assert_eq!(few.outdated(after), [destination("pager")]);
    let many: Vec<_> = (0..=MAX_HOLDS as u64)
        .map(|n| hold(&format!("host{n}.example"), Some(Timestamp(NOW.0 + n))))
        .chain([hold("mail", None)])
        .collect();
    assert_eq!(holds(&many).outdated(NOW), [destination("host0.example")], "the earliest");
}

#[test]
fn an_effect_is_made_due_once_and_keeps_the_reason_of_its_failure() {
    let mut row = created();
    assert!(due_now(&row.effect(), NOW).is_empty(), "due already");
    let epoch = Epoch { generation: 1, number: 1, node: node() };
    let (number, edits) = attempt(&row.effect(), NOW, Incarnation(1), &epoch);
    row.edit(edits);
    assert!(due_now(&row.effect(), NOW).is_empty(), "under way");
    row.edit(failed(number, Timestamp(NOW.0 + 60_000), "no answer"));
    row.edit(due_now(&row.effect(), NOW));
    let effect = row.effect();
    assert_eq!((effect.due(), effect.attempts()), (NOW, 1));
    assert_eq!(effect.failure.map(|(_, failure)| failure.text), Some("no answer".to_owned()));
    row.edit(dead(NOW, "refused"));
    assert!(due_now(&row.effect(), Timestamp(0)).is_empty(), "given up");
}

#[test]
fn only_an_effect_that_left_counts_as_sent() {
    let begin = |row: &mut Row| {
        let epoch = Epoch { generation: 1, number: 1, node: node() };
        let (number, edits) = attempt(&row.effect(), NOW, Incarnation(1), &epoch);
        row.edit(edits);
        number
    };
    let mut unwanted = created();
    unwanted.edit(done(NOW, "the message was heard"));
    assert_eq!(unwanted.effect().sent_at(), None, "never attempted");
    let mut gathered = created();
    let number = begin(&mut gathered);
    gathered.edit(failed(number, NOW, "no answer"));
    gathered.edit(done(NOW, "gathered into another"));
    assert_eq!(gathered.effect().sent_at(), None, "every attempt failed");
    let mut retried = created();
    begin(&mut retried);
    retried.edit(dead(NOW, "refused"));
    retried.edit(done(NOW, "retried as another"));
    assert_eq!(retried.effect().sent_at(), None, "it was refused");
    let mut sent = created();
    let number = begin(&mut sent);
    sent.edit(failed(number, NOW, "no answer"));
    begin(&mut sent);
    assert_eq!(sent.effect().sent_at(), None, "under way");
    sent.edit(done(Timestamp(NOW.0 + 7), "250 taken"));
    assert_eq!(sent.effect().sent_at(), Some(Timestamp(NOW.0 + 7)));
}

#[test]
fn an_effect_on_hold_is_not_due_until_it_is_wanted_again() {
    let mut queue = OutboxQueue::new(Limits::default());
    let waiting = WaitingEffect { id: EffectId(1), due: NOW, group: 1, alone: true };
    queue.want(waiting);
    queue.hold(EffectId(1), DeviceId(3));
    let other = WaitingEffect { id: EffectId(2), alone: false, ..waiting };
    queue.want(other);
    assert_eq!((queue.next(NOW), queue.next(NOW)), (Some(EffectId(2)), None), "it holds up no other");
    assert_eq!((queue.held(), queue.held_for(DeviceId(3))), (1, vec![EffectId(1)]));
    assert_eq!(queue.held_for(DeviceId(4)), []);
    // A hold that begins during an attempt counts after it.
    queue.want(other);
    queue.hold(EffectId(2), DeviceId(3));
    queue.finished(EffectId(2));
    assert_eq!((queue.next(NOW), queue.wake(), queue.is_empty()), (None, None, false));
    queue.want(waiting);
    queue.remove(EffectId(2));
    assert_eq!((queue.next(NOW), queue.held()), (Some(EffectId(1)), 0));
}
