//! Reports to members: one task each, with an open connection, on a thread separate from the watching.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tonic::transport::Channel;
use tracing::{debug, info, warn};
use twinbox_ids::{Backoff, Incarnation, NodeName};
use twinbox_roles_core::least_needed;
use twinbox_wire::roles::{Exit, ReportRequest, exits_client::ExitsClient};

use crate::{ExitCause, Member, ProcessInfo, Spec, answer};

/// Number of incarnations remembered in addition to the last; for an older one the answer is that nothing is known.
const REMEMBERED: usize = 16;
/// Maximum number of exits in one report: a member that missed the last ones gets them with the next greeting.
const MAX_REPORTED: usize = 4;
/// Interval of greetings to a member without new reports, which keep its connection open.
const GREETING_INTERVAL: Duration = Duration::from_secs(5);
/// Time for a member to accept a report, after which another connection is tried.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Pauses after failed reports.
const RETRY: Backoff = Backoff::new(Duration::from_millis(40), GREETING_INTERVAL);
/// Interval of checks of the members, and of the certificate, which the node renews.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The present incarnation of the child, and the exits that this supervisor has observed.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExitHistory {
    pub(crate) current: Option<Incarnation>,
    /// Oldest first.
    exits: Vec<ObservedExit>,
}

/// An exit observed by this supervisor.
#[derive(Debug, Clone)]
struct ObservedExit {
    exit: Exit,
    /// Whether the incarnation was ready for calls, so that it may have had some.
    was_ready: bool,
}

impl ExitHistory {
    /// Notes an exit. Of a crash loop, incarnations that were never ready are forgotten first.
    fn note(&mut self, exit: Exit, was_ready: bool) {
        if self.exits.len() > REMEMBERED {
            self.exits.remove(least_needed(self.exits.iter().map(|observed| observed.was_ready)));
        }
        self.exits.push(ObservedExit { exit, was_ready });
    }

    /// The known exit of this incarnation.
    pub(crate) fn exit(&self, incarnation: &[u8]) -> Option<&Exit> {
        self.exits.iter().map(|observed| &observed.exit).find(|exit| exit.incarnation == incarnation)
    }

    /// The incarnation of the last exit.
    fn last(&self) -> Bytes {
        self.exits.last().map(|observed| observed.exit.incarnation.clone()).unwrap_or_default()
    }

    /// The report for each member: the last exit, and the latest before it, those of ready incarnations first.
    fn to_report(&self) -> Vec<Exit> {
        let mut reported = self.exits.clone();
        while reported.len() > MAX_REPORTED {
            let earlier = &reported[..reported.len() - 1];
            reported.remove(least_needed(earlier.iter().map(|observed| observed.was_ready)));
        }
        reported.into_iter().map(|observed| observed.exit).collect()
    }
}

/// The last exit that each member has accepted.
type AckedExits = BTreeMap<NodeName, Bytes>;

/// The thread that reports.
pub(crate) struct Reporter {
    known: watch::Sender<ExitHistory>,
    acked: watch::Receiver<AckedExits>,
}

