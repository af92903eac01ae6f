//! A mail server in the schedule: its limits, and the queues of its accounts.

use std::{collections::BTreeSet, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;

/// Accounts with changes that are preferred in a row to one that is polled.
const MOST_URGENT_IN_A_ROW: u32 = 4;

/// Limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerRules {
    /// Maximum number of connections.
    pub connections: usize,
    /// Share of the connections that watch accounts while others wait, 0 to 100 %.
    pub watched: u32,
    /// Interval between two looks at an account at rest.
    pub poll: Duration,
    /// Time after its latest change for which an account is watched.
    pub idle: Duration,
}

/// A server, with the accounts that wait for its connections.
#[derive(Debug)]
pub(super) struct Server {
    pub rules: ServerRules,
    /// Accounts with changes or orders, by due time.
    pub urgent: BTreeSet<(BootInstant, MailboxId)>,
    /// Accounts to be polled, by due time.
    pub polls: BTreeSet<(BootInstant, MailboxId)>,
    /// Watched accounts that are not being stopped, by latest change.
    pub watching: BTreeSet<(BootInstant, MailboxId)>,
    /// Connections in use.
    pub connected: usize,
    /// Accounts with changes that were preferred in a row.
    pub urgent_in_a_row: u32,
    /// Number of its accounts.
    pub accounts: usize,
}

impl Server {
    pub(super) fn new(rules: ServerRules) -> Self {
        Self {
            rules,
            urgent: BTreeSet::new(),
            polls: BTreeSet::new(),
            watching: BTreeSet::new(),
            connected: 0,
            urgent_in_a_row: 0,
            accounts: 0,
        }
    }

    /// Maximum number of watched accounts: all if there is a connection for each, else a share that leaves one free.
    pub(super) fn most_watched(&self) -> usize {
        let connections = self.rules.connections;
        if self.accounts <= connections {
            return connections;
        }
        let share = connections.saturating_mul(self.rules.watched.min(100) as usize) / 100;
        share.min(connections.saturating_sub(1))
    }

    pub(super) fn queue(&mut self, urgent: bool) -> &mut BTreeSet<(BootInstant, MailboxId)> {
        if urgent { &mut self.urgent } else { &mut self.polls }
    }

    /// The account whose turn it is, if one is due and a connection is free.
    pub(super) fn turn(&self, now: BootInstant) -> Option<(bool, (BootInstant, MailboxId))> {
        if self.connected >= self.rules.connections {
            return None;
        }
        let due =
            |queue: &BTreeSet<(BootInstant, MailboxId)>| queue.first().copied().filter(|(due, _)| *due <= now);
        match (due(&self.urgent), due(&self.polls)) {
            (Some(_), Some(poll)) if self.urgent_in_a_row >= MOST_URGENT_IN_A_ROW => Some((false, poll)),
            (Some(urgent), _) => Some((true, urgent)),
            (None, poll) => poll.map(|poll| (false, poll)),
        }
    }
}
