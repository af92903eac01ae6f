//! Choice of a new PIN, entered twice: voluntary, or mandatory at the first sign-in.

use serde::{Deserialize, Serialize};
use twinbox_ids::Pii;

use crate::{
    Answer, Input, Prompt, Question,
    entry::{Entry, Idle, Pressed},
    keymap::Menu,
    machine::State,
    menu::Session,
    names,
    pending_requests::Context,
    phrases,
};

/// Maximum number of refused or different PINs.
const TRIES: u8 = 5;

/// An owner chooses a new PIN.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewPin {
    session: Session,
    /// Menu to return to; `None`: the new PIN is mandatory.
    back: Option<Menu>,
    /// The PIN of the first entry.
    chosen: Option<Pii<String>>,
    setting: bool,
    refused: u8,
    idle: Idle,
    entry: Entry,
}

impl NewPin {
    /// Starts the mandatory choice at the first sign-in.
    pub(crate) fn first(session: Session, cx: &mut Context<'_>) -> State {
        Self::new(session, None).again(&[names::MUST_CHANGE], cx)
    }

    /// Starts the choice from a menu.
    pub(crate) fn start(session: Session, back: Menu, cx: &mut Context<'_>) -> State {
        Self::new(session, Some(back)).again(&[], cx)
    }

    fn new(session: Session, back: Option<Menu>) -> Self {
        Self {
            session,
            back,
            chosen: None,
            setting: false,
            refused: 0,
            idle: Idle::default(),
            entry: Entry::default(),
        }
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match (self.setting, &self.chosen) {
            (true, _) => "new-pin/setting",
            (false, None) => "new-pin/first",
            (false, Some(_)) => "new-pin/again",
        }
    }

    pub(crate) fn on(mut self, input: Input, cx: &mut Context<'_>) -> State {
        match input {
            Input::Answer(answer) => self.set(&answer, cx),
            _ if self.setting => State::NewPin(self),
            Input::Digit(key) => match self.entry.press(key, cx) {
                Pressed::More => {
                    self.idle.reset();
                    State::NewPin(self)
                }
                Pressed::Submit => self.submit(cx),
                Pressed::StartOver(true) if self.chosen.is_none() && self.back.is_some() => self.leave(&[], cx),
                Pressed::StartOver(_) => self.again(&[], cx),
            },
            Input::PlayFinished => {
                cx.wait_for_key();
                State::NewPin(self)
            }
            Input::TimerFired => self.submit(cx),
            _ => State::NewPin(self),
        }
    }

    /// Restarts the entry of the PIN.
    fn again(mut self, why: &[&str], cx: &mut Context<'_>) -> State {
        self.chosen = None;
        let mut words = phrases::all(why);
        words.push(phrases::named(names::NEW_PIN));
        cx.requests.play(words);
        State::NewPin(self)
    }

    fn submit(mut self, cx: &mut Context<'_>) -> State {
        if self.entry.is_empty() {
            if self.idle.another() {
                return State::announce_and_end(&[names::GOODBYE], cx);
            }
            let words = if self.chosen.is_some() { names::NEW_PIN_AGAIN } else { names::NEW_PIN };
            cx.requests.play(phrases::all(&[words]));
            return State::NewPin(self);
        }
        let entered = self.entry.take();
        let min_length = self.session.mailbox.limits.min_pin_length.unwrap_or(cx.settings.min_pin_length);
        match &self.chosen {
            None if entered.reveal().len() < usize::from(min_length) => {
                self.refuse(phrases::pin_too_short(min_length), cx)
            }
            None => {
                self.chosen = Some(entered);
                cx.requests.play(phrases::all(&[names::NEW_PIN_AGAIN]));
                State::NewPin(self)
            }
            Some(chosen) if *chosen != entered => self.refuse(phrases::all(&[names::PIN_MISMATCH]), cx),
            Some(_) => {
                cx.requests.ask(Question::SetPin(self.session.mailbox.id, entered));
                self.setting = true;
                State::NewPin(self)
            }
        }
    }

    fn set(mut self, answer: &Answer, cx: &mut Context<'_>) -> State {
        self.setting = false;
        match answer {
            Answer::Done => self.leave(&[names::PIN_CHANGED], cx),
            Answer::PinRefused => self.refuse(phrases::all(&[names::PIN_REFUSED]), cx),
            _ if self.back.is_some() => self.leave(&[names::FAILED], cx),
            _ => State::not_working(cx),
        }
    }

    fn refuse(mut self, why: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        cx.requests.forget_typed();
        self.chosen = None;
        self.refused = self.refused.saturating_add(1);
        if self.refused >= TRIES {
            return match self.back {
                Some(_) => self.leave(&[names::FAILED], cx),
                None => State::announce_and_end(&[names::SIGN_IN_FAILED, names::GOODBYE], cx),
            };
        }
        let mut words = why;
        words.push(phrases::named(names::NEW_PIN));
        cx.requests.play(words);
        State::NewPin(self)
    }

    fn leave(self, lead: &[&str], cx: &mut Context<'_>) -> State {
        match self.back {
            Some(menu) => self.session.menu(menu, phrases::all(lead), cx),
            None => self.session.open_with(phrases::all(lead), cx),
        }
    }
}
