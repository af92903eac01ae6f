//! The state machine: the state of a call, and the dispatch of inputs.

use serde::{Deserialize, Serialize};
use twinbox_ids::Timestamp;

use crate::{
    Entry, Input, Output, Prompt, Settings, Start,
    leave::Leave,
    line::{Context, Line},
    listen::Listen,
    menu::Menus,
    names,
    new_pin::NewPin,
    phrases,
    record::Record,
    sign_in::SignIn,
};

/// The conversation of a call.
///
/// Takes inputs ([`Input`]) with their time and returns outputs ([`Output`]). Between two inputs the conversation can
/// be stored and continue on another node. Any input may come in any state; an unexpected one is ignored. Until it
/// has ended, the conversation always waits for an event that arrives without the caller's action: the end of a
/// prompt or a recording, the timer, or an answer.
///
/// The last output is `HangUp`, once. When the caller hangs up, a message that is being recorded is filed first:
/// `StopRecording`, `Ask(FileMessage)`, then `HangUp`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Conversation {
    settings: Settings,
    line: Line,
    state: State,
}

/// State of a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum State {
    Leave(Leave),
    SignIn(SignIn),
    NewPin(NewPin),
    Menu(Menus),
    Listen(Listen),
    Record(Record),
    /// The final announcement plays, then the call ends.
    LastWords,
    Ended,
}

impl Conversation {
    /// Starts a conversation; returns the first outputs, too.
    pub fn start(start: Start) -> (Self, Vec<Output>) {
        let Start { entry, settings, now, caller: _ } = start;
        let mut line = Line::default();
        let mut cx = Context { settings: &settings, line: &mut line, now };
        let state = match entry {
            Entry::Leave { mailbox, greeting } => Leave::start(mailbox, greeting, &mut cx),
            Entry::SignIn { mailbox } => SignIn::start(mailbox, &mut cx),
            Entry::AskMailbox => SignIn::start(None, &mut cx),
            Entry::Apology => State::last_words(&[names::NO_SUCH_MAILBOX, names::GOODBYE], &mut cx),
        };
        let outputs = line.drain();
        (Self { settings, line, state }, outputs)
    }

    /// Handles an input; returns the outputs, in order.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Output> {
        if self.ended() || !self.line.accept(&input) {
            return Vec::new();
        }
        match input {
            // A missing greeting or prompt is skipped. A missing message does not count as heard.
            Input::AudioMissing if !matches!(&self.state, State::Listen(listen) if listen.plays_audio()) => {
                self.step(Input::PlayFinished, now);
            }
            Input::Digit(key) if self.line.busy() => {
                // Keys are stored while an answer is pending, but not while a message is being filed.
                if !matches!(self.state, State::Leave(_)) {
                    self.line.type_ahead(key);
                }
            }
            input => self.step(input, now),
        }
        while !self.ended() && !self.line.busy() && !self.line.hung_up() {
            let Some(key) = self.line.typed() else { break };
            self.step(Input::Digit(key), now);
        }
        debug_assert!(self.ended() || self.line.waits(), "waits for nothing in {}", self.place());
        if !self.ended() && !self.line.waits() {
            // A programming error must not leave a caller in silence, or keep a call open forever.
            self.line.hang_up();
            self.state = State::Ended;
        }
        self.line.drain()
    }

    /// Whether the conversation has ended: the last output was `HangUp`.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// State of the call as text for a log or a metric: `leave/recording`, `menu/main`.
    pub fn place(&self) -> &'static str {
        match &self.state {
            State::Leave(state) => state.place(),
            State::SignIn(state) => state.place(),
            State::NewPin(state) => state.place(),
            State::Menu(state) => state.place(),
            State::Listen(state) => state.place(),
            State::Record(state) => state.place(),
            State::LastWords => "last-words",
            State::Ended => "ended",
        }
    }

    fn step(&mut self, input: Input, now: Timestamp) {
        let mut cx = Context { settings: &self.settings, line: &mut self.line, now };
        let state = std::mem::replace(&mut self.state, State::Ended);
        self.state = if matches!(input, Input::HungUp) {
            match state {
                State::Leave(state) => state.hung_up(&mut cx),
                State::Record(state) => state.hung_up(&mut cx),
                _ => State::end(&mut cx),
            }
        } else {
            match state {
                State::Leave(state) => state.on(input, &mut cx),
                State::SignIn(state) => state.on(input, &mut cx),
                State::NewPin(state) => state.on(input, &mut cx),
                State::Menu(state) => state.on(input, &mut cx),
                State::Listen(state) => state.on(input, &mut cx),
                State::Record(state) => state.on(input, &mut cx),
                State::LastWords if matches!(input, Input::PlayFinished) => State::end(&mut cx),
                state => state,
            }
        };
    }
}

impl State {
    /// Hangs up and ends.
    pub(crate) fn end(cx: &mut Context<'_>) -> Self {
        cx.line.hang_up();
        Self::Ended
    }

    /// Plays these prompts, then ends; ends immediately if the caller hung up.
    pub(crate) fn say_and_end(words: Vec<Prompt>, cx: &mut Context<'_>) -> Self {
        if cx.line.hung_up() {
            return Self::end(cx);
        }
        cx.line.play(words);
        Self::LastWords
    }

    /// Plays these prompts, then ends.
    pub(crate) fn last_words(words: &[&str], cx: &mut Context<'_>) -> Self {
        Self::say_and_end(phrases::all(words), cx)
    }

    /// The store does not answer correctly: apologizes and ends.
    pub(crate) fn not_working(cx: &mut Context<'_>) -> Self {
        Self::last_words(&[names::NOT_WORKING, names::GOODBYE], cx)
    }
}
