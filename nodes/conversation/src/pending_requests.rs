//! Pending requests of a conversation to its shell. All outputs pass through here, so that unexpected inputs are
//! ignored and no request is made twice.

use serde::{Deserialize, Serialize};
use twinbox_ids::{Pii, Timestamp};

use crate::{ConversationSettings, Input, Output, Prompt, Purpose, Question, keymap::KeyMap};

/// Maximum number of keys stored while an answer is pending.
const MAX_TYPED_AHEAD: usize = 32;

/// State of the requests between the conversation and its shell.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PendingRequests {
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

impl PendingRequests {
    /// Registers an input. False: nothing waits for the input, so it is ignored. This happens when a shell's event and
    /// an output cross, and when a stored conversation continues on another node.
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

    /// Whether an event will still arrive without the caller's action.
    pub(crate) fn waits_for_event(&self) -> bool {
        self.playing || self.timer || self.recorder != Recorder::Off || self.asking || self.transferring
    }

    /// Whether keys must wait: the result of the previous action is not known.
    pub(crate) fn busy(&self) -> bool {
        self.asking || self.recorder == Recorder::Stopping
    }

    /// Whether the caller hung up.
    pub(crate) fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// Stores a key for later.
    pub(crate) fn type_ahead(&mut self, key: char) {
        if self.typed.reveal().len() < MAX_TYPED_AHEAD {
            let mut typed = std::mem::take(&mut self.typed).into_revealed();
            typed.push(key);
            self.typed = Pii::new(typed);
        }
    }

    /// Takes the oldest stored key.
    pub(crate) fn typed(&mut self) -> Option<char> {
        let mut typed = std::mem::take(&mut self.typed).into_revealed();
        let first = (!typed.is_empty()).then(|| typed.remove(0));
        self.typed = Pii::new(typed);
        first
    }

    /// Discards the stored keys, which were meant for another outcome.
    pub(crate) fn forget_typed(&mut self) {
        self.typed = Pii::default();
    }

    /// Takes the outputs since the last call.
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

    /// Replaces earlier player outputs of the same step: only the last one takes effect.
    fn player(&mut self, output: Output) {
        self.out.retain(|o| !matches!(o, Output::Play(_) | Output::StopPlay));
        self.out.push(output);
    }

    /// Replaces earlier timer outputs of the same step.
    fn clock(&mut self, output: Output) {
        self.out.retain(|o| !matches!(o, Output::SetTimer(_) | Output::CancelTimer));
        self.out.push(output);
    }

    /// Stops the player and the timer.
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

    /// Abandons a transfer that timed out; its later result is ignored.
    pub(crate) fn give_up_transfer(&mut self) {
        self.transferring = false;
        self.cancel_timer();
    }

    pub(crate) fn hang_up(&mut self) {
        self.out.push(Output::HangUp);
    }
}

/// Data available to a state when it handles an input.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a ConversationSettings,
    pub(crate) requests: &'a mut PendingRequests,
    pub(crate) now: Timestamp,
}

impl Context<'_> {
    /// The key map of the mailbox owner.
    pub(crate) fn map(&self) -> &'static KeyMap {
        KeyMap::named(&self.settings.key_map)
    }

    /// Starts the timer for the next key: the configured timeout, at least 500 ms.
    pub(crate) fn wait_for_key(&mut self) {
        self.requests.set_timer(self.settings.digit_timeout_ms.max(500));
    }
}
