//! Failure detector: every member gets an answer of every other a few times per lease, and records the last contacts. A
//! member that has just answered something else (a heartbeat, a keep-alive) is not probed.
//!
//! The leader gets the results with the keep-alives and so has the whole matrix (rule R9). A node of a partitioned
//! cluster uses its own contacts (active-passive call policy, rule R7).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use twinbox_clock::BootInstant;
use twinbox_ids::{Incarnation, NodeName};
use twinbox_wire::roles::{self as wire, question::Question};

use crate::{
    RolesConfig,
    dialer::{Dialer, Lane},
    roster::Roster,
};

/// Number of answers per lease.
const PER_LEASE: u32 = 3;

/// Last contacts with the other members.
#[derive(Default)]
pub(crate) struct FailureDetector(Mutex<BTreeMap<NodeName, LastContact>>);

#[derive(Debug, Clone, Copy)]
struct LastContact {
    /// Time of the last contact.
    at: BootInstant,
    incarnation: Option<Incarnation>,
    /// The incarnation before that, and the last contact with it.
    before: Option<(Incarnation, BootInstant)>,
    /// Time of the last answer, and its round trip.
    answered: Option<(BootInstant, Duration)>,
}

impl LastContact {
    fn note_end(&mut self, incarnation: Incarnation) {
        if self.before.is_none_or(|(before, _)| before != incarnation) {
            self.before = Some((incarnation, self.at));
        }
    }
}

impl FailureDetector {
    /// Notes an authenticated message of a member, on any path.
    pub(crate) fn note_contact(&self, name: &NodeName, incarnation: Option<Incarnation>) {
        let now = BootInstant::now();
        let mut contacts = self.lock();
        match contacts.get_mut(name) {
            Some(known) => {
                if let Some(old) =
                    known.incarnation.filter(|old| incarnation.is_some_and(|incarnation| incarnation != *old))
                {
                    known.note_end(old);
                }
                known.at = now;
                known.incarnation = incarnation.or(known.incarnation);
            }
            None => drop(
                contacts.insert(name.clone(), LastContact { at: now, incarnation, before: None, answered: None }),
            ),
        }
    }

    /// Notes an answer to a request that is answered immediately.
    pub(crate) fn note_answer(&self, name: &NodeName, incarnation: Option<Incarnation>, took: Duration) {
        self.note_contact(name, incarnation);
        if let Some(known) = self.lock().get_mut(name) {
            // One late answer is weak evidence: it counts a quarter.
            let smooth = known.answered.map_or(took, |(_, before)| (before * 3 + took) / 4);
            known.answered = Some((BootInstant::now(), smooth));
        }
    }

    /// Time since the last contact with this member; `None` when there was none since the start.
    pub(crate) fn since_contact(&self, name: &NodeName) -> Option<Duration> {
        self.lock().get(name).map(|contact| contact.at.elapsed())
    }

    /// Time of the last contact with this member; `None` when there was none since the start.
    pub(crate) fn last_contact(&self, name: &NodeName) -> Option<BootInstant> {
        self.lock().get(name).map(|contact| contact.at)
    }

    /// The end of this incarnation of a member is proved: later messages are no contact with it.
    pub(crate) fn note_exit(&self, name: &NodeName, incarnation: Incarnation) {
        if let Some(known) = self.lock().get_mut(name).filter(|known| known.incarnation == Some(incarnation)) {
            known.note_end(incarnation);
        }
    }

    /// Time of the last contact with exactly this incarnation of a member.
    pub(crate) fn last_contact_with(&self, name: &NodeName, incarnation: Incarnation) -> Option<BootInstant> {
        let contacts = self.lock();
        let known = contacts.get(name)?;
        match known.before {
            Some((before, at)) if before == incarnation => Some(at),
            _ => (known.incarnation == Some(incarnation)).then_some(known.at),
        }
    }

    /// The incarnation of this member at the last contact.
    pub(crate) fn incarnation(&self, name: &NodeName) -> Option<Incarnation> {
        self.lock().get(name).and_then(|contact| contact.incarnation)
    }

    /// Members that have answered within `within`, with their round trips.
    pub(crate) fn round_trips(&self, within: Duration) -> BTreeMap<NodeName, Duration> {
        let fresh =
            |contact: &LastContact| contact.answered.filter(|(at, _)| at.elapsed() <= within).map(|(_, took)| took);
        self.lock().iter().filter_map(|(name, contact)| Some((name.clone(), fresh(contact)?))).collect()
    }

    /// Whether this member has answered within `pause`.
    fn answers(&self, name: &NodeName, pause: Duration) -> bool {
        let answered = self.lock().get(name).and_then(|contact| contact.answered);
        answered.is_some_and(|(at, _)| at.elapsed() < pause)
    }

    fn retain(&self, is_member: impl Fn(&NodeName) -> bool) {
        self.lock().retain(|name, _| is_member(name));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, LastContact>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parameters of the prober.
pub(crate) struct MemberProber {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) detector: Arc<FailureDetector>,
}

impl MemberProber {
    /// Probes silent members for as long as the process runs. A member that does not answer is probed again all the
    /// same, one probe at a time.
    pub(crate) async fn run(&self) {
        let pause = self.config.timing.lease / PER_LEASE;
        let mut probes: JoinSet<NodeName> = JoinSet::new();
        let mut waiting: Vec<NodeName> = Vec::new();
        loop {
            let others = self.roster.others();
            self.detector.retain(|name| others.iter().any(|member| member.name == *name));
            for member in others {
                if waiting.contains(&member.name) || self.detector.answers(&member.name, pause) {
                    continue;
                }
                if let Some(probe) = self.probe(&member.name) {
                    waiting.push(member.name.clone());
                    probes.spawn(async move {
                        probe.await;
                        member.name
                    });
                }
            }
            let next = sleep(pause);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    Some(done) = probes.join_next() => {
                        if let Ok(name) = done {
                            waiting.retain(|waiting| *waiting != name);
                        }
                    }
                    () = &mut next => break,
                }
            }
        }
    }

    fn probe(&self, name: &NodeName) -> Option<impl Future<Output = ()> + Send + 'static> {
        let stream = self.dialer.request_stream(name, None, Lane::KeepAlive)?;
        let ping = wire::PingRequest {
            node: self.config.node.as_str().to_owned(),
            incarnation: Bytes::copy_from_slice(&self.config.incarnation.to_bytes()),
        };
        let limit = self.config.timing.lease;
        // The stream notes the answer.
        Some(async move { drop(timeout(limit, stream.ask(Question::Ping(ping))).await) })
    }
}
