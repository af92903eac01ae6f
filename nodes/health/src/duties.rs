//! The services of the duties.

use std::time::Duration;

use twinbox_directory_duty::DirectoryDuty;
use twinbox_duty::OutboxDuty;
use twinbox_mailbox_sync_duty::MailboxSyncDuty;
use twinbox_notifier::NotifierService;
use twinbox_roles::Duty;
use twinbox_timetable_duty::TimetableDuty;

/// The duties of a node. Each runs on every node and acts only behind its gate. Cheap to clone.
#[derive(Clone)]
pub struct DutyHandles {
    /// The duty `notifier`.
    pub notifier: NotifierService,
    /// The duty `mta`.
    pub mta: OutboxDuty,
    /// The duty `directory-sync`.
    pub directory_sync: DirectoryDuty,
    /// The duty `timetable`.
    pub timetable: TimetableDuty,
    /// The duty `mailbox-sync`.
    pub mailbox_sync: MailboxSyncDuty,
}

impl DutyHandles {
    /// Starts the tasks of all duties; earlier ones end.
    pub fn restart_all(&self) {
        Duty::ALL.into_iter().for_each(|duty| self.restart(duty));
    }

    /// Starts the tasks of a duty; earlier ones end.
    pub fn restart(&self, duty: Duty) {
        match duty {
            Duty::Notifier => self.notifier.restart(),
            Duty::Mta => self.mta.restart(),
            Duty::DirectorySync => self.directory_sync.restart(),
            Duty::Timetable => self.timetable.restart(),
            Duty::MailboxSync => self.mailbox_sync.restart(),
        }
    }

    /// Time since the last turn of a duty's loop, with or without the duty; `None` if a task of it has ended.
    pub(crate) fn still_for(&self, duty: Duty) -> Option<Duration> {
        match duty {
            Duty::Notifier => self.notifier.still_for(),
            Duty::Mta => self.mta.still_for(),
            Duty::DirectorySync => self.directory_sync.still_for(),
            Duty::Timetable => self.timetable.still_for(),
            Duty::MailboxSync => self.mailbox_sync.still_for(),
        }
    }

    /// Ends the tasks of all duties, because the process stops.
    pub fn stop(&self) {
        self.notifier.stop();
        self.mta.stop();
        self.directory_sync.stop();
        self.timetable.stop();
        self.mailbox_sync.stop();
    }
}
