//! Mails of the system: first PINs, warnings to owners, reports of calls.

use twinbox_clock::wall;
use twinbox_duty::Prepared;
use twinbox_ids::Timestamp;
use twinbox_mail::{
    Address,
    compose::{Attachment, Notice},
    incoming::{Importance, Sensitivity},
};
use twinbox_mailstore::{Mailstore, SystemContent, SystemMail};
use twinbox_outbox::{Effect, Transition};
use twinbox_reports::{MailedReport, MailedReportError, ReportSource};
use twinbox_system_mail::{SystemText, system_text};

use crate::{MailOut, MailSender, Notify, Outgoing};

/// Pause when the store cannot be read, in milliseconds.
const STORE_PAUSE_MS: u64 = 10_000;
/// Pause while mail out is not configured, in milliseconds.
const SENDER_PAUSE_MS: u64 = 60_000;

/// Prepares the mail of an effect. Its facts are the same at every attempt; a report reads the call
/// records again at each.
pub(crate) async fn prepare(
    mailstore: &Mailstore,
    reports: &ReportSource,
    out: MailOut,
    effect: &Effect,
) -> Prepared<Outgoing> {
    let mail = match mailstore.system_mail_of(effect) {
        Ok(Some(mail)) => mail,
        Ok(None) if effect.new.cause.transition == Transition::FirstPin => {
            return impossible("the PIN is not stored any more: give the user another with `twinbox user set-pin`");
        }
        Ok(None) => return Prepared::Unwanted("its content was removed".to_owned()),
        Err(error) => return later(STORE_PAUSE_MS, &error.to_string()),
    };
    let sender = match out.or_end(|reason| later(SENDER_PAUSE_MS, reason)) {
        Ok(sender) => sender,
        Err(end) => return end,
    };
    let attached = match &mail.content {
        SystemContent::CallReport { report, from, to, zone, .. } => {
            match reports.mailed(report, *from, *to, zone).await {
                Ok(made) => Some(made),
                Err(MailedReportError::Source(error)) => return later(STORE_PAUSE_MS, &error.to_string()),
                Err(error) => return impossible(&error.to_string()),
            }
        }
        SystemContent::FirstPin { .. } | SystemContent::Quota { .. } | SystemContent::Ageing { .. } => None,
    };
    match compose(&sender, &mail, attached, effect) {
        Ok(mail) => Prepared::Act(mail),
        Err(reason) => impossible(&reason),
    }
}

fn compose(
    sender: &MailSender,
    mail: &SystemMail,
    attached: Option<MailedReport>,
    effect: &Effect,
) -> Result<Outgoing, String> {
    let to = Address::parse(mail.to.reveal()).map_err(|error| error.to_string())?;
    let SystemText { subject, body } = system_text(&mail.content);
    let (mut text, mut audio) = (body.into_revealed(), None);
    if let Some(MailedReport { lines, csv }) = attached {
        text += &lines;
        let (file_name, content_type) = (file_name(&mail.content), "text/csv".to_owned());
        audio = Some(Attachment { file_name, content_type, bytes: csv.into_bytes() });
    }
    let id = effect.receiver_id().to_string();
    let notice = Notice {
        from: sender.from.clone(),
        from_name: sender.from_name.clone(),
        to,
        subject: subject.into_revealed(),
        text,
        message_id: format!("{id}@{}", sender.domain),
        date_unix: i64::try_from(effect.new.created.0 / 1_000).unwrap_or_default(),
        audio,
        auto_submitted: true,
        importance: Importance::Normal,
        sensitivity: Sensitivity::None,
    };
    Ok(Outgoing {
        sender: Some(sender.from.to_string()),
        recipient: notice.to.to_string(),
        bytes: sender.signed(notice.compose(), notice.date_unix)?.into(),
        envelope_id: id,
        notify: Notify::FailureAndDelay,
    })
}

/// Name of a report's file: job, report, and the end of the range in seconds since 1970, as in a folder.
fn file_name(content: &SystemContent) -> String {
    match content {
        SystemContent::CallReport { job, report, to, .. } => format!("{job}-{report}-{}.csv", to.0 / 1_000),
        SystemContent::FirstPin { .. } | SystemContent::Quota { .. } | SystemContent::Ageing { .. } => {
            String::new()
        }
    }
}

