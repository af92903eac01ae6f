//! The schedule of the accounts: due times, connections, back-off. Pure.
//!
//! An account at rest is one entry in the queue of its server. It needs a connection of the server's bounded number to
//! work, to be watched by IDLE, and until its connection is closed. Servers share nothing, so that a full or failing one
//! holds up no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::{Backoff, MailServerId, MailboxId};

use self::server::Server;
pub(crate) use self::server::ServerRules;

mod server;

/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// First pause after a failure that an administrator must end: repeated sign-ins may lock the account on the server.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);
/// Time over which the attempts after a pause of a server are spread.
const SPREAD: Duration = Duration::from_secs(20);
/// Lost IDLE connections in a row after which an account is polled.
const MOST_BROKEN_WATCHES: u32 = 3;
/// Time for which such an account is polled, unless its settings change.
const UNWATCHED: Duration = Duration::from_secs(60 * 60);
/// Rounds of an account on one connection before others take their turn.
const MOST_ROUNDS: u32 = 8;

/// A step that the loop is to take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Connect and work.
    Start(MailboxId),
    /// End the IDLE of the account; [`Schedule::watched`] follows.
    Stop(MailboxId),
}

/// Next use of the connection of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Work again.
    Work,
    /// Watch the account by IDLE, at most for this time.
    Watch(Duration),
    /// Close the connection; [`Schedule::closed`] follows.
    Close,
}

/// Result of work on an account whose connection is still open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Worked {
    /// One of the sides changed.
    pub changed: bool,
    /// Work is left.
    pub again: bool,
    /// The server can report changes (IDLE).
    pub can_watch: bool,
}

/// The schedule of one epoch.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    accounts: BTreeMap<MailboxId, Entry>,
    servers: BTreeMap<MailServerId, Server>,
    /// Watched accounts with work.
    stops: BTreeSet<MailboxId>,
}

#[derive(Debug)]
struct Entry {
    /// Server in whose queue the account is, or whose connection it has.
    server: MailServerId,
    /// Server that the account is to have; `None`: it is to be dropped.
    target: Option<MailServerId>,
    phase: Phase,
    /// Latest change on one of the sides.
    active: Option<BootInstant>,
    failures: u32,
    not_before: Option<BootInstant>,
    /// Work came while the account had a connection.
    again: bool,
    rounds: u32,
    /// IDLE connections that were lost in a row.
    broken_watches: u32,
    /// The account is polled until then.
    unwatched_until: Option<BootInstant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waits {
        due: BootInstant,
        urgent: bool,
    },
    Works,
    /// The moment is the latest change, as in the set of the server.
    Watches {
        active: BootInstant,
        stopping: bool,
    },
    Closes,
}

impl Schedule {
    /// Replaces servers and accounts. New accounts, and those of `changed`, whose settings changed, are due now.
    pub(crate) fn set(
        &mut self,
        servers: &BTreeMap<MailServerId, ServerRules>,
        accounts: &BTreeMap<MailboxId, MailServerId>,
        changed: &BTreeSet<MailboxId>,
        now: BootInstant,
    ) {
        self.servers.values_mut().for_each(|server| server.accounts = 0);
        for (id, rules) in servers {
            self.servers.entry(*id).or_insert_with(|| Server::new(*rules)).rules = *rules;
        }
        for server in accounts.values() {
            if let Some(server) = self.servers.get_mut(server) {
                server.accounts += 1;
            }
        }
        let known: Vec<MailboxId> = self.accounts.keys().copied().collect();
        for mailbox in known {
            let target = accounts.get(&mailbox).filter(|server| servers.contains_key(server)).copied();
            self.retarget(mailbox, target, changed.contains(&mailbox), now);
        }
        for (mailbox, server) in accounts {
            if !self.accounts.contains_key(mailbox) && servers.contains_key(server) {
                self.accounts.insert(*mailbox, Entry::new(*server, now));
                self.enqueue(*mailbox, now, false);
            }
        }
        // A server that was removed stays until its last connection is closed.
        self.servers.retain(|id, server| servers.contains_key(id) || server.connected > 0);
    }

