//! Random inputs in random order: no panic, no call that hangs, no lost message; a stored conversation continues like
//! one that was not stored.

use std::collections::HashSet;

use proptest::prelude::*;
use twinbox_conversation::{
    Answer, Caller, Conversation, Entry, GreetingKind, Input, Limits, MailboxView, Output, Prompt, Purpose,
    Question, RecordingEnd, Start, phrases,
};
use twinbox_ids::{BlobHash, Timestamp};

use crate::common::{GREETING_HASH, GREETINGS, NOW, mailbox, message, settings};

/// Model of a conversation's shell; checks that the outputs are consistent.
#[derive(Default)]
struct Shell {
    playing: bool,
    timer: bool,
    recording: Option<Purpose>,
    stopping: bool,
    /// A take exists that was neither filed nor discarded.
    take: bool,
    asked: Option<Question>,
    transferring: bool,
    hung_up: bool,
    ended: bool,
}

impl Shell {
    /// Executes the outputs; panics on an impossible one.
    fn execute(&mut self, outputs: &[Output], prompts: &HashSet<String>) {
        for output in outputs {
            assert!(!self.ended, "{output:?} after the end");
            let heard = matches!(
                output,
                Output::Play(_) | Output::Record { .. } | Output::Transfer(_) | Output::SetTimer(_)
            );
            assert!(!(self.hung_up && heard), "{output:?} for a caller who hung up");
            match output {
                Output::Play(words) => {
                    assert!(!words.is_empty(), "nothing to play");
                    for word in words {
                        match word {
                            Prompt::Named(name) => assert!(prompts.contains(name), "{name} is not in the list"),
                            Prompt::LastTake => assert!(self.take, "no take to play"),
                            Prompt::Audio(_) | Prompt::Beep | Prompt::Silence(_) => {}
                        }
                    }
                    self.playing = true;
                }
                Output::StopPlay => self.playing = false,
                Output::SetTimer(ms) => {
                    assert!(*ms > 0, "a timer that is out at once");
                    self.timer = true;
                }
                Output::CancelTimer => self.timer = false,
                Output::Record { purpose, .. } => {
                    assert!(self.recording.is_none() && !self.take, "recording over another take");
                    assert!(!self.playing, "recording what plays");
                    self.recording = Some(*purpose);
                }
                Output::StopRecording => {
                    assert!(self.recording.is_some() && !self.stopping, "nothing to stop");
                    self.stopping = true;
                }
                Output::DiscardRecording => {
                    assert!(self.recording.is_none() && self.take, "no take to throw away");
                    self.take = false;
                }
                Output::Ask(question) => {
                    assert!(self.asked.is_none(), "two questions at a time");
                    if matches!(question, Question::FileMessage(_) | Question::KeepGreeting(..)) {
                        assert!(self.recording.is_none() && self.take, "no take to keep");
                        self.take = false;
                    }
                    self.asked = Some(question.clone());
                }
                Output::Transfer(_) => self.transferring = true,
                Output::HangUp => {
                    assert!(self.recording.is_none() && !self.take, "a take is left behind");
                    self.ended = true;
                }
            }
        }
    }

    /// Updates the model with an input to the conversation.
    fn send(&mut self, input: &Input) {
        match input {
            Input::PlayFinished | Input::AudioMissing => self.playing = false,
            Input::TimerFired => self.timer = false,
            Input::RecordingEnded { .. } => {
                self.take |= self.recording.take().is_some();
                self.stopping = false;
            }
            Input::Answer(_) => self.asked = None,
            Input::TransferFailed => self.transferring = false,
            Input::HungUp => self.hung_up = true,
            Input::Digit(_) => {}
        }
    }

    fn waits(&self) -> bool {
        self.playing || self.timer || self.recording.is_some() || self.asked.is_some() || self.transferring
    }

    /// The next input if the caller does nothing; `well`: all questions succeed.
    fn next(&self, well: bool, length_ms: u64) -> Option<Input> {
        if let Some(question) = &self.asked {
            return Some(Input::Answer(if well { good(question) } else { Answer::Failed }));
        }
        if self.recording.is_some() {
            let end = if self.stopping { RecordingEnd::Stopped } else { RecordingEnd::Silence };
            return Some(Input::RecordingEnded { end, length_ms });
        }
        if self.playing {
            return Some(Input::PlayFinished);
        }
        if self.transferring {
            return Some(Input::TransferFailed);
        }
        self.timer.then_some(Input::TimerFired)
    }
}

