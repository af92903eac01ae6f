//! A message from a sound file to numbers here and at locations. Everything is checked before anything is sent.

use bytes::Bytes;
use tonic::Status;
use tracing::info;
use twinbox_audio::{Recording, to_g711};
use twinbox_ids::{MailboxId, MessageId, Pii};
use twinbox_locations::{Location, dialled};
use twinbox_mailbox::{InvalidNumber, Mailbox, Number, Rule};
use twinbox_mailstore::{Audio, Mailstore, SendOrder, SendTo};
use twinbox_wire::sending::{MessageSendHeader, MessageSendReply, SentTo};

use crate::{
    AdminHandles,
    admin::{acknowledged, all_records, internal, mail, mailbox},
};

/// Maximum size of a sound file, in bytes.
pub const LARGEST_FILE: usize = 64 << 20;
/// Longest message, in milliseconds.
const LONGEST_MS: u64 = 30 * 60 * 1_000;
/// Maximum number of recipients.
const MOST_RECIPIENTS: usize = 100;
/// Longest subject, in characters.
const LONGEST_SUBJECT: usize = 200;

/// A recipient that exists.
enum Recipient {
    Here(Box<Mailbox>),
    There { location: Box<Location>, number: String },
}

/// A recipient of an order.
struct Addressed {
    recipient: Recipient,
    /// The order was given before, and its message to this recipient was sent: nothing can hinder it any more.
    is_sent: bool,
}

/// Sends a message to all its recipients, or to none.
pub async fn send(node: &AdminHandles, header: MessageSendHeader, file: Bytes) -> Result<MessageSendReply, Status> {
    all_records(node)?;
    let id = match header.order.as_str() {
        "" => MessageId::random(),
        order => order
            .parse()
            .map_err(|error: twinbox_ids::ParseIdError| Status::invalid_argument(format!("order: {error}")))?,
    };
    let sender = mailbox(node, &header.from).await?;
    let numbers = numbers(&header.to)?;
    let recipients = recipients(&node.mailstore, &numbers, id, sender.id).await?;
    let unsent = || recipients.iter().filter(|to| !to.is_sent).map(|to| &to.recipient);
    if unsent().any(|to| matches!(to, Recipient::There { .. })) {
        may_leave(node, &sender)?;
    }
    let Recording { codec, bytes, .. } = decode(file).await?;
    let audio = Audio { codec, bytes: bytes.into() };
    fits(&node.mailstore, unsent(), audio.length_ms())?;
    let subject = header.subject.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_SUBJECT);
    let order = SendOrder {
        id: id.0,
        sender: sender.id,
        audio,
        subject: Pii::new(subject.collect::<String>().trim().to_owned()),
        urgent: header.urgent,
        private: header.private,
        to: recipients.iter().map(|to| to.recipient.target()).collect(),
    };
    let (sent, acknowledgement) = node.mailstore.send_message(order).await.map_err(mail)?;
    info!(mailbox = %sender.id, recipients = sent.len(), "administrator sends message");
    let shown = |((number, to), sent): ((Number, Addressed), twinbox_mailstore::SentMessage)| SentTo {
        number: number.to_string(),
        id: sent.id.to_string(),
        location: match to.recipient {
            Recipient::Here(_) => String::new(),
            Recipient::There { location, .. } => location.name,
        },
        effect: sent.effect.map(|effect| effect.to_string()).unwrap_or_default(),
    };
    let to = numbers.into_iter().zip(recipients).zip(sent).map(shown).collect();
    Ok(MessageSendReply { to, acknowledged: acknowledged(&acknowledgement) })
}

impl Recipient {
    fn target(&self) -> SendTo {
        match self {
            Self::Here(mailbox) => SendTo::Mailbox(mailbox.id),
            Self::There { location, number, .. } => {
                SendTo::Location { location: location.id, number: Pii::new(number.clone()) }
            }
        }
    }

    /// Reason for which no message can be sent to it now.
    async fn hindrance(&self, mailstore: &Mailstore, number: &Number) -> Result<Option<String>, Status> {
        Ok(match self {
            Self::Here(mailbox) if !mailstore.takes_messages(mailbox) => {
                Some(format!("mailbox {number} is disabled"))
            }
            Self::Here(mailbox) if mailstore.is_full(mailbox).await.map_err(internal)? => {
                Some(format!("mailbox {number} is full"))
            }
            Self::There { location, .. } if !location.enabled => {
                Some(format!("location '{}' of number {number} is disabled", location.name))
            }
            _ => None,
        })
    }
}