    fn retarget(&mut self, mailbox: MailboxId, target: Option<MailServerId>, changed: bool, now: BootInstant) {
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return };
        let moves = target != Some(entry.server);
        entry.target = target;
        if !moves && !changed {
            return;
        }
        (entry.failures, entry.not_before) = (0, None);
        (entry.broken_watches, entry.unwatched_until) = (0, None);
        match entry.phase {
            Phase::Waits { .. } => {
                self.dequeue(mailbox);
                match target {
                    Some(_) => self.enqueue(mailbox, now, false),
                    None => {
                        self.accounts.remove(&mailbox);
                    }
                }
            }
            Phase::Watches { .. } => {
                entry.again = true;
                self.stops.insert(mailbox);
            }
            Phase::Works | Phase::Closes => entry.again = true,
        }
    }

    /// Notes a change of the mailbox here. It is due now, but not before the end of a pause after failures.
    pub(crate) fn changed_here(&mut self, mailbox: MailboxId, now: BootInstant) {
        if let Some(entry) = self.accounts.get_mut(&mailbox) {
            entry.active = Some(now);
        }
        self.want(mailbox, now);
    }

    /// Takes the order of an administrator: the account is due now. False if it is not in the schedule.
    pub(crate) fn ordered(&mut self, mailbox: MailboxId, now: BootInstant) -> bool {
        if let Some(entry) = self.accounts.get_mut(&mailbox) {
            (entry.active, entry.not_before) = (Some(now), None);
        }
        self.want(mailbox, now)
    }

    /// Makes every account due now: changes here may have been missed.
    pub(crate) fn all_changed_here(&mut self, now: BootInstant) {
        let known: Vec<MailboxId> = self.accounts.keys().copied().collect();
        for mailbox in known {
            self.want(mailbox, now);
        }
    }

    fn want(&mut self, mailbox: MailboxId, now: BootInstant) -> bool {
        let Some(entry) = self.accounts.get_mut(&mailbox).filter(|entry| entry.target.is_some()) else {
            return false;
        };
        match entry.phase {
            Phase::Waits { due, urgent } => {
                let at = entry.not_before.map_or(now, |until| until.max(now));
                // An account that is urgent already keeps its turn.
                if !urgent || at < due {
                    self.dequeue(mailbox);
                    self.enqueue(mailbox, at, true);
                }
            }
            Phase::Watches { stopping, .. } => {
                entry.again = true;
                if !stopping {
                    self.stops.insert(mailbox);
                }
            }
            Phase::Works | Phase::Closes => entry.again = true,
        }
        true
    }

    /// The next step to take now; call again until there is none.
    pub(crate) fn next(&mut self, now: BootInstant) -> Option<Command> {
        while let Some(mailbox) = self.stops.pop_first() {
            if self.stop(mailbox) {
                return Some(Command::Stop(mailbox));
            }
        }
        // The account that is idle for longest gives way.
        let over = self.servers.values().find(|server| server.watching.len() > server.most_watched());
        if let Some((_, mailbox)) = over.and_then(|server| server.watching.first().copied())
            && self.stop(mailbox)
        {
            return Some(Command::Stop(mailbox));
        }
        let turn = self.servers.values().find_map(|server| server.turn(now));
        let (urgent, (_, mailbox)) = turn?;
        self.dequeue(mailbox);
        let entry = self.accounts.get_mut(&mailbox)?;
        (entry.phase, entry.again, entry.rounds) = (Phase::Works, false, 0);
        let server = self.servers.get_mut(&entry.server)?;
        server.connected += 1;
        server.urgent_in_a_row = if urgent { server.urgent_in_a_row.saturating_add(1) } else { 0 };
        Some(Command::Start(mailbox))
    }

    /// Marks a watched account as being stopped; false if it is not watched, or is being stopped already.
    fn stop(&mut self, mailbox: MailboxId) -> bool {
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return false };
        let Phase::Watches { active, stopping: false } = entry.phase else { return false };
        entry.phase = Phase::Watches { active, stopping: true };
        if let Some(server) = self.servers.get_mut(&entry.server) {
            server.watching.remove(&(active, mailbox));
        }
        true
    }

    /// Time of the next due account that could have a connection; `None`: only an event changes anything.
    pub(crate) fn wake_at(&self) -> Option<BootInstant> {
        let free = self.servers.values().filter(|server| server.connected < server.rules.connections);
        free.flat_map(|server| [server.urgent.first(), server.polls.first()]).flatten().map(|(due, _)| *due).min()
    }

    /// Notes the end of work whose connection is still open.
    pub(crate) fn worked(&mut self, mailbox: MailboxId, worked: Worked, now: BootInstant) -> Next {
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return Next::Close };
        (entry.failures, entry.not_before) = (0, None);
        if worked.changed {
            entry.active = Some(now);
        }
        entry.again |= worked.again;
        if entry.target != Some(entry.server) {
            entry.phase = Phase::Closes;
            return Next::Close;
        }
        entry.rounds = entry.rounds.saturating_add(1);
        if entry.again && entry.rounds < MOST_ROUNDS {
            return self.works(mailbox);
        }
        let again = entry.again;
        let watch = (!again && worked.can_watch).then(|| self.watch_for(mailbox, now)).flatten();
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return Next::Close };
        let Some((active, longest)) = watch else {
            entry.phase = Phase::Closes;
            return Next::Close;
        };
        entry.phase = Phase::Watches { active, stopping: false };
        entry.rounds = 0;
        if let Some(server) = self.servers.get_mut(&entry.server) {
            server.watching.insert((active, mailbox));
        }
        Next::Watch(longest)
    }

    /// The latest change of an account that is to be watched, and the time for which it is.
    fn watch_for(&self, mailbox: MailboxId, now: BootInstant) -> Option<(BootInstant, Duration)> {
        let entry = self.accounts.get(&mailbox)?;
        let server = self.servers.get(&entry.server)?;
        if entry.unwatched_until.is_some_and(|until| now < until) {
            return None;
        }
        let active = entry.active?;
        let longest = server.rules.idle.checked_sub(now.since(active)).filter(|left| !left.is_zero())?;
        let most = server.most_watched();
        let is_later = || server.watching.first().is_some_and(|(other, _)| *other < active);
        (server.watching.len() < most || (most > 0 && is_later())).then_some((active, longest))
    }

    fn works(&mut self, mailbox: MailboxId) -> Next {
        if let Some(entry) = self.accounts.get_mut(&mailbox) {
            (entry.phase, entry.again) = (Phase::Works, false);
        }
        Next::Work
    }

    /// Notes the end of an IDLE whose connection is still open. `changed`: the server reported a change.
    pub(crate) fn watched(&mut self, mailbox: MailboxId, changed: bool, now: BootInstant) -> Next {
        let Some(entry) = self.accounts.get(&mailbox) else { return Next::Close };
        let stopping = matches!(entry.phase, Phase::Watches { stopping: true, .. });
        self.leave_watching(mailbox);
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return Next::Close };
        entry.broken_watches = 0;
        if changed {
            entry.active = Some(now);
        }
        if entry.target == Some(entry.server) && (changed || entry.again || !stopping) {
            return self.works(mailbox);
        }
        entry.phase = Phase::Closes;
        Next::Close
    }

    fn leave_watching(&mut self, mailbox: MailboxId) {
        self.stops.remove(&mailbox);
        let Some(entry) = self.accounts.get(&mailbox) else { return };
        if let Phase::Watches { active, .. } = entry.phase
            && let Some(server) = self.servers.get_mut(&entry.server)
        {
            server.watching.remove(&(active, mailbox));
        }
    }

    /// Notes that the connection is closed, without a failure.
    pub(crate) fn closed(&mut self, mailbox: MailboxId, now: BootInstant) {
        let Some(entry) = self.accounts.get(&mailbox) else { return };
        let (again, moves) = (entry.again, entry.target != Some(entry.server));
        let target = entry.target.and_then(|target| self.servers.get(&target));
        let poll = target.map_or(Duration::ZERO, |server| server.rules.poll);
        let due = if again || moves { now } else { now + poll };
        self.disconnected(mailbox, due, again);
    }

    /// Notes a connection that is lost, or could not be made. `permanent`: only an administrator ends the failure. `random` is
    /// from 0 to 1 and spreads the attempts over the second half of the pause. Returns the number of failures in a row.
    pub(crate) fn failed(&mut self, mailbox: MailboxId, permanent: bool, random: f64, now: BootInstant) -> u32 {
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return 0 };
        if matches!(entry.phase, Phase::Watches { .. }) {
            // Servers end connections that wait. Only a failure of the next attempt counts.
            entry.broken_watches = entry.broken_watches.saturating_add(1);
            if entry.broken_watches >= MOST_BROKEN_WATCHES {
                (entry.broken_watches, entry.unwatched_until) = (0, Some(now + UNWATCHED));
            }
            self.leave_watching(mailbox);
            self.disconnected(mailbox, now + pause(1, false, random), true);
            return 0;
        }
        entry.failures = entry.failures.saturating_add(1);
        let until = now + pause(entry.failures, permanent, random);
        entry.not_before = Some(until);
        let failures = entry.failures;
        let urgent = entry.again;
        self.disconnected(mailbox, until, urgent);
        failures
    }

    /// Notes that the server refused a step while the others were done; the connection is closed. The pause is at most that
    /// of a poll, and changes here do not wait for its end. Returns the number of failures in a row.
    pub(crate) fn refused(&mut self, mailbox: MailboxId, permanent: bool, random: f64, now: BootInstant) -> u32 {
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return 0 };
        let poll = self.servers.get(&entry.server).map_or(Duration::ZERO, |server| server.rules.poll);
        entry.failures = entry.failures.saturating_add(1);
        entry.not_before = None;
        let (failures, urgent, moves) = (entry.failures, entry.again, entry.target != Some(entry.server));
        let pause = pause(failures, permanent, random).min(poll.max(FIRST_PAUSE));
        let due = if urgent || moves { now } else { now + pause };
        self.disconnected(mailbox, due, urgent);
        failures
    }

    /// Notes that the sign-ins of the server pause until then. This is no failure of the account, and lengthens no pause.
    pub(crate) fn paused(&mut self, mailbox: MailboxId, until: BootInstant, random: f64) {
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return };
        let until = until + SPREAD.mul_f64(random.clamp(0.0, 1.0));
        entry.not_before = Some(until);
        let urgent = entry.again;
        self.disconnected(mailbox, until, urgent);
    }

    /// Frees the connection, and puts the account into the queue of its server again.
    fn disconnected(&mut self, mailbox: MailboxId, due: BootInstant, urgent: bool) {
        let Some(entry) = self.accounts.get(&mailbox) else { return };
        if matches!(entry.phase, Phase::Waits { .. }) {
            return;
        }
        if let Some(server) = self.servers.get_mut(&entry.server) {
            server.connected = server.connected.saturating_sub(1);
        }
        if entry.target.is_some() {
            self.enqueue(mailbox, due, urgent);
        } else {
            self.accounts.remove(&mailbox);
        }
    }

    /// Number of connections, and number of those that watch.
    pub(crate) fn connections(&self) -> (usize, usize) {
        self.servers
            .values()
            .fold((0, 0), |(all, watching), server| (all + server.connected, watching + server.watching.len()))
    }

    fn enqueue(&mut self, mailbox: MailboxId, due: BootInstant, urgent: bool) {
        let Some(entry) = self.accounts.get_mut(&mailbox) else { return };
        if let Some(target) = entry.target {
            entry.server = target;
        }
        (entry.phase, entry.again) = (Phase::Waits { due, urgent }, false);
        if let Some(server) = self.servers.get_mut(&entry.server) {
            server.queue(urgent).insert((due, mailbox));
        } else {
            self.accounts.remove(&mailbox);
        }
    }

    fn dequeue(&mut self, mailbox: MailboxId) {
        let Some(entry) = self.accounts.get(&mailbox) else { return };
        if let Phase::Waits { due, urgent } = entry.phase
            && let Some(server) = self.servers.get_mut(&entry.server)
        {
            server.queue(urgent).remove(&(due, mailbox));
        }
    }
}

impl Entry {
    fn new(server: MailServerId, now: BootInstant) -> Self {
        Self {
            server,
            target: Some(server),
            phase: Phase::Waits { due: now, urgent: false },
            active: None,
            failures: 0,
            not_before: None,
            again: false,
            rounds: 0,
            broken_watches: 0,
            unwatched_until: None,
        }
    }
}

/// Pause after this number of failures in a row, from 1.
fn pause(failures: u32, permanent: bool, random: f64) -> Duration {
    let first = if permanent { REFUSED_PAUSE } else { FIRST_PAUSE };
    Backoff::spread(Backoff::new(first, LONGEST_PAUSE).after(failures), 0.5..=1.0, random)
}

#[cfg(test)]
mod tests;