fn good(question: &Question) -> Answer {
    match question {
        Question::FindMailbox(number) => Answer::Mailbox(Some(mailbox(number))),
        Question::CheckPin(..) => Answer::PinOk { must_change: false },
        Question::ListMessages(_) => Answer::Messages { new: vec![message(1), message(2)], old: vec![message(3)] },
        _ => Answer::Done,
    }
}

/// One step of a random call.
#[derive(Debug, Clone)]
enum Event {
    /// The input that is due.
    Next { well: bool, length_ms: u64 },
    /// Any input, due or not.
    Send(Input),
    /// A useful sequence of keys.
    Keys(&'static str),
}

fn steps() -> impl Strategy<Value = Vec<Event>> {
    let length = prop_oneof![Just(0), Just(1_999), Just(2_000), any::<u64>()];
    let key = proptest::sample::select("0123456789*#".chars().collect::<Vec<_>>());
    prop::collection::vec(
        prop_oneof![
            8 => (prop::bool::weighted(0.9), length.clone()).prop_map(|(well, length_ms)| Event::Next { well, length_ms }),
            8 => key.prop_map(|key| Event::Send(Input::Digit(key))),
            3 => input(length).prop_map(Event::Send),
            3 => proptest::sample::select(vec!["8642#", "8642#8642#", "04", "042", "413", "4132", "051", "431", "01#", "411#"])
                .prop_map(Event::Keys),
        ],
        0..60,
    )
}

fn input(length: impl Strategy<Value = u64>) -> impl Strategy<Value = Input> {
    let end = proptest::sample::select(vec![
        RecordingEnd::Stopped,
        RecordingEnd::Silence,
        RecordingEnd::Limit,
        RecordingEnd::Failed,
    ]);
    let messages = (0u8..5, 0u8..5).prop_map(|(new, old)| Answer::Messages {
        new: (0..new).map(message).collect(),
        old: (0..old).map(message).collect(),
    });
    let answer = prop_oneof![
        Just(Answer::Mailbox(None)),
        view().prop_map(|view| Answer::Mailbox(Some(view))),
        any::<bool>().prop_map(|must_change| Answer::PinOk { must_change }),
        Just(Answer::PinWrong),
        any::<u64>().prop_map(|seconds| Answer::PinBackOff { seconds }),
        messages,
        Just(Answer::Done),
        Just(Answer::PinRefused),
        Just(Answer::Failed),
    ];
    prop_oneof![
        3 => Just(Input::PlayFinished),
        1 => Just(Input::AudioMissing),
        3 => Just(Input::TimerFired),
        3 => (end, length).prop_map(|(end, length_ms)| Input::RecordingEnded { end, length_ms }),
        9 => answer.prop_map(Input::Answer),
        1 => Just(Input::TransferFailed),
        1 => Just(Input::HungUp),
        1 => any::<char>().prop_map(Input::Digit),
    ]
}

fn view() -> impl Strategy<Value = MailboxView> {
    (prop::collection::vec(0usize..4, 0..3), any::<bool>(), any::<bool>(), ".{0,8}").prop_map(
        |(greetings, full, operator, timezone)| MailboxView {
            greetings: greetings
                .into_iter()
                .map(|i| (GREETINGS[i].0, BlobHash([GREETING_HASH + i as u8; 32])))
                .collect(),
            full,
            operator: operator.then(|| "2000".to_owned()),
            limits: Limits::default(),
            timezone,
            ..mailbox("1001")
        },
    )
}

fn start() -> impl Strategy<Value = Start> {
    let kind = proptest::sample::select(GREETINGS.map(|(kind, _)| kind).to_vec());
    let entry = prop_oneof![
        4 => (view(), kind).prop_map(|(mailbox, greeting): (_, GreetingKind)| Entry::Leave { mailbox, greeting }),
        4 => view().prop_map(|view| Entry::SignIn { mailbox: Some(view) }),
        1 => Just(Entry::SignIn { mailbox: None }),
        1 => Just(Entry::AskMailbox),
        1 => Just(Entry::Apology),
    ];
    let map = proptest::sample::select(vec!["asterisk", "unity", "no such map"]);
    // Invalid settings must do no harm.
    (entry, map, any::<bool>()).prop_map(|(entry, map, odd)| {
        let mut settings = settings(map);
        if odd {
            (settings.min_message_ms, settings.digit_timeout_ms, settings.pin_tries) = (0, 0, 0);
        }
        Start { entry, caller: Caller::default(), settings, now: NOW }
    })
}

/// Two equal conversations; one of them is stored and loaded between any two inputs.
struct Pair {
    kept: Conversation,
    stored: Conversation,
    shell: Shell,
    prompts: HashSet<String>,
    now: Timestamp,
}

impl Pair {
    fn start(start: Start) -> Self {
        let (kept, outputs) = Conversation::start(start);
        let prompts = phrases::required_prompts().into_iter().collect();
        let mut pair = Self { stored: kept.clone(), kept, shell: Shell::default(), prompts, now: NOW };
        pair.check(&outputs);
        pair
    }