/// The digits of each number, without repeats.
fn numbers(texts: &[String]) -> Result<Vec<Number>, Status> {
    let mut numbers = Vec::new();
    for text in texts {
        let wrong = |error: InvalidNumber| format!("nothing was sent: '{text}': {error}");
        let number = Number::normalise(text).map_err(|error| Status::invalid_argument(wrong(error)))?;
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    match numbers.len() {
        0 => Err(Status::invalid_argument("no recipient was named: write --to NUMBER")),
        1..=MOST_RECIPIENTS => Ok(numbers),
        count => Err(Status::invalid_argument(format!(
            "{count} recipients are too many for one message: send it to at most {MOST_RECIPIENTS} at a time"
        ))),
    }
}

/// The recipients of all numbers; the error names each number that has none.
async fn recipients(
    mailstore: &Mailstore,
    numbers: &[Number],
    order: MessageId,
    sender: MailboxId,
) -> Result<Vec<Addressed>, Status> {
    let locations = mailstore.locations().map_err(internal)?;
    let (mut recipients, mut problems) = (Vec::new(), Vec::new());
    for number in numbers {
        let recipient = match mailstore.find_by_number(number.as_str()).await.map_err(internal)? {
            Some(mailbox) => Ok(Recipient::Here(Box::new(mailbox))),
            None => there(&locations, number),
        };
        match recipient {
            Ok(recipient) => {
                let is_sent = mailstore.is_sent(order.0, sender, &recipient.target()).map_err(internal)?;
                if !is_sent {
                    problems.extend(recipient.hindrance(mailstore, number).await?);
                }
                recipients.push(Addressed { recipient, is_sent });
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(recipients) } else { Err(nothing_sent(&problems)) }
}

/// The recipient at the location to which a number leads.
fn there(locations: &[Location], number: &Number) -> Result<Recipient, String> {
    match dialled(locations, number.as_str()) {
        Some((location, rest)) => {
            Ok(Recipient::There { location: Box::new(location.clone()), number: rest.to_owned() })
        }
        None => Err(format!("number {number} is unknown: no mailbox has it, and no location's dial id begins it")),
    }
}

/// Checks that audio of this sender may leave the cluster, and that there is a way.
fn may_leave(node: &AdminHandles, sender: &Mailbox) -> Result<(), Status> {
    if !node.mailstore.rules(sender).map_err(internal)?.allows(Rule::AudioOut, true) {
        return Err(Status::failed_precondition(format!(
            "the class of service of mailbox {} keeps audio in the cluster (audio-out=no): nothing was sent",
            sender.number
        )));
    }
    match node.settings.services().mail_out.is_configured() {
        true => Ok(()),
        false => Err(Status::failed_precondition(
            "mail out is not configured: set mail.domain and mail.smarthost ('twinbox setting set'); nothing was sent",
        )),
    }
}

async fn decode(file: Bytes) -> Result<Recording, Status> {
    let decoded = tokio::task::spawn_blocking(move || to_g711(&file, LONGEST_MS)).await;
    let recording = decoded.map_err(|error| Status::internal(error.to_string()))?;
    let recording = recording.map_err(|error| Status::invalid_argument(error.to_string()))?;
    if recording.truncated {
        let minutes = LONGEST_MS / 60_000;
        return Err(Status::invalid_argument(format!(
            "nothing was sent: the file has more than {minutes} minutes"
        )));
    }
    Ok(recording)
}

/// Checks the length against the rules of the mailboxes here.
fn fits<'a>(
    mailstore: &Mailstore,
    recipients: impl Iterator<Item = &'a Recipient>,
    length_ms: u64,
) -> Result<(), Status> {
    let mut problems = Vec::new();
    for recipient in recipients {
        if let Recipient::Here(mailbox) = recipient {
            let most = mailstore.rules(mailbox).map_err(internal)?.max_message_ms();
            if let Some(most) = most.filter(|most| length_ms > *most) {
                problems.push(format!("mailbox {} takes messages of at most {} s", mailbox.number, most / 1_000));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(nothing_sent(&problems)) }
}

fn nothing_sent(problems: &[String]) -> Status {
    Status::failed_precondition(format!("nothing was sent: {}", problems.join("; ")))
}

#[cfg(test)]
#[path = "../../tests/unit/message.rs"]
mod tests;
