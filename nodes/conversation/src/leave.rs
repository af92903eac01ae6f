//! Leaving a message: greeting, tone, recording, filing. A recording is filed even if the caller hangs up.

use serde::{Deserialize, Serialize};

use crate::{
    Answer, GreetingKind, Input, MailboxView, Prompt, Purpose, Question, RecordingEnd,
    keymap::{Action, Facts, Menu},
    line::Context,
    machine::State,
    names, phrases,
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
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    /// The greeting is playing, followed by the tone.
    Greeting,
    /// Only the tone is playing.
    Tone,
    /// The mailbox-full announcement is playing.
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
        let (words, step) = if mailbox.full {
            (phrases::all(&[names::MAILBOX_FULL, names::GOODBYE]), Step::Full)
        } else {
            let mut words = phrases::greeting(&mailbox, greeting);
            words.push(Prompt::Beep);
            (words, Step::Greeting)
        };
        cx.line.play(words);
        State::Leave(Self { mailbox, takes: 0, step })
    }

    pub(crate) fn place(&self) -> &'static str {
        match self.step {
            Step::Greeting => "leave/greeting",
            Step::Tone => "leave/tone",
            Step::Full => "leave/full",
            Step::Recording => "leave/recording",
            Step::Stopping => "leave/stopping",
            Step::Filing { .. } => "leave/filing",
            Step::Transferring => "leave/transferring",
        }
    }

    pub(crate) fn on(self, input: Input, cx: &mut Context<'_>) -> State {
        match (self.step, input) {
            (Step::Greeting | Step::Tone | Step::Full, Input::Digit(key)) => self.greeting_key(key, cx),
            (Step::Greeting | Step::Tone, Input::PlayFinished) => self.record(cx),
            (Step::Full, Input::PlayFinished) => State::end(cx),
            (Step::Recording, Input::Digit(key))
                if cx.map().action(Menu::Recording, key, &Facts::default()) == Some(Action::Finish) =>
            {
                cx.line.stop_recording();
                self.to(Step::Stopping)
            }
            (Step::Recording | Step::Stopping, Input::RecordingEnded { end, length_ms }) => {
                self.recorded(end, length_ms, cx)
            }
            (Step::Filing { cut }, Input::Answer(answer)) => Self::filed(&answer, cut, cx),
            (Step::Transferring, Input::TransferFailed | Input::TimerFired) => {
                cx.line.give_up_transfer();
                self.no_operator(cx)
            }
            _ => State::Leave(self),
        }
    }

    /// The caller hung up. The recording so far is filed.
    pub(crate) fn hung_up(self, cx: &mut Context<'_>) -> State {
        match self.step {
            Step::Recording => {
                cx.line.stop_recording();
                self.to(Step::Stopping)
            }
            Step::Stopping | Step::Filing { .. } => State::Leave(self),
            _ => State::end(cx),
        }
    }

    fn to(self, step: Step) -> State {
        State::Leave(Self { step, ..self })
    }

    fn greeting_key(self, key: char, cx: &mut Context<'_>) -> State {
        match cx.map().action(Menu::Greeting, key, &Facts::default()) {
            Some(Action::SkipToTone) if self.step == Step::Greeting => {
                cx.line.play(vec![Prompt::Beep]);
                self.to(Step::Tone)
            }
            Some(Action::SignIn) => SignIn::start(Some(self.mailbox), cx),
            Some(Action::Operator) => match self.mailbox.operator.clone() {
                Some(operator) => {
                    cx.line.transfer(operator, TRANSFER_MS);
                    self.to(Step::Transferring)
                }
                None => State::Leave(self),
            },
            _ => State::Leave(self),
        }
    }

    fn record(self, cx: &mut Context<'_>) -> State {
        let settings = cx.settings;
        let max_ms = self.mailbox.limits.max_message_ms.unwrap_or(settings.max_message_ms);
        cx.line.record(Purpose::Message(self.mailbox.id), max_ms, settings.end_silence_ms);
        self.to(Step::Recording)
    }

    fn recorded(mut self, end: RecordingEnd, length_ms: u64, cx: &mut Context<'_>) -> State {
        // A recording without length is not a message, whatever the setting.
        if length_ms >= cx.settings.min_message_ms.max(1) {
            cx.line.ask(Question::FileMessage(self.mailbox.id));
            return self.to(Step::Filing { cut: end == RecordingEnd::Failed });
        }
        cx.line.discard_recording();
        if cx.line.hung_up() {
            return State::end(cx);
        }
        self.takes += 1;
        match end {
            RecordingEnd::Failed => State::last_words(&[names::NOT_SAVED, names::GOODBYE], cx),
            // A caller that pressed a key is present and may try again; a silent caller is not.
            RecordingEnd::Stopped if self.takes < TAKES => {
                cx.line.play(vec![phrases::named(names::TOO_SHORT), Prompt::Beep]);
                self.to(Step::Greeting)
            }
            _ => State::last_words(&[names::TOO_SHORT, names::GOODBYE], cx),
        }
    }

    fn filed(answer: &Answer, cut: bool, cx: &mut Context<'_>) -> State {
        let outcome = match answer {
            Answer::Done if cut => names::CUT,
            Answer::Done => names::MESSAGE_SAVED,
            _ => names::NOT_SAVED,
        };
        State::last_words(&[outcome, names::GOODBYE], cx)
    }

    fn no_operator(self, cx: &mut Context<'_>) -> State {
        if self.mailbox.full {
            return State::last_words(&[names::NO_OPERATOR, names::GOODBYE], cx);
        }
        let mut words = phrases::all(&[names::NO_OPERATOR, names::INTRO]);
        words.push(Prompt::Beep);
        cx.line.play(words);
        self.to(Step::Greeting)
    }
}
