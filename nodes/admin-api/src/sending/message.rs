//! A message from a sound file to numbers here and at locations. Everything is checked before anything is sent.

use bytes::Bytes;
use tonic::Status;
use tracing::info;
use twinbox_audio::{Recording, to_g711};
use twinbox_ids::{LocationId, MessageId, Pii};
use twinbox_locations::{Location, dialled};
use twinbox_mailbox::{InvalidNumber, Mailbox, Number, Rule};
use twinbox_mailstore::{Audio, SendOrder, SendTo};
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
    There { location: LocationId, name: String, number: String },
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
    let recipients = recipients(node, &numbers).await?;
    if recipients.iter().any(|to| matches!(to, Recipient::There { .. })) {
        may_leave(node, &sender)?;
    }
    let Recording { codec, bytes, .. } = decode(file).await?;
    let audio = Audio { codec, bytes: bytes.into() };
    fits(node, &recipients, audio.length_ms())?;
    let subject = header.subject.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_SUBJECT);
    let order = SendOrder {
        id: id.0,
        sender: sender.id,
        audio,
        subject: Pii::new(subject.collect::<String>().trim().to_owned()),
        urgent: header.urgent,
        private: header.private,
        to: recipients.iter().map(Recipient::target).collect(),
    };
    let (sent, acknowledgement) = node.mailstore.send_message(order).await.map_err(mail)?;
    info!(mailbox = %sender.id, recipients = sent.len(), "administrator sends message");
    let shown = |((number, to), sent): ((Number, Recipient), twinbox_mailstore::SentMessage)| SentTo {
        number: number.to_string(),
        id: sent.id.to_string(),
        location: match to {
            Recipient::Here(_) => String::new(),
            Recipient::There { name, .. } => name,
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
                SendTo::Location { location: *location, number: Pii::new(number.clone()) }
            }
        }
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
async fn recipients(node: &AdminHandles, numbers: &[Number]) -> Result<Vec<Recipient>, Status> {
    let locations = node.mailstore.locations().map_err(internal)?;
    let (mut recipients, mut problems) = (Vec::new(), Vec::new());
    for number in numbers {
        match node.mailstore.find_by_number(number.as_str()).await.map_err(internal)? {
            Some(mailbox) if !node.mailstore.takes_messages(&mailbox) => {
                problems.push(format!("mailbox {number} is disabled"));
            }
            Some(mailbox) if node.mailstore.is_full(&mailbox).await.map_err(internal)? => {
                problems.push(format!("mailbox {number} is full"));
            }
            Some(mailbox) => recipients.push(Recipient::Here(Box::new(mailbox))),
            None => match there(&locations, number) {
                Ok(recipient) => recipients.push(recipient),
                Err(problem) => problems.push(problem),
            },
        }
    }
    if problems.is_empty() { Ok(recipients) } else { Err(nothing_sent(&problems)) }
}

/// The recipient at the location to which a number leads.
fn there(locations: &[Location], number: &Number) -> Result<Recipient, String> {
    match dialled(locations, number.as_str()) {
        Some((location, _)) if !location.enabled => {
            Err(format!("location '{}' of number {number} is disabled", location.name))
        }
        Some((location, rest)) => {
            Ok(Recipient::There { location: location.id, name: location.name.clone(), number: rest.to_owned() })
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
fn fits(node: &AdminHandles, recipients: &[Recipient], length_ms: u64) -> Result<(), Status> {
    let mut problems = Vec::new();
    for recipient in recipients {
        if let Recipient::Here(mailbox) = recipient {
            let most = node.mailstore.rules(mailbox).map_err(internal)?.max_message_ms();
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
mod tests {
    use twinbox_clock::wall;
    use twinbox_locations::LocationChange;

    use super::*;

    #[test]
    fn numbers_lose_separators_and_repeats_and_wrong_ones_are_named() {
        let of = |texts: &[&str]| numbers(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let read = of(&["1001", "+10 01", "7-1002"]).expect("numbers");
        assert_eq!(read.iter().map(Number::as_str).collect::<Vec<_>>(), ["1001", "71002"]);
        for (texts, part) in [(&["1001", "anna"][..], "'anna'"), (&[], "--to")] {
            let error = of(texts).expect_err(part);
            assert!(error.message().contains(part), "{}", error.message());
        }
        let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        assert!(numbers(&many).expect_err("too many").message().contains("at most 100"));
    }

    #[test]
    fn number_of_no_location_or_of_a_disabled_one_is_named() {
        let location = |dial_id: &str, enabled: &str| {
            let settings = [dial_id, "domain=vm.example", enabled].map(|s| LocationChange::parse(s).expect(s));
            Location::new(LocationId(1), "berlin", &settings, wall()).expect("a location")
        };
        let locations = [location("dial-id=7", "enabled=yes"), location("dial-id=8", "enabled=no")];
        let number = |text| Number::normalise(text).expect("a number");
        let found = there(&locations, &number("71001"));
        assert!(matches!(found, Ok(Recipient::There { number, .. }) if number == "1001"));
        for (text, part) in [("81001", "'berlin'"), ("9999", "9999 is unknown"), ("7", "7 is unknown")] {
            let problem = there(&locations, &number(text)).err().unwrap_or_default();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
