//! The conversation's questions to the mail store, and the conversion of the answers.

use std::{collections::HashMap, sync::Arc};

use twinbox_conversation::{Answer, GreetingKind, Limits, MailboxView, MessageView, Question};
use twinbox_ids::{BlobHash, MailboxId, Pii};
use twinbox_mailstore::{
    Acknowledgement, FileError, Folder, MailError, Mailbox, Mailstore, Message, PinCheck, PinError, Rule, Rules,
};
use twinbox_media::Codec;

use super::{CallParts, take::Take};
use crate::stats::{Stats, count};

/// Codec of each audio that the conversation may play.
pub(super) type Codecs = HashMap<BlobHash, Codec>;

/// An answer with additional data for the call.
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) codecs: Codecs,
    /// A message was not filed, or not completely: decides the answer to BYE (rule A1).
    pub(super) not_filed: bool,
}

impl From<Answer> for Answered {
    fn from(answer: Answer) -> Self {
        Self { answer, codecs: Codecs::new(), not_filed: false }
    }
}

/// Answers a question.
pub(super) async fn answer(
    parts: Arc<CallParts>,
    question: Question,
    take: Option<Take>,
    source: Option<Pii<String>>,
) -> Answered {
    let mailstore = &parts.deps.mailstore;
    // A node that lacks records only takes messages, for the mailboxes that it has (rule D13).
    if parts.lacks_records() && !matches!(question, Question::FileMessage(_)) {
        tracing::info!("caller is asked to try again later: this node lacks records of other nodes");
        return Answer::Failed.into();
    }
    match question {
        Question::FindMailbox(number) => {
            let mut codecs = Codecs::new();
            let answer = match mailstore.find_by_number(&number).await {
                Ok(Some(mailbox)) => Answer::Mailbox(Some(view(mailstore, &mailbox, &mut codecs).await)),
                Ok(None) => Answer::Mailbox(None),
                Err(error) => failed("mailbox lookup failed", &error),
            };
            Answered { answer, codecs, not_filed: false }
        }
        Question::CheckPin(mailbox, pin) => {
            checked(mailstore.check_pin(mailbox, &pin, revealed(source.as_ref())).await).into()
        }
        Question::CheckPinOfNumber(number, pin) => {
            checked(mailstore.check_pin_of_number(&number, &pin, revealed(source.as_ref())).await).into()
        }
        Question::SetPin(mailbox, pin) => match mailstore.set_pin(mailbox, &pin).await {
            Ok(_) => Answer::Done,
            Err(PinError::Refused(_)) => Answer::PinRefused,
            Err(error) => failed("PIN change failed", &error),
        }
        .into(),
        Question::ListMessages(mailbox) => match mailstore.present_messages(mailbox).await {
            Ok(messages) => listed(messages),
            Err(error) => failed("messages cannot be listed", &error).into(),
        },
        Question::Mark(mailbox, message, mark) => match mailstore.mark(mailbox, message, mark.into()).await {
            Ok(_) => Answer::Done,
            Err(error) => failed("message cannot be marked", &error),
        }
        .into(),
        Question::FileMessage(mailbox) => file(&parts.stats, mailbox, take).await,
        Question::KeepGreeting(mailbox, kind) => store_greeting(mailstore, mailbox, kind, take).await.into(),
        Question::RemoveGreeting(mailbox, kind) => match mailstore.set_greeting(mailbox, kind.into(), None).await {
            Ok(_) => Answer::Done,
            Err(error) => failed("greeting cannot be removed", &error),
        }
        .into(),
    }
}

fn revealed(source: Option<&Pii<String>>) -> &str {
    source.map_or("", |number| number.reveal())
}

fn checked(check: Result<PinCheck, MailError>) -> Answer {
    match check {
        Ok(PinCheck::Ok { must_change }) => Answer::PinOk { must_change },
        Ok(PinCheck::Wrong) => Answer::PinWrong,
        Ok(PinCheck::BackOff { seconds }) => Answer::PinBackOff { seconds },
        Err(error) => failed("PIN check failed", &error),
    }
}

