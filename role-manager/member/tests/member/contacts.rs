//! Last contacts with the other members.

use std::collections::BTreeMap;

use twinbox_ids::Incarnation;
use twinbox_roles_member::Contacts;

use crate::common::{START, ms, name};

const FIRST: Incarnation = Incarnation(1);
const SECOND: Incarnation = Incarnation(2);

#[test]
fn a_message_that_names_no_incarnation_is_one_of_the_last_known_incarnation() {
    let (b, c) = (name("b"), name("c"));
    let mut contacts = Contacts::default();
    assert_eq!((contacts.last(&b), contacts.incarnation(&b)), (None, None));
    contacts.note(START, &b, None);
    assert_eq!((contacts.last(&b), contacts.last_with(&b, FIRST)), (Some(START), None));
    contacts.note(START + ms(1), &b, Some(FIRST));
    contacts.note(START + ms(2), &b, None);
    assert_eq!((contacts.last_with(&b, FIRST), contacts.incarnation(&b)), (Some(START + ms(2)), Some(FIRST)));
    assert_eq!(contacts.last(&c), None);
    contacts.retain(|known| *known == c);
    assert_eq!(contacts.last(&b), None, "it is no member any more");
}

#[test]
fn messages_of_a_later_incarnation_or_after_the_exit_are_no_contact_with_the_earlier_one() {
    let b = name("b");
    let mut contacts = Contacts::default();
    contacts.note(START, &b, Some(FIRST));
    contacts.note(START + ms(5), &b, Some(SECOND));
    contacts.note(START + ms(6), &b, None);
    assert_eq!(contacts.last_with(&b, FIRST), Some(START));
    assert_eq!(contacts.last_with(&b, SECOND), Some(START + ms(6)));
    // A late message of the first: the second one's last contact stays.
    contacts.note(START + ms(7), &b, Some(FIRST));
    assert_eq!(contacts.last_with(&b, SECOND), Some(START + ms(6)));

    let mut contacts = Contacts::default();
    contacts.note(START, &b, Some(FIRST));
    contacts.note_exit(&b, SECOND);
    contacts.note_exit(&b, FIRST);
    contacts.note(START + ms(9), &b, None);
    assert_eq!(
        contacts.last_with(&b, FIRST),
        Some(START),
        "the message was sent before the exit, or by another process"
    );
    assert_eq!(contacts.last(&b), Some(START + ms(9)));
}

#[test]
fn one_late_answer_counts_a_quarter_and_an_old_one_not_at_all() {
    let b = name("b");
    let mut contacts = Contacts::default();
    contacts.note(START, &b, None);
    assert_eq!(contacts.round_trips(START, ms(700)), BTreeMap::new(), "a message is no answer");
    contacts.note_answer(START, &b, Some(FIRST), ms(4));
    contacts.note_answer(START + ms(10), &b, None, ms(44));
    let until = START + ms(710);
    assert_eq!(contacts.round_trips(until, ms(700)), [(b.clone(), ms(14))].into());
    assert_eq!(contacts.round_trips(until + ms(1), ms(700)), BTreeMap::new());
    assert!(
        contacts.has_answered(START + ms(209), &b, ms(200)) && !contacts.has_answered(START + ms(210), &b, ms(200))
    );
}
