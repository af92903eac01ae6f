//! The state machine: which state a call is in, and what reaches it.

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

/// A call's conversation.
///
/// It is told what happens ([`Input`]) and when, and says what to do ([`Output`]); between two inputs it can be
/// stored, and goes on elsewhere as if nothing had happened. Any input may come in any state: one that nobody
/// waits for is passed over. Unless it has ended, it always waits for something that comes by itself: the end of a
/// prompt, of a recording, of the timer, or an answer.
///
/// The last output is `HangUp`, once. When the caller hangs up, a message that is being recorded is filed first:
/// `StopRecording`, `Ask(FileMessage)`, then `HangUp`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Conversation {
    settings: Settings,
    line: Line,
    state: State,
}

/// Where a call is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum State {
    Leave(Leave),
    SignIn(SignIn),
    NewPin(NewPin),
    Menu(Menus),
    Listen(Listen),
    Record(Record),
    /// Something is said, and then the call ends.
    LastWords,
    Ended,
}

impl Conversation {
    /// Begins a conversation: what to do first comes with it.
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

    /// Tells the conversation what happened; returns what to do, in order.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Output> {
        if self.ended() || !self.line.accept(&input) {
            return Vec::new();
        }
        match input {
            // Of a greeting or a prompt nobody misses anything; a message that is not played is not heard.
            Input::AudioMissing if !matches!(&self.state, State::Listen(listen) if listen.plays_audio()) => {
                self.step(Input::PlayFinished, now);
            }
            Input::Digit(key) if self.line.busy() => {
                // A caller who knows the way does not wait; while a message is being filed there is no way.
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
            // A mistake of ours must not leave a caller in silence, nor hold a line for ever.
            self.line.hang_up();
            self.state = State::Ended;
        }
        self.line.drain()
    }

    /// Nothing more will come: the last output was `HangUp`.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Where the call is, in words fit for a log or a metric: `leave/recording`, `menu/main`.
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
    /// The end.
    pub(crate) fn end(cx: &mut Context<'_>) -> Self {
        cx.line.hang_up();
        Self::Ended
    }

    /// Says this, then ends; at once if nobody is there to hear it.
    pub(crate) fn say_and_end(words: Vec<Prompt>, cx: &mut Context<'_>) -> Self {
        if cx.line.hung_up() {
            return Self::end(cx);
        }
        cx.line.play(words);
        Self::LastWords
    }

    /// Says these, then ends.
    pub(crate) fn last_words(words: &[&str], cx: &mut Context<'_>) -> Self {
        Self::say_and_end(phrases::all(words), cx)
    }

    /// The store does not answer as it should.
    pub(crate) fn not_working(cx: &mut Context<'_>) -> Self {
        Self::last_words(&[names::NOT_WORKING, names::GOODBYE], cx)
    }
}
