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
pub(crate) struct Reach(Mutex<BTreeMap<NodeName, Heard>>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    /// Time of the last contact.
    at: BootInstant,
    life: Option<Incarnation>,
    /// The incarnation before that, and the last contact with it.
    before: Option<(Incarnation, BootInstant)>,
    /// Time of the last answer, and its round trip.
    answered: Option<(BootInstant, Duration)>,
}

impl Heard {
    fn end(&mut self, life: Incarnation) {
        if self.before.is_none_or(|(before, _)| before != life) {
            self.before = Some((life, self.at));
        }
    }
}

impl Reach {
    /// Notes an authenticated message of a member, on any path.
    pub(crate) fn heard(&self, name: &NodeName, life: Option<Incarnation>) {
        let now = BootInstant::now();
        let mut heard = self.lock();
        match heard.get_mut(name) {
            Some(known) => {
                if let Some(old) = known.life.filter(|old| life.is_some_and(|life| life != *old)) {
                    known.end(old);
                }
                known.at = now;
                known.life = life.or(known.life);
            }
            None => drop(heard.insert(name.clone(), Heard { at: now, life, before: None, answered: None })),
        }
    }

    /// Notes an answer to a request that is answered immediately.
    pub(crate) fn answered(&self, name: &NodeName, life: Option<Incarnation>, took: Duration) {
        self.heard(name, life);
        if let Some(known) = self.lock().get_mut(name) {
            // One late answer is weak evidence: it counts a quarter.
            let smooth = known.answered.map_or(took, |(_, before)| (before * 3 + took) / 4);
            known.answered = Some((BootInstant::now(), smooth));
        }
    }

    /// Time since the last contact with this member; `None` when there was none since the start.
    pub(crate) fn since(&self, name: &NodeName) -> Option<Duration> {
        self.lock().get(name).map(|heard| heard.at.elapsed())
    }

    /// Time of the last contact with this member; `None` when there was none since the start.
    pub(crate) fn at(&self, name: &NodeName) -> Option<BootInstant> {
        self.lock().get(name).map(|heard| heard.at)
    }

    /// The end of this incarnation of a member is proved: later messages are no contact with it.
    pub(crate) fn ended(&self, name: &NodeName, life: Incarnation) {
        if let Some(known) = self.lock().get_mut(name).filter(|known| known.life == Some(life)) {
            known.end(life);
        }
    }

    /// Time of the last contact with exactly this incarnation of a member.
    pub(crate) fn last_of(&self, name: &NodeName, life: Incarnation) -> Option<BootInstant> {
        let heard = self.lock();
        let known = heard.get(name)?;
        match known.before {
            Some((before, at)) if before == life => Some(at),
            _ => (known.life == Some(life)).then_some(known.at),
        }
    }

    /// The incarnation of this member that was heard last.
    pub(crate) fn life(&self, name: &NodeName) -> Option<Incarnation> {
        self.lock().get(name).and_then(|heard| heard.life)
    }

    /// Members that have answered within `within`, with their round trips.
    pub(crate) fn reaches(&self, within: Duration) -> BTreeMap<NodeName, Duration> {
        let fresh = |h: &Heard| h.answered.filter(|(at, _)| at.elapsed() <= within).map(|(_, took)| took);
        self.lock().iter().filter_map(|(name, heard)| Some((name.clone(), fresh(heard)?))).collect()
    }

    /// Whether this member has answered within `pause`.
    fn answers(&self, name: &NodeName, pause: Duration) -> bool {
        let answered = self.lock().get(name).and_then(|heard| heard.answered);
        answered.is_some_and(|(at, _)| at.elapsed() < pause)
    }

    fn keep(&self, is_member: impl Fn(&NodeName) -> bool) {
        self.lock().retain(|name, _| is_member(name));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parameters of the prober.
pub(crate) struct Asking {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) reach: Arc<Reach>,
}

impl Asking {
    /// Probes silent members for as long as the process runs. A member that does not answer is probed again all the
    /// same, one probe at a time.
    pub(crate) async fn run(&self) {
        let pause = self.config.timing.lease / PER_LEASE;
        let mut asked: JoinSet<NodeName> = JoinSet::new();
        let mut waiting: Vec<NodeName> = Vec::new();
        loop {
            let others = self.roster.others();
            self.reach.keep(|name| others.iter().any(|member| member.name == *name));
            for member in others {
                if waiting.contains(&member.name) || self.reach.answers(&member.name, pause) {
                    continue;
                }
                if let Some(question) = self.question(&member.name) {
                    waiting.push(member.name.clone());
                    asked.spawn(async move {
                        question.await;
                        member.name
                    });
                }
            }
            let next = sleep(pause);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    Some(done) = asked.join_next() => {
                        if let Ok(name) = done {
                            waiting.retain(|waiting| *waiting != name);
                        }
                    }
                    () = &mut next => break,
                }
            }
        }
    }

    fn question(&self, name: &NodeName) -> Option<impl Future<Output = ()> + Send + 'static> {
        let line = self.dialer.line(name, None, Lane::KeepAlive)?;
        let ping = wire::PingRequest {
            node: self.config.node.as_str().to_owned(),
            incarnation: Bytes::copy_from_slice(&self.config.incarnation.to_bytes()),
        };
        let limit = self.config.timing.lease;
        // The answer is noted by the line.
        Some(async move { drop(timeout(limit, line.ask(Question::Ping(ping))).await) })
    }
}
