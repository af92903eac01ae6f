//! Failure detector, around `Contacts` of `role-manager/member`: every member gets an answer of every other a few times
//! per lease, and records the last contacts. A member that has just answered something else (a heartbeat, a keep-alive)
//! is not probed.
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
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_member::Contacts;
use twinbox_wire::roles::{self as wire, question::Question};

use crate::{
    RolesConfig,
    boot_clock::now,
    connections::dialer::{Dialer, Lane},
    group::roster::Roster,
};

/// Number of answers per lease.
const PER_LEASE: u32 = 3;

/// Last contacts with the other members.
#[derive(Default)]
pub(crate) struct FailureDetector(Mutex<Contacts>);

impl FailureDetector {
    /// Notes an authenticated message of a member, on any path.
    pub(crate) fn note_contact(&self, name: &NodeName, incarnation: Option<Incarnation>) {
        self.lock().note(now(), name, incarnation);
    }

    /// Notes an answer to a request that is answered immediately.
    pub(crate) fn note_answer(&self, name: &NodeName, incarnation: Option<Incarnation>, took: Duration) {
        self.lock().note_answer(now(), name, incarnation, took);
    }

    /// The end of this incarnation of a member is proved: later messages are no contact with it.
    pub(crate) fn note_exit(&self, name: &NodeName, incarnation: Incarnation) {
        self.lock().note_exit(name, incarnation);
    }

    /// The last contacts until now.
    pub(crate) fn contacts(&self) -> Contacts {
        self.lock().clone()
    }

    /// Time since the last contact with this member; `None` when there was none since the start.
    pub(crate) fn since_contact(&self, name: &NodeName) -> Option<Duration> {
        self.last_contact(name).map(|at| now().saturating_sub(at))
    }

    /// Time of the last contact with this member; `None` when there was none since the start.
    pub(crate) fn last_contact(&self, name: &NodeName) -> Option<Duration> {
        self.lock().last(name)
    }

    /// The incarnation of this member at the last contact.
    pub(crate) fn incarnation(&self, name: &NodeName) -> Option<Incarnation> {
        self.lock().incarnation(name)
    }

    /// Members that have answered within `within`, with their round trips.
    pub(crate) fn round_trips(&self, within: Duration) -> BTreeMap<NodeName, Duration> {
        self.lock().round_trips(now(), within)
    }

    fn lock(&self) -> MutexGuard<'_, Contacts> {
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
            self.detector.lock().retain(|name| others.iter().any(|member| member.name == *name));
            for member in others {
                if waiting.contains(&member.name) || self.has_answered(&member.name, pause) {
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

    fn has_answered(&self, name: &NodeName, pause: Duration) -> bool {
        self.detector.lock().has_answered(now(), name, pause)
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