fn later(pause_ms: u64, reason: &str) -> Prepared<Outgoing> {
    Prepared::Later(Timestamp(wall().0.saturating_add(pause_ms)), reason.to_owned())
}

fn impossible(reason: &str) -> Prepared<Outgoing> {
    Prepared::Impossible(reason.to_owned(), Vec::new())
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};
    use twinbox_ids::{MailboxId, Origin, Pii, Stamp};
    use twinbox_outbox::schema;
    use twinbox_replication_core::Record;

    use super::*;
    use crate::{Mailer, MailerConfig, MxTls, Route};

    fn sender() -> MailSender {
        let dns_servers = vec!["127.0.0.1:53".parse().expect("an address")];
        let config = MailerConfig::new(Route::mx(MxTls::Opportunistic), "vm.example");
        MailSender {
            domain: "vm.example".to_owned(),
            from: Address::parse("voicemail@vm.example").expect("an address"),
            from_name: "Voicemail".to_owned(),
            mailer: Mailer::new(MailerConfig { dns_servers, ..config }).expect("a mailer"),
            dkim: None,
        }
    }

    fn effect_of(mail: &SystemMail) -> Effect {
        let new = mail.effect(MailboxId(7), 1, Timestamp(1_793_620_800_000));
        let mut record = Record::new();
        for (n, edit) in (1..).zip(new.edits(None)) {
            let stamp = Stamp { wall: n, counter: 0, origin: Origin(1) };
            record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
        }
        Effect::read(&schema::effect_key(new.id()), &record).expect("readable").expect("an effect")
    }

    #[test]
    fn report_is_a_text_with_its_rows_as_a_csv_file_and_the_same_at_every_attempt() {
        let content = SystemContent::CallReport {
            job: "weekly".to_owned(),
            report: "traffic".to_owned(),
            from: Timestamp(1_793_016_000_000),
            to: Timestamp(1_793_620_800_000),
            zone: "UTC".to_owned(),
            makes_up: false,
        };
        let mail = SystemMail { to: Pii::new("boss@example.test".to_owned()), content };
        let effect = effect_of(&mail);
        let made =
            || MailedReport { lines: "FROM  NODE\nx  a\n".to_owned(), csv: "from,node\r\nx,a\r\n".to_owned() };
        let first = compose(&sender(), &mail, Some(made()), &effect).expect("a mail");
        let second = compose(&sender(), &mail, Some(made()), &effect).expect("a mail");
        assert_eq!(first.bytes, second.bytes);
        assert_eq!((first.recipient.as_str(), &first.envelope_id), ("boss@example.test", &effect.id.to_string()));
        let message = MessageParser::default().parse(&first.bytes[..]).expect("a mail");
        assert_eq!(message.message_id(), Some(format!("{}@vm.example", effect.id).as_str()));
        assert_eq!(message.header_raw("Auto-Submitted").map(str::trim), Some("auto-generated"));
        assert!(message.subject().is_some_and(|subject| subject.contains("traffic")), "{:?}", message.subject());
        let text = message.body_text(0).expect("a text");
        assert!(text.contains("Job: weekly") && text.contains("FROM  NODE"), "{text}");
        let file = message.parts.last().expect("a part");
        assert_eq!(file.attachment_name(), Some("weekly-traffic-1793620800.csv"));
        assert_eq!(file.contents(), made().csv.as_bytes());
    }

    #[test]
    fn first_pin_is_in_the_text_alone() {
        let pin = Pii::new("482913".to_owned());
        let content = SystemContent::FirstPin { number: "1001".to_owned(), name: Pii::default(), pin };
        let mail = SystemMail { to: Pii::new("anna@example.test".to_owned()), content };
        let outgoing = compose(&sender(), &mail, None, &effect_of(&mail)).expect("a mail");
        let message = MessageParser::default().parse(&outgoing.bytes[..]).expect("a mail");
        assert!(message.body_text(0).is_some_and(|text| text.contains("482913")), "{message:?}");
        assert!(
            message.parts.len() == 1 && !message.subject().unwrap_or_default().contains("482913"),
            "{message:?}"
        );
        let wrong = SystemMail { to: Pii::new("nobody".to_owned()), ..mail.clone() };
        assert!(compose(&sender(), &wrong, None, &effect_of(&mail)).is_err());
    }
}
