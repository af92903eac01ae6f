//! The outcome of a call, followed by the inputs and outputs of its conversation.

use twinbox_call_records::{CallOutcome, CallProgress, CallRecord, Purpose};
use twinbox_conversation::{
    Answer, Entry, GreetingKind, Input, Limits, MailboxView, Output, Purpose as Recorded, Question, RecordingEnd,
};
use twinbox_ids::{CallId, MailboxId, Pii, Timestamp};

use crate::common::NIGHT;

const MAILBOX: MailboxId = MailboxId(7);

/// A step of a call.
enum CallStep {
    In(Input),
    Out(Output),
    /// The call ends from this side; true: broken.
    Ends(bool),
}

use CallStep::{Ends, In, Out};

fn mailbox(full: bool) -> MailboxView {
    MailboxView {
        id: MAILBOX,
        number: "1001".to_owned(),
        timezone: "UTC".to_owned(),
        greetings: Vec::new(),
        full,
        unavailable: false,
        operator: None,
        limits: Limits::default(),
    }
}

fn leave(full: bool) -> Entry {
    Entry::Leave { mailbox: mailbox(full), greeting: GreetingKind::Standard }
}

fn record() -> CallStep {
    Out(Output::Record { purpose: Recorded::Message(MAILBOX), max_ms: 1, end_silence_ms: 1 })
}

fn recorded(length_ms: u64) -> CallStep {
    In(Input::RecordingEnded { end: RecordingEnd::Stopped, length_ms })
}

fn ask(question: Question) -> CallStep {
    Out(Output::Ask(question))
}

fn check() -> CallStep {
    ask(Question::CheckPin(MAILBOX, Pii::new("1234".to_owned())))
}

fn answer(answer: Answer) -> CallStep {
    In(Input::Answer(answer))
}

fn run(entry: &Entry, steps: Vec<CallStep>) -> CallRecord {
    let caller = Some(Pii::new("2001".to_owned()));
    let mut call = CallProgress::new("a".parse().expect("a name"), CallId(3), NIGHT, caller);
    call.begins(entry);
    for step in steps {
        match step {
            In(input) => call.note_input(&input),
            Out(output) => call.note_outputs(&[output]),
            Ends(broken) => call.ends(broken),
        }
    }
    call.record(Timestamp(NIGHT.0 + 5_000))
}

#[test]
fn each_course_of_a_call_has_its_outcome() {
    let filed = || vec![record(), recorded(2_500), ask(Question::FileMessage(MAILBOX))];
    let with = |mut steps: Vec<CallStep>, more: Vec<CallStep>| {
        steps.extend(more);
        steps
    };
    let operator = || Out(Output::Transfer("0".to_owned()));
    let sign_in = || Entry::SignIn { mailbox: Some(mailbox(false)) };
    let right = || answer(Answer::PinOk { must_change: false });
    let find = || ask(Question::FindMailbox("1001".to_owned()));
    for (name, entry, steps, outcome) in [
        ("hang-up in the greeting", leave(false), vec![Ends(false)], CallOutcome::HungUp),
        ("hang-up after the tone", leave(false), vec![record(), Ends(false)], CallOutcome::NothingLeft),
        ("too short", leave(false), vec![record(), recorded(10), Ends(false)], CallOutcome::NothingLeft),
        ("filed", leave(false), with(filed(), vec![answer(Answer::Done)]), CallOutcome::MessageLeft),
        ("not stored", leave(false), with(filed(), vec![answer(Answer::Failed)]), CallOutcome::Failed),
        (
            "broke off, and was filed",
            leave(false),
            vec![record(), Ends(true), recorded(900), ask(Question::FileMessage(MAILBOX)), answer(Answer::Done)],
            CallOutcome::MessageLeft,
        ),
        ("broke off", leave(false), vec![Ends(true)], CallOutcome::Failed),
        ("full", leave(true), vec![Ends(false)], CallOutcome::Refused),
        ("no such mailbox", Entry::Apology, vec![Ends(false)], CallOutcome::Refused),
        ("operator", leave(false), vec![operator(), Ends(false)], CallOutcome::Transferred),
        ("operator, broken later", leave(false), vec![operator(), Ends(true)], CallOutcome::Transferred),
        ("no operator", leave(false), vec![operator(), In(Input::TransferFailed)], CallOutcome::HungUp),
        ("no operator, full", leave(true), vec![operator(), In(Input::TimerFired)], CallOutcome::Refused),
        (
            "operator, then message",
            leave(false),
            with(with(vec![operator(), In(Input::TransferFailed)], filed()), vec![answer(Answer::Done)]),
            CallOutcome::MessageLeft,
        ),
        ("no PIN", sign_in(), vec![Ends(false)], CallOutcome::HungUp),
        ("PIN", sign_in(), vec![check(), right(), Ends(true)], CallOutcome::SignedIn),
        ("wrong PIN", sign_in(), vec![check(), answer(Answer::PinWrong), Ends(false)], CallOutcome::FailedSignIn),
        (
            "back-off",
            sign_in(),
            vec![check(), answer(Answer::PinBackOff { seconds: 9 })],
            CallOutcome::FailedSignIn,
        ),
        ("second try", sign_in(), vec![check(), answer(Answer::PinWrong), check(), right()], CallOutcome::SignedIn),
        (
            "message after sign-in",
            sign_in(),
            with(with(vec![check(), right()], filed()), vec![answer(Answer::Done)]),
            CallOutcome::SignedIn,
        ),
        (
            "unknown number",
            Entry::AskMailbox,
            vec![find(), answer(Answer::Mailbox(None))],
            CallOutcome::FailedSignIn,
        ),
        (
            "answer to another question",
            leave(false),
            vec![ask(Question::ListMessages(MAILBOX)), answer(Answer::Done)],
            CallOutcome::HungUp,
        ),
    ] {
        assert_eq!(run(&entry, steps).outcome, outcome, "{name}");
    }
}

#[test]
fn record_has_mailbox_length_and_times() {
    let steps = vec![record(), recorded(2_500), ask(Question::FileMessage(MAILBOX)), answer(Answer::Done)];
    let left = run(&leave(false), steps);
    assert_eq!((left.purpose, left.mailbox, left.number.as_deref()), (Purpose::Leave, Some(MAILBOX), Some("1001")));
    assert_eq!((left.message_ms, left.began, left.ended.0), (2_500, NIGHT, NIGHT.0 + 5_000));
    let found = answer(Answer::Mailbox(Some(mailbox(false))));
    let found = run(&Entry::AskMailbox, vec![ask(Question::FindMailbox("1001".to_owned())), found]);
    assert_eq!(
        (found.purpose, found.mailbox, found.outcome),
        (Purpose::SignIn, Some(MAILBOX), CallOutcome::HungUp)
    );
}

#[test]
fn call_without_a_conversation_is_refused_and_its_end_is_never_before_its_begin() {
    let call = CallProgress::new("a".parse().expect("a name"), CallId(3), NIGHT, None);
    let record = call.record(Timestamp(5));
    assert_eq!((record.outcome, record.purpose, record.ended), (CallOutcome::Refused, Purpose::Nothing, NIGHT));
}
