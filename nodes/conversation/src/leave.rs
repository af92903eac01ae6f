//! Leaving a message: greeting, tone, recording, filing. A recording is filed even if the caller hangs up.

use serde::{Deserialize, Serialize};

use crate::{
    Answer, GreetingKind, Input, MailboxView, Prompt, Purpose, Question, RecordingEnd,
    keymap::{Action, Facts, Menu},
    machine::State,
    names,
    pending_requests::Context,
    phrases,
    sign_in::SignIn,
};

/// Maximum number of too short takes.
const TAKES: u8 = 3;

/// Timeout of a transfer, in milliseconds: longer than any telephone rings (timer C of RFC 3261 is three minutes, and
/// the caller hears ringing meanwhile).
const TRANSFER_MS: u64 = 200_000;

/// A caller leaves a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Leave {
    mailbox: MailboxView,
    takes: u8,
    step: LeaveStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum LeaveStep {
    /// The greeting is playing, followed by the tone.
    Greeting,
    /// Only the tone is playing.
    Tone,
    /// The announcement that the mailbox is full, or that its owner is unavailable, is playing.
    Full,
    Recording,
    /// The recorder was ordered to stop.
    Stopping,
    /// The message is being filed; `cut`: its end is missing.
    Filing {
        cut: bool,
    },
    Transferring,
}

impl Leave {
    pub(crate) fn start(mailbox: MailboxView, greeting: GreetingKind, cx: &mut Context<'_>) -> State {
        let (words, step) = if mailbox.unavailable {
            (phrases::unavailable(&mailbox), LeaveStep::Full)
        } else if mailbox.full {
            (phrases::all(&[names::MAILBOX_FULL, names::GOODBYE]), LeaveStep::Full)
        } else {
            let mut words = phrases::greeting(&mailbox, greeting);
            words.push(Prompt::Beep);
            (words, LeaveStep::Greeting)
        };
        cx.requests.play(words);
        State::Leave(Self { mailbox, takes: 0, step })
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match self.step {
            LeaveStep::Greeting => "leave/greeting",
            LeaveStep::Tone => "leave/tone",
            LeaveStep::Full => "leave/full",
            LeaveStep::Recording => "leave/recording",
            LeaveStep::Stopping => "leave/stopping",
            LeaveStep::Filing { .. } => "leave/filing",
            LeaveStep::Transferring => "leave/transferring",
        }
    }

    pub(crate) fn on(self, input: Input, cx: &mut Context<'_>) -> State {
        match (self.step, input) {
            (LeaveStep::Greeting | LeaveStep::Tone | LeaveStep::Full, Input::Digit(key)) => {
                self.greeting_key(key, cx)
            }
            (LeaveStep::Greeting | LeaveStep::Tone, Input::PlayFinished) => self.record(cx),
            (LeaveStep::Full, Input::PlayFinished) => State::end(cx),
            (LeaveStep::Recording, Input::Digit(key))
                if cx.map().action(Menu::Recording, key, &Facts::default()) == Some(Action::Finish) =>
            {
                cx.requests.stop_recording();
                self.to(LeaveStep::Stopping)
            }
            (LeaveStep::Recording | LeaveStep::Stopping, Input::RecordingEnded { end, length_ms }) => {
                self.recorded(end, length_ms, cx)
            }
            (LeaveStep::Filing { cut }, Input::Answer(answer)) => Self::filed(&answer, cut, cx),
            (LeaveStep::Transferring, Input::TransferFailed | Input::TimerFired) => {
                cx.requests.give_up_transfer();
                self.no_operator(cx)
            }
            _ => State::Leave(self),
        }
    }

    /// The caller hung up. The recording so far is filed.
    pub(crate) fn hung_up(self, cx: &mut Context<'_>) -> State {
        match self.step {
            LeaveStep::Recording => {
                cx.requests.stop_recording();
                self.to(LeaveStep::Stopping)
            }
            LeaveStep::Stopping | LeaveStep::Filing { .. } => State::Leave(self),
            _ => State::end(cx),
        }
    }

    fn to(self, step: LeaveStep) -> State {
        State::Leave(Self { step, ..self })
    }

    fn greeting_key(self, key: char, cx: &mut Context<'_>) -> State {
        match cx.map().action(Menu::Greeting, key, &Facts::default()) {
            Some(Action::SkipToTone) if self.step == LeaveStep::Greeting => {
                cx.requests.play(vec![Prompt::Beep]);
                self.to(LeaveStep::Tone)
            }
            Some(Action::SignIn) => SignIn::start(Some(self.mailbox), cx),
            Some(Action::Operator) => match self.mailbox.operator.clone() {
                Some(operator) => {
                    cx.requests.transfer(operator, TRANSFER_MS);
                    self.to(LeaveStep::Transferring)
                }
                None => State::Leave(self),
            },
            _ => State::Leave(self),
        }
    }

    fn record(self, cx: &mut Context<'_>) -> State {
        let settings = cx.settings;
        cx.requests.record(Purpose::Message(self.mailbox.id), self.max_ms(cx), settings.end_silence_ms);
        self.to(LeaveStep::Recording)
    }

    /// Maximum length of a message, in milliseconds.
    fn max_ms(&self, cx: &Context<'_>) -> u64 {
        self.mailbox.limits.max_message_ms.unwrap_or(cx.settings.max_message_ms)
    }

    fn recorded(mut self, end: RecordingEnd, length_ms: u64, cx: &mut Context<'_>) -> State {
        // A recording without length is not a message, whatever the setting; one of the maximum length is.
        if length_ms >= cx.settings.min_message_ms.min(self.max_ms(cx)).max(1) {
            cx.requests.ask(Question::FileMessage(self.mailbox.id));
            return self.to(LeaveStep::Filing { cut: end == RecordingEnd::Failed });
        }
        cx.requests.discard_recording();
        if cx.requests.hung_up() {
            return State::end(cx);
        }
        self.takes += 1;
        match end {
            RecordingEnd::Failed => State::announce_and_end(&[names::NOT_SAVED, names::GOODBYE], cx),
            // A caller that pressed a key is present and may try again; a silent caller is not.
            RecordingEnd::Stopped if self.takes < TAKES => {
                cx.requests.play(vec![phrases::named(names::TOO_SHORT), Prompt::Beep]);
                self.to(LeaveStep::Greeting)
            }
            _ => State::announce_and_end(&[names::TOO_SHORT, names::GOODBYE], cx),
        }
    }

    fn filed(answer: &Answer, cut: bool, cx: &mut Context<'_>) -> State {
        let outcome = match answer {
            Answer::Done if cut => names::CUT,
            Answer::Done => names::MESSAGE_SAVED,
            _ => names::NOT_SAVED,
        };
        State::announce_and_end(&[outcome, names::GOODBYE], cx)
    }

    fn no_operator(self, cx: &mut Context<'_>) -> State {
        if self.mailbox.full || self.mailbox.unavailable {
            return State::announce_and_end(&[names::NO_OPERATOR, names::GOODBYE], cx);
        }
        let mut words = phrases::all(&[names::NO_OPERATOR, names::INTRO]);
        words.push(Prompt::Beep);
        cx.requests.play(words);
        self.to(LeaveStep::Greeting)
    }
}
