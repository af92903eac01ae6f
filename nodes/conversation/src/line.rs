//! The conversation's end of the call: what it has asked for and has not had an answer to. Through it go all
//! outputs, so that only what was asked for is taken in, and nothing is asked for twice.

use serde::{Deserialize, Serialize};
use twinbox_ids::{Pii, Timestamp};

use crate::{Input, Output, Prompt, Purpose, Question, Settings, keymap::KeyMap};

/// Keys that are kept while an answer is awaited; a caller who knows the way types that far ahead at most.
const TYPED_AHEAD: usize = 32;

/// What is open between the conversation and its shell.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Line {
    playing: bool,
    timer: bool,
    recorder: Recorder,
    asking: bool,
    transferring: bool,
    hung_up: bool,
    typed: Pii<String>,
    #[serde(skip)]
    out: Vec<Output>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Recorder {
    #[default]
    Off,
    Running,
    Stopping,
}

impl Line {
    /// Takes note of an input. False: nobody waits for it, it is to be passed over. Such come about when a shell's
    /// event and our output cross, and when a stored conversation goes on elsewhere.
    pub(crate) fn accept(&mut self, input: &Input) -> bool {
        let open = match input {
            Input::Digit(key) => return matches!(key, '0'..='9' | '*' | '#') && !self.hung_up,
            Input::HungUp => return !std::mem::replace(&mut self.hung_up, true),
            Input::PlayFinished | Input::AudioMissing => &mut self.playing,
            Input::TimerFired => &mut self.timer,
            Input::Answer(_) => &mut self.asking,
            Input::TransferFailed => &mut self.transferring,
            Input::RecordingEnded { .. } => {
                return std::mem::replace(&mut self.recorder, Recorder::Off) != Recorder::Off;
            }
        };
        std::mem::replace(open, false)
    }

    /// Something will still come of itself.
    pub(crate) fn waits(&self) -> bool {
        self.playing || self.timer || self.recorder != Recorder::Off || self.asking || self.transferring
    }

    /// No key can be acted on now: the outcome of the one before is not known.
    pub(crate) fn busy(&self) -> bool {
        self.asking || self.recorder == Recorder::Stopping
    }

    /// The caller is gone.
    pub(crate) fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// Keeps a key for later.
    pub(crate) fn type_ahead(&mut self, key: char) {
        if self.typed.reveal().len() < TYPED_AHEAD {
            let mut typed = std::mem::take(&mut self.typed).into_revealed();
            typed.push(key);
            self.typed = Pii::new(typed);
        }
    }

    /// The oldest key that was kept.
    pub(crate) fn typed(&mut self) -> Option<char> {
        let mut typed = std::mem::take(&mut self.typed).into_revealed();
        let first = (!typed.is_empty()).then(|| typed.remove(0));
        self.typed = Pii::new(typed);
        first
    }

    /// Keys typed ahead were meant for another course of things.
    pub(crate) fn forget_typed(&mut self) {
        self.typed = Pii::default();
    }

    /// What is to be done since the last call.
    pub(crate) fn drain(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    pub(crate) fn play(&mut self, prompts: Vec<Prompt>) {
        self.cancel_timer();
        self.playing = true;
        self.player(Output::Play(prompts));
    }

    pub(crate) fn stop_play(&mut self) {
        if std::mem::replace(&mut self.playing, false) {
            self.player(Output::StopPlay);
        }
    }

    pub(crate) fn set_timer(&mut self, ms: u64) {
        self.timer = true;
        self.clock(Output::SetTimer(ms));
    }

    fn cancel_timer(&mut self) {
        if std::mem::replace(&mut self.timer, false) {
            self.clock(Output::CancelTimer);
        }
    }

    /// Of what the player is told at one time only the last counts: nobody would hear the rest.
    fn player(&mut self, output: Output) {
        self.out.retain(|o| !matches!(o, Output::Play(_) | Output::StopPlay));
        self.out.push(output);
    }

    /// Likewise the timer.
    fn clock(&mut self, output: Output) {
        self.out.retain(|o| !matches!(o, Output::SetTimer(_) | Output::CancelTimer));
        self.out.push(output);
    }

    /// Nothing plays and no timer runs.
    pub(crate) fn quiet(&mut self) {
        self.stop_play();
        self.cancel_timer();
    }

    pub(crate) fn record(&mut self, purpose: Purpose, max_ms: u64, end_silence_ms: u64) {
        self.recorder = Recorder::Running;
        self.out.push(Output::Record { purpose, max_ms, end_silence_ms });
    }

    pub(crate) fn stop_recording(&mut self) {
        if self.recorder == Recorder::Running {
            self.recorder = Recorder::Stopping;
            self.out.push(Output::StopRecording);
        }
    }

    pub(crate) fn discard_recording(&mut self) {
        self.out.push(Output::DiscardRecording);
    }

    pub(crate) fn ask(&mut self, question: Question) {
        self.quiet();
        self.asking = true;
        self.out.push(Output::Ask(question));
    }

    pub(crate) fn transfer(&mut self, to: String, give_up_ms: u64) {
        self.quiet();
        self.transferring = true;
        self.out.push(Output::Transfer(to));
        self.set_timer(give_up_ms);
    }

    /// The transfer did not come about in time; what becomes of it later is of no interest.
    pub(crate) fn give_up_transfer(&mut self) {
        self.transferring = false;
        self.cancel_timer();
    }

    pub(crate) fn hang_up(&mut self) {
        self.out.push(Output::HangUp);
    }
}

/// What a state has at hand when something happens.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) line: &'a mut Line,
    pub(crate) now: Timestamp,
}

impl Context<'_> {
    /// The keys of the mailbox owner.
    pub(crate) fn map(&self) -> &'static KeyMap {
        KeyMap::named(&self.settings.key_map)
    }

    /// Waits for a key, for as long as is set, but never for ever or not at all.
    pub(crate) fn wait_for_key(&mut self) {
        self.line.set_timer(self.settings.digit_timeout_ms.max(500));
    }
}
