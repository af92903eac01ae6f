//! The record of a call in progress, followed by the inputs and outputs of its conversation.

use twinbox_conversation::{Answer, Entry, Input, MailboxView, Output, Purpose as Recorded, Question};
use twinbox_ids::{CallId, NodeName, Pii, Timestamp};

use crate::{CallOutcome, CallRecord, Purpose};

/// A call in progress.
#[derive(Debug)]
pub struct CallProgress {
    record: CallRecord,
    /// Outcome if nothing more happens.
    otherwise: CallOutcome,
    /// Kind of the open question.
    open: OpenQuestion,
    /// Length of the latest recording, in milliseconds.
    length_ms: u64,
}

/// Kind of the question that the conversation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenQuestion {
    /// None, or one that decides nothing here.
    Other,
    FileMessage,
    CheckPin,
    FindMailbox,
}

impl CallProgress {
    /// A call whose INVITE was received at `began`. Until a conversation begins, its outcome is *refused*.
    pub fn new(node: NodeName, call: CallId, began: Timestamp, caller: Option<Pii<String>>) -> Self {
        let record = CallRecord {
            call,
            began,
            ended: began,
            node,
            purpose: Purpose::Nothing,
            mailbox: None,
            number: None,
            caller,
            outcome: CallOutcome::Refused,
            message_ms: 0,
        };
        Self { record, otherwise: CallOutcome::Refused, open: OpenQuestion::Other, length_ms: 0 }
    }

    /// The call.
    pub fn call(&self) -> CallId {
        self.record.call
    }

    /// The call is answered, and its conversation is about to begin.
    pub fn begins(&mut self, entry: &Entry) {
        let (purpose, mailbox) = match entry {
            Entry::Leave { mailbox, .. } => (Purpose::Leave, Some(mailbox)),
            Entry::SignIn { mailbox } => (Purpose::SignIn, mailbox.as_ref()),
            Entry::AskMailbox => (Purpose::SignIn, None),
            Entry::Apology => (Purpose::Nothing, None),
        };
        self.record.purpose = purpose;
        let full = purpose == Purpose::Leave && mailbox.is_some_and(|mailbox| mailbox.full);
        self.otherwise = match purpose {
            Purpose::Leave | Purpose::SignIn if !full => CallOutcome::HungUp,
            _ => CallOutcome::Refused,
        };
        self.record.outcome = self.otherwise;
        if let Some(mailbox) = mailbox {
            self.set_mailbox(mailbox);
        }
    }

    /// Follows outputs of the conversation.
    pub fn note_outputs(&mut self, outputs: &[Output]) {
        for output in outputs {
            match output {
                Output::Record { purpose: Recorded::Message(_), .. } if self.is_undecided() => {
                    self.record.outcome = CallOutcome::NothingLeft;
                }
                Output::Transfer(_) if self.is_undecided() => self.record.outcome = CallOutcome::Transferred,
                Output::Ask(question) => {
                    self.open = match question {
                        Question::FileMessage(_) => OpenQuestion::FileMessage,
                        Question::CheckPin(mailbox, _) => {
                            self.record.mailbox = Some(*mailbox);
                            OpenQuestion::CheckPin
                        }
                        // There is no mailbox to note.
                        Question::CheckPinOfNumber(..) => OpenQuestion::CheckPin,
                        Question::FindMailbox(_) => OpenQuestion::FindMailbox,
                        _ => OpenQuestion::Other,
                    };
                }
                _ => {}
            }
        }
    }

    /// Follows an input of the conversation.
    pub fn note_input(&mut self, input: &Input) {
        match input {
            Input::RecordingEnded { length_ms, .. } => self.length_ms = *length_ms,
            Input::TransferFailed | Input::TimerFired if self.record.outcome == CallOutcome::Transferred => {
                self.record.outcome = self.otherwise;
            }
            Input::Answer(answer) => self.answered(answer),
            _ => {}
        }
    }

    /// The call ends from this side; `broken`: not because its conversation has ended.
    pub fn ends(&mut self, broken: bool) {
        if broken && self.is_undecided() && self.record.outcome != CallOutcome::Transferred {
            self.record.outcome = CallOutcome::Failed;
        }
    }

    /// The record of the call, which ended at this time.
    pub fn record(&self, ended: Timestamp) -> CallRecord {
        CallRecord { ended: ended.max(self.record.began), ..self.record.clone() }
    }

    fn answered(&mut self, answer: &Answer) {
        let signed_in = self.record.outcome == CallOutcome::SignedIn;
        match (std::mem::replace(&mut self.open, OpenQuestion::Other), answer) {
            // An owner that sends a message after the sign-in has signed in.
            _ if signed_in => {}
            (OpenQuestion::FileMessage, Answer::Done) => {
                self.record.outcome = CallOutcome::MessageLeft;
                self.record.message_ms = self.length_ms;
            }
            (OpenQuestion::FileMessage, _) => self.record.outcome = CallOutcome::Failed,
            (OpenQuestion::CheckPin, Answer::PinOk { .. }) => self.record.outcome = CallOutcome::SignedIn,
            (OpenQuestion::CheckPin, Answer::PinWrong | Answer::PinBackOff { .. }) => {
                self.record.outcome = CallOutcome::FailedSignIn;
            }
            (OpenQuestion::FindMailbox, Answer::Mailbox(Some(mailbox))) => self.set_mailbox(mailbox),
            (OpenQuestion::FindMailbox, Answer::Mailbox(None)) => self.record.outcome = CallOutcome::FailedSignIn,
            _ => {}
        }
    }

    fn set_mailbox(&mut self, mailbox: &MailboxView) {
        self.record.mailbox = Some(mailbox.id);
        self.record.number = Some(mailbox.number.clone());
    }

    /// Whether the caller has reached neither a message, nor a mailbox, nor a wrong PIN yet.
    fn is_undecided(&self) -> bool {
        matches!(
            self.record.outcome,
            CallOutcome::HungUp | CallOutcome::Refused | CallOutcome::NothingLeft | CallOutcome::Transferred
        )
    }
}
