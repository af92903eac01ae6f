//! Playing messages in sequence: announcement, audio and options of each.
//!
//! **A message counts as heard** when its audio has been played to the end, or when the owner leaves it by a key
//! after its audio began. If the owner hangs up in the middle, the message stays new. Saving and deleting are
//! separate changes and not preceded by `Heard`.

use serde::{Deserialize, Serialize};

use crate::{
    Answer, Input, Mark, MessageView, Prompt, Question,
    entry::Idle,
    keymap::{Action, Facts, Menu},
    machine::State,
    menu::Session,
    names,
    pending_requests::Context,
    phrases,
};

/// An owner listens to the messages of a folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Listen {
    session: Session,
    messages: Vec<Item>,
    at: usize,
    /// The audio of this message has begun to play.
    begun: bool,
    phase: Phase,
    idle: Idle,
}

/// A message and its changes in this call.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Item {
    view: MessageView,
    /// `Heard` has not been requested yet.
    unheard: bool,
    deleted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Announcement: position, time and caller of the message.
    Envelope,
    Audio,
    /// Announcement of the options.
    Played,
    Advanced,
    /// A change has been requested; the action follows it.
    Marking(Mark, Option<Action>),
}

impl Listen {
    /// Starts with the first of these messages; the list is not empty.
    pub(crate) fn start(session: Session, messages: Vec<MessageView>, new: bool, cx: &mut Context<'_>) -> State {
        let item = |view| Item { view, unheard: new, deleted: false };
        Self {
            session,
            messages: messages.into_iter().map(item).collect(),
            at: 0,
            begun: false,
            phase: Phase::Envelope,
            idle: Idle::default(),
        }
        .go_to(0, Vec::new(), cx)
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Envelope => "message/envelope",
            Phase::Audio => "message/audio",
            Phase::Played => "message/played",
            Phase::Advanced => "message/advanced",
            Phase::Marking(..) => "message/marking",
        }
    }

    pub(crate) fn on(mut self, input: Input, cx: &mut Context<'_>) -> State {
        match (self.phase, input) {
            (Phase::Marking(mark, then), Input::Answer(answer)) => {
                self.marked(mark, then, matches!(answer, Answer::Done), cx)
            }
            (Phase::Marking(..), _) => State::Listen(self),
            (_, Input::Digit(key)) => {
                self.idle.reset();
                self.key(key, cx)
            }
            (Phase::Envelope, Input::PlayFinished) => self.play(cx),
            (Phase::Audio, Input::PlayFinished) => self.played(cx),
            (Phase::Audio, Input::AudioMissing) => self.missing(cx),
            (Phase::Played | Phase::Advanced, Input::PlayFinished) => {
                cx.wait_for_key();
                State::Listen(self)
            }
            (_, Input::TimerFired) if self.idle.another() => State::announce_and_end(&[names::GOODBYE], cx),
            (_, Input::TimerFired) => self.options(Vec::new(), cx),
            _ => State::Listen(self),
        }
    }

    /// Whether the message's audio is playing.
    pub(crate) fn plays_audio(&self) -> bool {
        self.phase == Phase::Audio
    }

    fn menu(&self) -> Menu {
        match self.phase {
            Phase::Envelope | Phase::Audio => Menu::Playing,
            Phase::Played | Phase::Marking(..) => Menu::Played,
            Phase::Advanced => Menu::Advanced,
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            previous: self.at > 0,
            next: self.at + 1 < self.messages.len(),
            deleted: self.item().is_some_and(|item| item.deleted),
            ..Facts::default()
        }
    }

    fn item(&self) -> Option<&Item> {
        self.messages.get(self.at)
    }

    fn key(self, key: char, cx: &mut Context<'_>) -> State {
        let Some(action) = cx.map().action(self.menu(), key, &self.facts()) else {
            // A key without an action does not interrupt a message.
            if matches!(self.phase, Phase::Envelope | Phase::Audio) {
                return State::Listen(self);
            }
            return self.options(phrases::all(&[names::SORRY]), cx);
        };
        self.act(action, cx)
    }

    fn act(mut self, action: Action, cx: &mut Context<'_>) -> State {
        let leaves = match action {
            Action::Next => self.at + 1 < self.messages.len() || cx.map().advances,
            Action::Previous => self.at > 0,
            Action::First | Action::Folders | Action::Setup | Action::Main | Action::Exit => true,
            Action::SkipToEnd => self.phase == Phase::Audio,
            _ => false,
        };
        if leaves && self.begun && self.item().is_some_and(|item| item.unheard && !item.deleted) {
            return self.mark(Mark::Heard, Some(action), cx);
        }
        match action {
            Action::Next => self.next(Vec::new(), cx),
            Action::Previous => match self.at.checked_sub(1) {
                Some(at) => self.go_to(at, Vec::new(), cx),
                None => self.now(Phase::Played).options(phrases::all(&[names::NO_MORE]), cx),
            },
            Action::First => self.go_to(0, Vec::new(), cx),
            Action::Repeat => self.play(cx),
            Action::Save if self.item().is_some_and(|item| item.deleted) => {
                self.mark(Mark::Undeleted, Some(Action::Save), cx)
            }
            Action::Save => self.mark(Mark::Saved, None, cx),
            Action::Delete => self.mark(Mark::Deleted, None, cx),
            Action::Undelete => self.mark(Mark::Undeleted, None, cx),
            Action::Advanced => self.now(Phase::Advanced).options(Vec::new(), cx),
            Action::Envelope => {
                let envelope = self.envelope(cx);
                self.now(Phase::Played).options(envelope, cx)
            }
            Action::Folders => self.session.folders(cx),
            Action::Setup => self.session.menu(Menu::Setup, Vec::new(), cx),
            Action::Main => self.session.open(cx),
            Action::Exit => State::announce_and_end(&[names::GOODBYE], cx),
            _ => {
                self.phase = Phase::Played;
                self.options(Vec::new(), cx)
            }
        }
    }

    fn now(self, phase: Phase) -> Self {
        Self { phase, ..self }
    }

    /// Plays `lead`, then the options.
    fn options(self, lead: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        let mut words = lead;
        words.extend(cx.map().options(self.menu(), &self.facts()));
        cx.requests.play(words);
        State::Listen(self)
    }

    fn envelope(&self, cx: &Context<'_>) -> Vec<Prompt> {
        let timezone = &self.session.mailbox.timezone;
        self.item().map(|item| phrases::envelope(&item.view, timezone, cx.now)).unwrap_or_default()
    }

    /// Plays `lead`, then goes to another message.
    fn go_to(mut self, at: usize, lead: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        self.at = at;
        self.begun = false;
        let mut words = lead;
        words.extend(phrases::title(at, self.messages.len()));
        words.extend(self.envelope(cx));
        cx.requests.play(words);
        State::Listen(self.now(Phase::Envelope))
    }

    /// Plays `lead`, then goes to the next message.
    fn next(self, lead: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        if self.at + 1 < self.messages.len() {
            let next = self.at + 1;
            return self.go_to(next, lead, cx);
        }
        let mut words = lead;
        words.push(phrases::named(names::NO_MORE));
        if cx.map().advances {
            return self.session.open_with(words, cx);
        }
        self.now(Phase::Played).options(words, cx)
    }

    /// Plays the audio from its beginning.
    fn play(mut self, cx: &mut Context<'_>) -> State {
        self.begun = true;
        let audio = self.item().map(|item| Prompt::Audio(item.view.audio));
        cx.requests.play(audio.into_iter().collect());
        State::Listen(self.now(Phase::Audio))
    }

    /// The audio has ended.
    fn played(self, cx: &mut Context<'_>) -> State {
        if self.item().is_some_and(|item| item.unheard && !item.deleted) {
            return self.mark(Mark::Heard, None, cx);
        }
        self.now(Phase::Played).options(Vec::new(), cx)
    }

    /// The audio is not available now: the message stays unchanged.
    fn missing(mut self, cx: &mut Context<'_>) -> State {
        self.begun = false;
        self.now(Phase::Played).options(phrases::all(&[names::FAILED]), cx)
    }

    fn mark(mut self, mark: Mark, then: Option<Action>, cx: &mut Context<'_>) -> State {
        let Some(item) = self.messages.get_mut(self.at) else {
            return self.session.open(cx);
        };
        if mark == Mark::Heard {
            // Not requested again, even after a failure: the owner must be able to go on.
            item.unheard = false;
        }
        cx.requests.ask(Question::Mark(self.session.mailbox.id, item.view.id, mark));
        State::Listen(self.now(Phase::Marking(mark, then)))
    }

    fn marked(mut self, mark: Mark, then: Option<Action>, done: bool, cx: &mut Context<'_>) -> State {
        self.phase = Phase::Played;
        if !done && mark != Mark::Heard {
            cx.requests.forget_typed();
            return self.options(phrases::all(&[names::FAILED]), cx);
        }
        if let Some(item) = self.messages.get_mut(self.at) {
            match mark {
                Mark::Heard => {}
                Mark::Saved => item.unheard = false,
                Mark::Deleted => item.deleted = true,
                Mark::Undeleted => item.deleted = false,
            }
        }
        if let Some(action) = then {
            return self.act(action, cx);
        }
        let words = match mark {
            Mark::Heard => Vec::new(),
            Mark::Saved => phrases::all(&[names::MESSAGE, names::SAVED]),
            Mark::Deleted => phrases::all(&[names::DELETED]),
            Mark::Undeleted => phrases::all(&[names::UNDELETED]),
        };
        if cx.map().advances && matches!(mark, Mark::Saved | Mark::Deleted) {
            return self.next(words, cx);
        }
        self.options(words, cx)
    }
}
