//! Alarm of a number or address that two mailboxes got on both sides of a split.

use twinbox_alarms::{Alarm, Code};

use crate::{NameClash, Report};

/// The report of a clash; `None` if its alarm is known, from whichever node. The subject names the mailbox by its id:
/// numbers and addresses are private.
pub(crate) fn report(clash: &NameClash, alarms: &[Alarm]) -> Option<Report> {
    let subject = format!("{} of {}", clash.kind.words(), clash.mailbox);
    let is_known =
        |alarm: &Alarm| alarm.code == Some(Code::NameClash) && alarm.subject == subject && alarm.cleared.is_none();
    if alarms.iter().any(is_known) {
        return None;
    }
    let detail = format!(
        "another mailbox got the same {} earlier, on the other side of a split; calls and mails go to that one",
        clash.kind.words()
    );
    Some(Report::Raise(Code::NameClash, subject, detail))
}

#[cfg(test)]
mod tests {
    use twinbox_alarms::AlarmId;
    use twinbox_ids::{MailboxId, Timestamp};

    use super::*;
    use crate::NameKind;

    #[test]
    fn clash_is_reported_once_for_each_mailbox_and_kind_of_name() {
        let number = NameClash { mailbox: MailboxId(1), kind: NameKind::Number };
        let address = NameClash { kind: NameKind::Address, ..number };
        let Some(Report::Raise(code, subject, _)) = report(&number, &[]) else { panic!("no report") };
        assert_eq!((code, subject.as_str()), (Code::NameClash, format!("number of {}", MailboxId(1)).as_str()));
        let node = "b".parse().expect("a name");
        let mut known = [Alarm::new(node, 1, AlarmId::random(), Code::NameClash, subject, Timestamp(1))];
        known[0].cleared = None;
        assert_eq!(report(&number, &known), None);
        assert!(report(&address, &known).is_some());
        assert!(report(&NameClash { mailbox: MailboxId(2), ..number }, &known).is_some());
    }
}