    fn send(&mut self, input: &Input) {
        self.now.0 += 700;
        let bytes = postcard::to_stdvec(&self.stored).expect("it can be stored");
        self.stored = postcard::from_bytes(&bytes).expect("it can be fetched");
        let json = serde_json::to_string(&self.stored).expect("it can be stored as JSON");
        self.stored = serde_json::from_str(&json).expect("it can be fetched from JSON");

        let message = matches!(self.shell.recording, Some(Purpose::Message(_)));
        self.shell.send(input);
        let outputs = self.kept.handle(input.clone(), self.now);
        assert_eq!(self.stored.handle(input.clone(), self.now), outputs, "stored or not, it is the same");
        if let (true, Input::RecordingEnded { length_ms: 2_000.., .. }) = (message, input) {
            let filed = outputs.iter().any(|o| matches!(o, Output::Ask(Question::FileMessage(_))));
            assert!(filed, "a message is lost: {outputs:?}");
        }
        self.check(&outputs);
    }

    fn keys(&mut self, keys: &str) {
        for key in keys.chars() {
            self.send(&Input::Digit(key));
        }
    }

    fn check(&mut self, outputs: &[Output]) {
        self.shell.execute(outputs, &self.prompts);
        let ended = self.kept.ended();
        assert_eq!(ended, self.shell.ended, "it ends with HangUp");
        assert_eq!(ended, self.kept.state_name() == "ended");
        assert!(ended || self.shell.waits(), "it waits for nothing in {}", self.kept.state_name());
    }
}

proptest! {
    #[test]
    fn conversation_always_waits_for_an_event_and_ends(start in start(), steps in steps(), well in any::<bool>()) {
        let mut pair = Pair::start(start);
        for step in steps {
            match step {
                Event::Send(input) => pair.send(&input),
                Event::Keys(keys) => pair.keys(keys),
                Event::Next { well, length_ms } => {
                    if let Some(input) = pair.shell.next(well, length_ms) {
                        pair.send(&input);
                    }
                }
            }
        }
        // From the current state: a call whose caller does nothing more must end.
        for _ in 0..60 {
            if let Some(input) = pair.shell.next(well, 5_000) {
                pair.send(&input);
            }
        }
        prop_assert!(pair.kept.ended(), "a silent caller is kept in {}", pair.kept.state_name());
        pair.send(&Input::Digit('1'));
    }

    #[test]
    fn conversation_ends_after_a_hang_up(start in start(), steps in steps()) {
        let mut pair = Pair::start(start);
        for step in steps {
            match step {
                Event::Next { well, length_ms } => {
                    if let Some(input) = pair.shell.next(well, length_ms) {
                        pair.send(&input);
                    }
                }
                Event::Send(input @ Input::Digit(_)) => pair.send(&input),
                Event::Keys(keys) => pair.keys(keys),
                Event::Send(_) => {}
            }
        }
        if !pair.kept.ended() {
            pair.send(&Input::HungUp);
        }
        // At most the end of a recording and its filing are pending.
        for _ in 0..2 {
            if let Some(input) = (!pair.kept.ended()).then(|| pair.shell.next(true, 5_000)).flatten() {
                prop_assert!(matches!(input, Input::RecordingEnded { .. } | Input::Answer(_)), "{:?}", input);
                pair.send(&input);
            }
        }
        prop_assert!(pair.kept.ended(), "kept in {}", pair.kept.state_name());
    }
}

/// Debug output contains nothing private.
#[test]
fn nothing_private_is_printed() {
    let entry = Entry::SignIn { mailbox: Some(mailbox("1001")) };
    let caller = Caller { number: Some("5550123".to_owned().into()), name: Some("Ada".to_owned().into()) };
    let (mut call, _) = Conversation::start(Start { entry, caller, settings: settings("asterisk"), now: NOW });
    for key in "864297#31".chars() {
        call.handle(Input::Digit(key), NOW);
        let printed = format!("{call:?}");
        assert!(!["8642", "5550123", "Ada", "\"31\""].iter().any(|secret| printed.contains(secret)), "{printed}");
    }
}
