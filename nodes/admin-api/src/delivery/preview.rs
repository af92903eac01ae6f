//! Preview of the text of a notification.

use tonic::Status;
use twinbox_clock::wall;
use twinbox_devices::{MessageText, Notification, webhook};
use twinbox_ids::{MessageId, ParseIdError, Pii};
use twinbox_mailstore::{MailError, Mailbox, Message, time, zone_of};
use twinbox_wire::delivery::{PreviewReply, PreviewRequest};

use super::devices::{find, of_mailbox};
use crate::{
    AdminHandles,
    admin::{internal, mail},
};

/// Renders the notification of a message, or of one that is made up, with the texts of this node.
pub async fn show(node: &AdminHandles, request: PreviewRequest) -> Result<PreviewReply, Status> {
    let PreviewRequest { number, device, language, message } = request;
    let (mailbox, devices) = of_mailbox(node, &number).await?;
    let device = find(&mailbox.number, &devices, &device)?;
    let (id, text) = match message.as_str() {
        "" => (MessageId(0), made_up()),
        id => {
            let message = stored(node, &mailbox, id).await?;
            (message.id, text_of(message))
        }
    };
    let Some(form) = device.kind.name().form() else {
        let text = body(&mailbox, id, text).to_json();
        return Ok(PreviewReply { text, ..PreviewReply::default() });
    };
    let language = match language.is_empty() {
        true => device.language.clone().unwrap_or_else(|| mailbox.language.clone()),
        false => language,
    };
    let new = node.mailstore.message_counts(mailbox.id).await.map_err(internal)?.new;
    let notification = Notification {
        number: mailbox.number.clone(),
        name: mailbox.name.clone(),
        new_messages: u64::from(new),
        latest: text,
        earlier: Vec::new(),
    };
    let text = node
        .templates
        .compose(form, &language, &notification, &zone_of(&mailbox))
        .map_err(|error| Status::failed_precondition(error.to_string()))?;
    Ok(PreviewReply {
        subject: text.subject.map(Pii::into_revealed).unwrap_or_default(),
        text: text.body.into_revealed(),
        language,
    })
}

async fn stored(node: &AdminHandles, mailbox: &Mailbox, id: &str) -> Result<Message, Status> {
    let id: MessageId = id.parse().map_err(|error: ParseIdError| Status::invalid_argument(error.to_string()))?;
    let message = node.mailstore.message(mailbox.id, id).await.map_err(mail)?;
    message.ok_or_else(|| mail(MailError::NoMessage(id)))
}

fn text_of(message: Message) -> MessageText {
    MessageText {
        caller: message.caller,
        caller_name: message.caller_name,
        received: time(message.received),
        seconds: message.length_ms.div_ceil(1_000),
        urgent: message.urgent,
    }
}

fn made_up() -> MessageText {
    MessageText {
        caller: Some(Pii::new("5550100".to_owned())),
        caller_name: Some(Pii::new("Ada Lovelace".to_owned())),
        received: time(wall()),
        seconds: 42,
        urgent: false,
    }
}

fn body(mailbox: &Mailbox, message: MessageId, text: MessageText) -> webhook::Body {
    webhook::Body {
        event: webhook::Event::New,
        id: "preview".to_owned(),
        mailbox: mailbox.id,
        number: mailbox.number.clone(),
        message,
        caller: text.caller,
        caller_name: text.caller_name,
        received: text.received,
        seconds: text.seconds,
        urgent: text.urgent,
        // A link would be valid for everybody who sees the preview.
        audio_url: None,
    }
}
