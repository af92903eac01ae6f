//! Limits of a mailbox's class of service override the settings.

use twinbox_conversation::{
    Answer, Caller, Conversation, Entry, GreetingKind, Input, Limits, MailboxView, Output, Question, RecordingEnd,
    Start,
};

use crate::common::{NOW, mailbox, settings};

fn begin(entry: Entry) -> (Conversation, Vec<Output>) {
    let caller = Caller { number: None, name: None };
    Conversation::start(Start { entry, caller, settings: settings("asterisk"), now: NOW })
}

fn with(limits: Limits) -> MailboxView {
    MailboxView { limits, ..mailbox("1001") }
}

fn longest(limits: Limits) -> Option<u64> {
    let (mut call, _) = begin(Entry::Leave { mailbox: with(limits), greeting: GreetingKind::Standard });
    let outputs = call.handle(Input::PlayFinished, NOW);
    outputs.into_iter().find_map(|output| match output {
        Output::Record { max_ms, .. } => Some(max_ms),
        _ => None,
    })
}

#[test]
fn maximum_message_length_is_that_of_the_class() {
    assert_eq!(longest(Limits::default()), Some(180_000));
    assert_eq!(longest(Limits { max_message_ms: Some(20_000), ..Limits::default() }), Some(20_000));
}

#[test]
fn message_of_the_maximum_length_is_filed_though_the_minimum_is_longer() {
    let limits = Limits { max_message_ms: Some(1_000), ..Limits::default() };
    for (length_ms, filed) in [(1_000, true), (900, false)] {
        let (mut call, _) = begin(Entry::Leave { mailbox: with(limits), greeting: GreetingKind::Standard });
        call.handle(Input::PlayFinished, NOW);
        let outputs = call.handle(Input::RecordingEnded { end: RecordingEnd::Limit, length_ms }, NOW);
        let asked = outputs.iter().any(|output| matches!(output, Output::Ask(Question::FileMessage(_))));
        assert_eq!(asked, filed, "{length_ms}: {outputs:?}");
    }
}

#[test]
fn call_ends_after_the_wrong_pins_allowed_by_the_class() {
    for (tries, limits) in [(3, Limits::default()), (1, Limits { pin_tries: Some(1), ..Limits::default() })] {
        let (mut call, _) = begin(Entry::SignIn { mailbox: Some(with(limits)) });
        let mut wrong = 0;
        while call.state_name().starts_with("sign-in") {
            for key in "2580#".chars() {
                call.handle(Input::Digit(key), NOW);
            }
            call.handle(Input::Answer(Answer::PinWrong), NOW);
            wrong += 1;
            assert!(wrong < 10, "it never ends");
        }
        assert_eq!(wrong, tries);
    }
}