impl Reporter {
    pub(crate) fn start(spec: Arc<Spec>) -> io::Result<Self> {
        let known = watch::Sender::new(ExitHistory::default());
        let (acked_sender, acked) = watch::channel(AckedExits::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let watched = known.subscribe();
        std::thread::Builder::new()
            .name("reports".to_owned())
            .spawn(move || runtime.block_on(report(spec, watched, acked_sender)))?;
        Ok(Self { known, acked })
    }

    /// Notes that this incarnation runs.
    pub(crate) fn note_running(&self, info: &ProcessInfo) {
        self.known.send_modify(|known| known.current = Some(info.incarnation));
    }

    /// Notes that this incarnation has exited.
    pub(crate) fn note_exit(&self, info: &ProcessInfo, cause: ExitCause) {
        let incarnation = Bytes::copy_from_slice(&info.incarnation.to_bytes());
        let exit = Exit { incarnation, raft_id: info.raft_id, run: info.run, how: cause.to_string() };
        self.known.send_modify(|known| {
            known.current = known.current.filter(|current| *current != info.incarnation);
            known.note(exit, info.ready);
        });
    }

    /// Waits until every member knows the last exit, up to this limit.
    pub(crate) async fn all_acked(&mut self, limit: Duration) {
        let last = self.known.borrow().last();
        let all = self.acked.wait_for(|acked| acked.values().all(|known| *known == last));
        if timeout(limit, all).await.is_err() {
            debug!("not every member has acknowledged the exit");
        }
    }
}

async fn report(spec: Arc<Spec>, mut known: watch::Receiver<ExitHistory>, acked: watch::Sender<AckedExits>) {
    tokio::spawn(answer::serve(spec.clone(), known.clone()));
    let mut members: Vec<Member> = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        let checked = spawn_blocking({
            let spec = spec.clone();
            move || {
                let renewed = spec.tls.reload();
                (renewed, (spec.members)())
            }
        });
        let Ok((renewed, now)) = checked.await else { return };
        match renewed {
            Ok(true) => info!("the supervisor uses the node's renewed certificate"),
            Ok(false) => {}
            Err(error) => debug!(%error, "cannot reload the node's certificate; it is retried"),
        }
        if now != members {
            // Restarts all tasks: this is rare, and repeated reports do no harm.
            tasks.abort_all();
            acked.send_modify(|acked| {
                *acked = now.iter().map(|member| (member.name.clone(), Bytes::new())).collect()
            });
            for member in &now {
                let reporter = MemberReporter {
                    spec: spec.clone(),
                    member: member.clone(),
                    known: known.clone(),
                    acked: acked.clone(),
                };
                tasks.spawn(reporter.run());
            }
            members = now;
        }
        tokio::select! {
            () = sleep(CHECK_INTERVAL) => {}
            () = closed(&mut known) => return,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
}

/// Waits until the watching has ended.
async fn closed(known: &mut watch::Receiver<ExitHistory>) {
    while known.changed().await.is_ok() {}
}

/// Reporter to one member.
struct MemberReporter {
    spec: Arc<Spec>,
    member: Member,
    known: watch::Receiver<ExitHistory>,
    acked: watch::Sender<AckedExits>,
}

impl MemberReporter {
    async fn run(mut self) {
        let mut channel: Option<Channel> = None;
        let mut retry = RETRY;
        loop {
            let (exits, last) = {
                let known = self.known.borrow_and_update();
                (known.to_report(), known.last())
            };
            let urgent = self.acked.borrow().get(&self.member.name).is_some_and(|acked| *acked != last);
            let open = match channel.take() {
                Some(open) => open,
                None => match self.spec.tls.endpoint(&self.member.name, &self.member.address) {
                    Ok(endpoint) => endpoint.for_roles().connect_timeout(ANSWER_WITHIN).connect_lazy(),
                    Err(error) => {
                        warn!(peer = %self.member.name, %error, "cannot report exits to a member; check its address");
                        return;
                    }
                },
            };
            let request =
                ReportRequest { node: self.spec.node.to_string(), exits, port: u32::from(self.spec.bind.port()) };
            let pause = match timeout(ANSWER_WITHIN, ExitsClient::new(open.clone()).report(request)).await {
                Ok(Ok(_)) => {
                    retry.reset();
                    channel = Some(open);
                    if urgent {
                        info!(peer = %self.member.name, "exit reported to a member");
                        self.acked.send_modify(|acked| {
                            acked.insert(self.member.name.clone(), last);
                        });
                    }
                    GREETING_INTERVAL
                }
                Ok(Err(status)) => {
                    debug!(peer = %self.member.name, status = status.message(), "exit report failed; it is retried");
                    retry.failed()
                }
                Err(_) => {
                    debug!(peer = %self.member.name, "exit report timed out; it is retried");
                    retry.failed()
                }
            };
            tokio::select! {
                changed = self.known.changed() => match changed {
                    // New exits are tried quickly, however long this member has been away.
                    Ok(()) => retry.reset(),
                    Err(_) => return,
                },
                () = sleep(pause) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(number: u64) -> Exit {
        let incarnation = Bytes::copy_from_slice(&Incarnation(number.into()).to_bytes());
        Exit { incarnation, raft_id: 1, run: number, how: String::new() }
    }

    #[test]
    fn a_crash_loop_does_not_displace_an_incarnation_that_was_ready() {
        let mut known = ExitHistory::default();
        known.note(exit(1), true);
        for number in 2..100 {
            known.note(exit(number), false);
            assert!(known.exit(&exit(1).incarnation).is_some(), "forgotten after {number}");
            let reported: Vec<_> = known.to_report().iter().map(|exit| exit.run).collect();
            assert_eq!(
                (reported.first(), reported.last(), reported.len()),
                (Some(&1), Some(&number), MAX_REPORTED.min(reported.len()))
            );
            assert_eq!(known.last(), exit(number).incarnation);
        }
        assert_eq!(known.exits.len(), REMEMBERED + 1);
        // Of incarnations that were all ready, the latest are reported.
        for number in 100..110 {
            known.note(exit(number), true);
        }
        assert_eq!(known.to_report().iter().map(|exit| exit.run).collect::<Vec<_>>(), [106, 107, 108, 109]);
    }
}
