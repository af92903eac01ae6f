//! Reports of delivery to the senders of mails (RFC 3464). No report follows a report: its envelope sender is empty, and
//! it asks for none.

use twinbox_clock::wall;
use twinbox_duty::Prepared;
use twinbox_ids::Timestamp;
use twinbox_mail::{Address, report::DeliveryReport};
use twinbox_mailstore::Mailstore;
use twinbox_outbox::Effect;

use crate::{MailOut, Notify, Outgoing};

/// Pause when the store cannot be read, in milliseconds.
const STORE_PAUSE_MS: u64 = 10_000;

/// Prepares the mail of a report, the same at every attempt.
pub(crate) fn prepare(mailstore: &Mailstore, out: MailOut, effect: &Effect) -> Prepared<Outgoing> {
    let unwanted = |reason: &str| Prepared::Unwanted(reason.to_owned());
    let report = match mailstore.report_of(effect) {
        Ok(Some(report)) => report,
        Ok(None) => return unwanted("the report was removed"),
        Err(error) => {
            let pause = Timestamp(wall().0.saturating_add(STORE_PAUSE_MS));
            return Prepared::Later(pause, error.to_string());
        }
    };
    let sender = match out.or_end(unwanted) {
        Ok(sender) => sender,
        Err(end) => return end,
    };
    let Ok(to) = Address::parse(report.to.reveal()) else { return unwanted("the sender has no valid address") };
    let seconds = |at: Timestamp| i64::try_from(at.0 / 1_000).unwrap_or_default();
    let (id, date_unix) = (effect.receiver_id().to_string(), seconds(effect.new.created));
    let recipient = to.to_string();
    let mail = DeliveryReport {
        from: sender.from.clone(),
        from_name: sender.from_name.clone(),
        to,
        reporting_host: sender.domain.clone(),
        recipient: report.recipient.into_revealed(),
        original_recipient: report.original.into_revealed(),
        envelope_id: report.envelope_id.into_revealed(),
        arrived_unix: seconds(report.arrived),
        header: report.header.into_revealed(),
        message_id: format!("{id}@{}", sender.domain),
        date_unix,
    };
    match sender.signed(mail.compose(), date_unix) {
        Ok(bytes) => Prepared::Act(Outgoing {
            sender: None,
            recipient,
            bytes: bytes.into(),
            envelope_id: id,
            notify: Notify::Never,
        }),
        Err(reason) => Prepared::Impossible(reason, Vec::new()),
    }
}
