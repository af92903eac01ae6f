//! The state machine: the state of a call, and the dispatch of inputs.

use serde::{Deserialize, Serialize};
use twinbox_ids::Timestamp;

use crate::{
    ConversationSettings, Entry, Input, Output, Prompt, Start,
    leave::Leave,
    listen::Listen,
    menu::Menus,
    names,
    new_pin::NewPin,
    pending_requests::{Context, PendingRequests},
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
    settings: ConversationSettings,
    #[serde(rename = "line")]
    requests: PendingRequests,
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
    #[serde(rename = "LastWords")]
    FinalAnnouncement,
    Ended,
}

impl Conversation {
    /// Starts a conversation; returns the first outputs, too.
    pub fn start(start: Start) -> (Self, Vec<Output>) {
        let Start { entry, settings, now, caller: _ } = start;
        let mut requests = PendingRequests::default();
        let mut cx = Context { settings: &settings, requests: &mut requests, now };
        let state = match entry {
            Entry::Leave { mailbox, greeting } => Leave::start(mailbox, greeting, &mut cx),
            Entry::SignIn { mailbox } => SignIn::start(mailbox, &mut cx),
            Entry::AskMailbox => SignIn::start(None, &mut cx),
            Entry::Apology => State::announce_and_end(&[names::NO_SUCH_MAILBOX, names::GOODBYE], &mut cx),
        };
        let outputs = requests.drain();
        (Self { settings, requests, state }, outputs)
    }

    /// Handles an input; returns the outputs, in order.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Output> {
        if self.ended() || !self.requests.accept(&input) {
            return Vec::new();
        }
        match input {
            // A missing greeting or prompt is skipped. A missing message does not count as heard.
            Input::AudioMissing if !matches!(&self.state, State::Listen(listen) if listen.plays_audio()) => {
                self.step(Input::PlayFinished, now);
            }
            Input::Digit(key) if self.requests.busy() => {
                // Keys are stored while an answer is pending, but not while a message is being filed.
                if !matches!(self.state, State::Leave(_)) {
                    self.requests.type_ahead(key);
                }
            }
            input => self.step(input, now),
        }
        while !self.ended() && !self.requests.busy() && !self.requests.hung_up() {
            let Some(key) = self.requests.typed() else { break };
            self.step(Input::Digit(key), now);
        }
        debug_assert!(
            self.ended() || self.requests.waits_for_event(),
            "waits for nothing in {}",
            self.state_name()
        );
        if !self.ended() && !self.requests.waits_for_event() {
            // A programming error must not leave a caller in silence, or keep a call open forever.
            self.requests.hang_up();
            self.state = State::Ended;
        }
        self.requests.drain()
    }

    /// Whether the conversation has ended: the last output was `HangUp`.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// State of the call as text for a log or a metric: `leave/recording`, `menu/main`.
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Leave(state) => state.state_name(),
            State::SignIn(state) => state.state_name(),
            State::NewPin(state) => state.state_name(),
            State::Menu(state) => state.state_name(),
            State::Listen(state) => state.state_name(),
            State::Record(state) => state.state_name(),
            State::FinalAnnouncement => "last-words",
            State::Ended => "ended",
        }
    }

    fn step(&mut self, input: Input, now: Timestamp) {
        let mut cx = Context { settings: &self.settings, requests: &mut self.requests, now };
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
                State::FinalAnnouncement if matches!(input, Input::PlayFinished) => State::end(&mut cx),
                state => state,
            }
        };
    }
}

impl State {
    /// Hangs up and ends.
    pub(crate) fn end(cx: &mut Context<'_>) -> Self {
        cx.requests.hang_up();
        Self::Ended
    }

    /// Plays these prompts, then ends; ends immediately if the caller hung up.
    pub(crate) fn say_and_end(words: Vec<Prompt>, cx: &mut Context<'_>) -> Self {
        if cx.requests.hung_up() {
            return Self::end(cx);
        }
        cx.requests.play(words);
        Self::FinalAnnouncement
    }

    /// Plays these prompts, then ends.
    pub(crate) fn announce_and_end(words: &[&str], cx: &mut Context<'_>) -> Self {
        Self::say_and_end(phrases::all(words), cx)
    }

    /// The store does not answer correctly: apologizes and ends.
    pub(crate) fn not_working(cx: &mut Context<'_>) -> Self {
        Self::announce_and_end(&[names::NOT_WORKING, names::GOODBYE], cx)
    }
}
