//! Sign-in: mailbox number and PIN, wrong PINs, back-off.
//!
//! For a number without a mailbox the PIN is asked and checked, too, so that a caller cannot find out which mailboxes
//! exist. The shell that answers `CheckPin` counts wrong PINs across calls and nodes (rule S1).

use serde::{Deserialize, Serialize};

use crate::{
    Answer, Input, MailboxView, Question,
    entry::{Entry, Idle, Pressed},
    machine::State,
    menu::Session,
    names,
    new_pin::NewPin,
    pending_requests::Context,
    phrases,
};

/// A caller signs in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SignIn {
    /// The mailbox; `None`: not asked yet, or no mailbox has that number.
    mailbox: Option<MailboxView>,
    /// The number that the caller entered last.
    number: String,
    /// The caller did not enter the number: after a wrong PIN only the PIN is asked again.
    given: bool,
    wrong: u8,
    idle: Idle,
    entry: Entry,
    step: SignInStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum SignInStep {
    Number,
    Finding,
    Pin,
    Checking,
}

impl SignIn {
    /// Signs in to this mailbox, or asks for its number.
    pub(crate) fn start(mailbox: Option<MailboxView>, cx: &mut Context<'_>) -> State {
        let step = if mailbox.is_some() { SignInStep::Pin } else { SignInStep::Number };
        let (given, number, wrong) = (mailbox.is_some(), String::new(), 0);
        Self { given, mailbox, number, wrong, idle: Idle::default(), entry: Entry::default(), step }.prompt(cx)
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match self.step {
            SignInStep::Number => "sign-in/number",
            SignInStep::Finding => "sign-in/finding",
            SignInStep::Pin => "sign-in/pin",
            SignInStep::Checking => "sign-in/checking",
        }
    }

    pub(crate) fn on(mut self, input: Input, cx: &mut Context<'_>) -> State {
        match (self.step, input) {
            (SignInStep::Number | SignInStep::Pin, Input::Digit(key)) => match self.entry.press(key, cx) {
                Pressed::More => {
                    self.idle.reset();
                    State::SignIn(self)
                }
                Pressed::Submit => self.submit(cx),
                Pressed::StartOver(was_empty) => {
                    // A second `*` before the PIN: sign in to another mailbox.
                    if was_empty && self.step == SignInStep::Pin {
                        (self.step, self.given, self.mailbox) = (SignInStep::Number, false, None);
                    }
                    self.prompt(cx)
                }
            },
            (SignInStep::Number | SignInStep::Pin, Input::PlayFinished) => {
                cx.wait_for_key();
                State::SignIn(self)
            }
            (SignInStep::Number | SignInStep::Pin, Input::TimerFired) => self.submit(cx),
            (SignInStep::Finding, Input::Answer(Answer::Mailbox(mailbox))) => {
                self.mailbox = mailbox;
                self.step = SignInStep::Pin;
                self.prompt(cx)
            }
            (SignInStep::Checking, Input::Answer(answer)) => self.checked(&answer, cx),
            (SignInStep::Finding, Input::Answer(_)) => State::not_working(cx),
            _ => State::SignIn(self),
        }
    }

    fn prompt(self, cx: &mut Context<'_>) -> State {
        let words = if self.step == SignInStep::Number { names::LOGIN } else { names::PASSWORD };
        cx.requests.play(phrases::all(&[words]));
        State::SignIn(self)
    }

    fn submit(mut self, cx: &mut Context<'_>) -> State {
        if self.entry.is_empty() {
            if self.idle.another() {
                return State::announce_and_end(&[names::GOODBYE], cx);
            }
            return self.prompt(cx);
        }
        let entered = self.entry.take();
        if self.step == SignInStep::Number {
            self.number = entered.into_revealed();
            cx.requests.ask(Question::FindMailbox(self.number.clone()));
            self.step = SignInStep::Finding;
            return State::SignIn(self);
        }
        cx.requests.ask(match &self.mailbox {
            Some(mailbox) => Question::CheckPin(mailbox.id, entered),
            None => Question::CheckPinOfNumber(self.number.clone(), entered),
        });
        self.step = SignInStep::Checking;
        State::SignIn(self)
    }

    fn checked(self, answer: &Answer, cx: &mut Context<'_>) -> State {
        match (answer, self.mailbox.clone()) {
            (Answer::PinOk { must_change }, Some(mailbox)) => {
                let session = Session::new(mailbox);
                if !must_change {
                    return session.open(cx);
                }
                // The keys were meant for the menu, and would interrupt the instruction.
                cx.requests.forget_typed();
                NewPin::first(session, cx)
            }
            (Answer::PinWrong, _) => self.wrong(cx),
            (Answer::PinBackOff { seconds }, _) => {
                let mut words = phrases::back_off(*seconds);
                words.push(phrases::named(names::GOODBYE));
                State::say_and_end(words, cx)
            }
            _ => State::not_working(cx),
        }
    }

    fn wrong(mut self, cx: &mut Context<'_>) -> State {
        cx.requests.forget_typed();
        self.wrong = self.wrong.saturating_add(1);
        let said = self.mailbox.as_ref().and_then(|mailbox| mailbox.limits.pin_tries);
        if self.wrong >= said.unwrap_or(cx.settings.pin_tries).max(1) {
            return State::announce_and_end(&[names::SIGN_IN_FAILED, names::GOODBYE], cx);
        }
        let words = if self.given {
            self.step = SignInStep::Pin;
            names::INCORRECT_PIN
        } else {
            (self.step, self.mailbox) = (SignInStep::Number, None);
            names::INCORRECT_MAILBOX
        };
        cx.requests.play(phrases::all(&[words]));
        State::SignIn(self)
    }
}