async fn file(stats: &Stats, mailbox: MailboxId, take: Option<Take>) -> Answered {
    let live = match take {
        Some(take) => take.live().await,
        None => None,
    };
    let filed = match live {
        Some(live) => live.file().await,
        None => Err(FileError::Full),
    };
    match filed {
        Ok(filed) => {
            match &filed.acknowledgement {
                Acknowledgement::OnTwo { .. } => count(&stats.filed_on_two),
                Acknowledgement::Alone => count(&stats.filed_alone),
            }
            let (message, acknowledged, whole) = (filed.message, &filed.acknowledgement, filed.whole);
            tracing::info!(%mailbox, %message, ?acknowledged, whole, "message filed");
            Answered { not_filed: !whole, ..Answer::Done.into() }
        }
        // A too short message is discarded, not lost.
        Err(FileError::TooShort { .. }) => Answer::Failed.into(),
        Err(error) => {
            count(&stats.filed_not);
            let answer = failed("message cannot be filed", &error);
            Answered { not_filed: true, ..answer.into() }
        }
    }
}

async fn store_greeting(
    mailstore: &Mailstore,
    mailbox: MailboxId,
    kind: GreetingKind,
    take: Option<Take>,
) -> Answer {
    let audio = match take {
        Some(take) => take.audio().await,
        None => None,
    };
    let Some(audio) = audio else { return Answer::Failed };
    match mailstore.set_greeting(mailbox, kind.into(), Some(audio)).await {
        Ok(_) => Answer::Done,
        Err(error) => failed("greeting cannot be stored", &error),
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> Answer {
    tracing::error!(%error, "{what}");
    Answer::Failed
}

fn listed(messages: Vec<Message>) -> Answered {
    let mut codecs = Codecs::new();
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for message in messages {
        let Some(audio) = &message.audio else { continue };
        codecs.insert(audio.blob.hash, message.codec);
        let view = MessageView {
            id: message.id,
            audio: audio.blob.hash,
            received: message.received,
            caller: message.caller,
            length_ms: message.length_ms,
            partial: audio.partial,
        };
        match message.folder {
            Folder::New => new.push(view),
            Folder::Heard | Folder::Saved => old.push(view),
        }
    }
    Answered { answer: Answer::Messages { new, old }, codecs, not_filed: false }
}

/// Mailbox data for the conversation. If the mailbox's fill level is unknown, it counts as not full: the message may
/// still fit.
pub(super) async fn view(mailstore: &Mailstore, mailbox: &Mailbox, codecs: &mut Codecs) -> MailboxView {
    let kinds = [GreetingKind::Standard, GreetingKind::Busy, GreetingKind::Temporary, GreetingKind::Name];
    let mut greetings = Vec::new();
    for kind in kinds {
        if let Some(greeting) = mailbox.greeting(kind.into()) {
            codecs.insert(greeting.blob.hash, greeting.codec);
            greetings.push((kind, greeting.blob.hash));
        }
    }
    let rules = mailstore.rules(mailbox).unwrap_or_else(|error| {
        tracing::warn!(mailbox = %mailbox.id, %error, "class of service cannot be read; the node's settings apply");
        Rules::default()
    });
    let limit = |rule| rules.get(rule).and_then(|value| u8::try_from(value).ok());
    let operator = mailbox.operator.clone().filter(|_| rules.allows(Rule::Operator, true));
    MailboxView {
        id: mailbox.id,
        number: mailbox.number.clone(),
        timezone: mailbox.timezone.clone(),
        greetings,
        full: mailstore.is_full(mailbox).await.unwrap_or(false),
        unavailable: !mailstore.takes_messages(mailbox),
        operator,
        limits: Limits {
            max_message_ms: rules.max_message_ms(),
            pin_tries: limit(Rule::PinTries),
            min_pin_length: limit(Rule::PinLength),
        },
    }
}
