//! Recording a greeting or a name, with review before it is stored.

use serde::{Deserialize, Serialize};

use crate::{
    Answer, GreetingKind, Input, Prompt, Purpose, Question, RecordingEnd,
    entry::Idle,
    keymap::{Action, Facts, Menu},
    machine::State,
    menu::Session,
    names,
    pending_requests::Context,
    phrases,
};

/// Maximum length of a name, in milliseconds: callers hear the name in the middle of a sentence.
const LONGEST_NAME_MS: u64 = 10_000;

/// Silence that ends a name, in milliseconds, if the configured one is longer: a name has no pauses.
const NAME_END_SILENCE_MS: u64 = 3_000;

/// Minimum length of a name, in milliseconds: "Jo" is a name and shorter than any message.
const SHORTEST_NAME_MS: u64 = 300;

/// Maximum number of too short takes.
const TAKES: u8 = 3;

/// An owner records a greeting.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    session: Session,
    kind: GreetingKind,
    /// Menu to return to.
    back: Menu,
    too_short: u8,
    idle: Idle,
    step: RecordStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum RecordStep {
    /// The instruction is playing, followed by the tone.
    Prompt,
    Recording,
    /// The recorder was ordered to stop.
    Stopping,
    /// The owner accepts, repeats or discards the recording.
    Review,
    /// The recording is being stored.
    Keeping,
}

impl Record {
    pub(crate) fn start(session: Session, kind: GreetingKind, back: Menu, cx: &mut Context<'_>) -> State {
        Self { session, kind, back, too_short: 0, idle: Idle::default(), step: RecordStep::Prompt }
            .prompt(Vec::new(), cx)
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match self.step {
            RecordStep::Prompt => "greeting/prompt",
            RecordStep::Recording => "greeting/recording",
            RecordStep::Stopping => "greeting/stopping",
            RecordStep::Review => "greeting/review",
            RecordStep::Keeping => "greeting/keeping",
        }
    }

    pub(crate) fn on(mut self, input: Input, cx: &mut Context<'_>) -> State {
        let action = |menu, key| cx.map().action(menu, key, &Facts::default());
        match (self.step, input) {
            (RecordStep::Prompt, Input::Digit(key)) => match action(Menu::Tone, key) {
                Some(Action::SkipToTone) => {
                    cx.requests.play(vec![Prompt::Beep]);
                    State::Record(self)
                }
                Some(Action::Cancel) => self.leave(&[], cx),
                _ => State::Record(self),
            },
            (RecordStep::Prompt, Input::PlayFinished) => self.record(cx),
            (RecordStep::Recording, Input::Digit(key)) if action(Menu::Recording, key) == Some(Action::Finish) => {
                cx.requests.stop_recording();
                self.to(RecordStep::Stopping)
            }
            (RecordStep::Recording | RecordStep::Stopping, Input::RecordingEnded { end, length_ms }) => {
                self.recorded(end, length_ms, cx)
            }
            (RecordStep::Review, Input::Digit(key)) => {
                self.idle.reset();
                let action = action(Menu::Review, key);
                self.review_key(action, cx)
            }
            (RecordStep::Review, Input::PlayFinished) => {
                cx.wait_for_key();
                State::Record(self)
            }
            (RecordStep::Review, Input::TimerFired) if self.idle.another() => {
                cx.requests.discard_recording();
                State::announce_and_end(&[names::GOODBYE], cx)
            }
            (RecordStep::Review, Input::TimerFired) => self.review(Vec::new(), cx),
            (RecordStep::Keeping, Input::Answer(answer)) => self.kept(&answer, cx),
            _ => State::Record(self),
        }
    }

    /// The caller hung up: a recording that was not accepted is discarded.
    pub(crate) fn hung_up(self, cx: &mut Context<'_>) -> State {
        match self.step {
            RecordStep::Recording => {
                cx.requests.stop_recording();
                self.to(RecordStep::Stopping)
            }
            RecordStep::Stopping => State::Record(self),
            RecordStep::Review => {
                cx.requests.discard_recording();
                State::end(cx)
            }
            RecordStep::Prompt | RecordStep::Keeping => State::end(cx),
        }
    }

    fn to(self, step: RecordStep) -> State {
        State::Record(Self { step, ..self })
    }

    /// Plays `lead`, then returns to the menu.
    fn leave(self, lead: &[&str], cx: &mut Context<'_>) -> State {
        self.session.menu(self.back, phrases::all(lead), cx)
    }

    fn prompt(self, lead: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        let mut words = lead;
        words.extend([phrases::record(self.kind), Prompt::Beep]);
        cx.requests.play(words);
        self.to(RecordStep::Prompt)
    }

    fn record(self, cx: &mut Context<'_>) -> State {
        let settings = cx.settings;
        let (max_ms, end_silence_ms) = match self.kind {
            GreetingKind::Name => (
                settings.max_message_ms.min(LONGEST_NAME_MS),
                // 0 stays: no silence ends a recording.
                settings.end_silence_ms.min(NAME_END_SILENCE_MS),
            ),
            _ => (settings.max_message_ms, settings.end_silence_ms),
        };
        let purpose = Purpose::Greeting(self.session.mailbox.id, self.kind);
        cx.requests.record(purpose, max_ms, end_silence_ms);
        self.to(RecordStep::Recording)
    }

    fn recorded(mut self, end: RecordingEnd, length_ms: u64, cx: &mut Context<'_>) -> State {
        let shortest = match self.kind {
            GreetingKind::Name => cx.settings.min_message_ms.min(SHORTEST_NAME_MS),
            _ => cx.settings.min_message_ms,
        };
        if cx.requests.hung_up() {
            cx.requests.discard_recording();
            return State::end(cx);
        }
        if end == RecordingEnd::Failed {
            cx.requests.discard_recording();
            return self.leave(&[names::FAILED], cx);
        }
        if length_ms >= shortest.max(1) {
            return self.review(Vec::new(), cx);
        }
        cx.requests.discard_recording();
        self.too_short += 1;
        if self.too_short >= TAKES {
            return self.leave(&[names::TOO_SHORT], cx);
        }
        self.prompt(phrases::all(&[names::TOO_SHORT]), cx)
    }

    fn review(self, lead: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        let mut words = lead;
        words.extend(cx.map().options(Menu::Review, &Facts::default()));
        cx.requests.play(words);
        self.to(RecordStep::Review)
    }

    fn review_key(self, action: Option<Action>, cx: &mut Context<'_>) -> State {
        match action {
            Some(Action::Accept) => {
                cx.requests.ask(Question::KeepGreeting(self.session.mailbox.id, self.kind));
                self.to(RecordStep::Keeping)
            }
            Some(Action::Listen) => self.review(vec![Prompt::LastTake], cx),
            Some(Action::Again) => {
                cx.requests.discard_recording();
                self.prompt(Vec::new(), cx)
            }
            Some(Action::Cancel) => {
                cx.requests.discard_recording();
                self.leave(&[], cx)
            }
            _ => self.review(phrases::all(&[names::SORRY]), cx),
        }
    }

    fn kept(mut self, answer: &Answer, cx: &mut Context<'_>) -> State {
        if !matches!(answer, Answer::Done) {
            return self.leave(&[names::FAILED], cx);
        }
        self.session.temporary |= self.kind == GreetingKind::Temporary;
        self.leave(&[names::MESSAGE_SAVED], cx)
    }
}
