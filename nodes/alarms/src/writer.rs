//! Writes reported alarms and events: gathers them, applies the budgets and makes one commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{NodeName, Timestamp};
use twinbox_replication_core::{Edit, Key};
use twinbox_replication_peer::Acknowledgement;
use twinbox_replication_store::{CommitError, Committed, StoreError};

use crate::{
    AckError, Alarms, ClearingRule, Code, Kind, Severity,
    alarm::{Alarm, IdPrefix},
    alarm_table::{AlarmTable, ReportOutcome},
    budget::Budget,
    event::{Event, Numbering},
    inbox::{PendingAlarm, PendingEvent, PendingReports},
    store,
    syslog::Syslog,
};

/// Reports within this period go into one commit.
const GATHER: Duration = Duration::from_millis(20);
/// Poll interval for work that waits for its time.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed write.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// A condition raised by an earlier incarnation and not reported again within this period is cleared.
const SETTLE: Duration = Duration::from_secs(120);
/// Interval of the search for old events, and their minimum age.
const ERASE_INTERVAL: Duration = Duration::from_secs(3_600);
const OLD: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Maximum number of events erased in one commit.
const ERASE_BATCH: usize = 256;
/// Minimum interval between reports of left-out alarms or events.
const DROPPED_INTERVAL: Duration = Duration::from_secs(600);

/// Request of an administrator to acknowledge alarms.
pub struct Acknowledge {
    pub ids: Vec<IdPrefix>,
    pub by: String,
    pub answer: oneshot::Sender<Result<(Vec<Alarm>, Acknowledgement), AckError>>,
}

/// The writer task.
pub struct Writer {
    alarms: Alarms,
    numbering: Numbering,
    /// Announces this origin; written with the first commit.
    began: Option<(Key, Edit)>,
    raises: BTreeMap<Code, Budget>,
    events: Budget,
    /// Alarms raised in this incarnation.
    raised_here: BTreeSet<(Code, String)>,
    settles: Option<BootInstant>,
    erases: BootInstant,
    dropped: u64,
    dropped_reported: Option<BootInstant>,
    syslog: Option<Syslog>,
}

/// An alarm to be written, and its transition.
struct Change {
    key: (Code, String),
    pending: PendingAlarm,
    alarm: Alarm,
    raised: bool,
    cleared: bool,
}

impl Writer {
    pub fn new(alarms: Alarms, numbering: Numbering, began: Option<(Key, Edit)>, syslog: Option<Syslog>) -> Self {
        let now = BootInstant::now();
        Self {
            alarms,
            numbering,
            began,
            raises: BTreeMap::new(),
            events: Budget::new(256, Duration::from_secs(2), now),
            raised_here: BTreeSet::new(),
            settles: Some(now + SETTLE),
            erases: now,
            dropped: 0,
            dropped_reported: None,
            syslog,
        }
    }

    /// Writes until stopped, then writes the remaining reports.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Acknowledge>, stop: CancellationToken) {
        let inner = self.alarms.inner().clone();
        loop {
            tokio::select! {
                () = inner.inbox.arrived.notified() => sleep(GATHER).await,
                () = sleep(POLL_INTERVAL) => {}
                request = requests.recv() => if let Some(request) = request {
                    self.acknowledge(request).await;
                    continue;
                },
                () = stop.cancelled() => {
                    self.write().await;
                    return;
                }
            }
            if !self.write().await {
                tokio::select! {
                    () = sleep(RETRY_PAUSE) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    /// Writes the waiting reports as far as the budgets allow; false if the store failed.
    async fn write(&mut self) -> bool {
        let now = BootInstant::now();
        self.report_dropped(now);
        let waiting = self.alarms.inner().inbox.take();
        let nothing_waits = waiting == PendingReports::default();
        if nothing_waits && self.settles.is_none_or(|at| now < at) && now < self.erases {
            return true;
        }
        match self.write_all(waiting, now).await {
            Ok(()) => true,
            Err(failed) => {
                warn!(error = %failed, "alarms and events cannot be written; retrying");
                false
            }
        }
    }

    async fn write_all(&mut self, waiting: PendingReports, now: BootInstant) -> Result<(), StoreError> {
        let (inbox, node) = (&self.alarms.inner().inbox.clone(), self.alarms.node().clone());
        let read = || Ok((store::alarms(self.alarms.store(), Some(&node))?, self.ended(&waiting.removed)?));
        let (own, ended) = match read() {
            Ok(read) => read,
            Err(failed) => {
                put_back(inbox, waiting.alarms, waiting.events.into());
                inbox.end_of(waiting.removed);
                return Err(failed);
            }
        };
        let mut table = AlarmTable::new(node.clone(), own);
        let mut pending = waiting.alarms;
        self.settle(&table, &mut pending, now);
        let (mut changes, mut later) = (ended, BTreeMap::new());
        for (key, pending) in pending {
            if table.would_raise(key.0, &key.1, &pending) && !self.may_raise(key.0, now) {
                later.insert(key, pending);
                continue;
            }
            if pending.raised > 0 {
                self.raised_here.insert(key.clone());
            }
            match table.apply(key.0, &key.1, &pending, wall()) {
                ReportOutcome::Nothing => {}
                ReportOutcome::Later => {
                    later.insert(key, pending);
                }
                ReportOutcome::Write { alarm, raised, cleared } => {
                    changes.push(Change { key, pending, alarm: *alarm, raised, cleared });
                }
            }
        }
        put_back(inbox, later, Vec::new());
        let (reported, left_out) = self.within_budget(waiting.events, waiting.left_out, now);
        let before = self.numbering.clone();
        let events = self.number(&changes, &reported, left_out);
        let mut edits: Vec<(Key, Edit)> = self.began.iter().cloned().collect();
        edits.extend(changes.iter().map(|change| (change.alarm.key(), change.alarm.report())));
        edits.extend(events.iter().map(|event| (event.key(), event.edit())));
        let old = self.old(now).map(|old| edits.extend(old));
        let written = match old {
            Ok(()) => self.commit(edits).await.map(drop),
            Err(failed) => Err(failed),
        };
        if let Err(failed) = written {
            self.numbering = before;
            let own = changes.into_iter().filter(|change| change.alarm.node == node);
            put_back(inbox, own.map(|change| (change.key, change.pending)).collect(), reported);
            inbox.end_of(waiting.removed);
            return Err(failed);
        }
        self.began = None;
        let known: BTreeSet<_> = table.alarms().iter().filter_map(|a| Some((a.code?, a.subject.clone()))).collect();
        self.raised_here.retain(|key| known.contains(key));
        let raised = table.alarms().iter().filter(|alarm| alarm.cleared.is_none());
        inbox.set_raised(raised.filter_map(|alarm| Some((alarm.code?, alarm.subject.clone()))).collect());
        self.alarms.inner().count(&events);
        changes.iter().for_each(|change| self.log_locally(change));
        Ok(())
    }

    /// Ends of the conditions that removed members raised.
    fn ended(&self, removed: &BTreeSet<NodeName>) -> Result<Vec<Change>, StoreError> {
        let (mut changes, now) = (Vec::new(), wall());
        for node in removed.iter().filter(|node| *node != self.alarms.node()) {
            for mut alarm in store::alarms(self.alarms.store(), Some(node))? {
                let Some(code) = alarm.code.filter(|_| alarm.cleared.is_none()).filter(|code| lasts(*code)) else {
                    continue;
                };
                alarm.cleared = Some(now);
                let pending = PendingAlarm { raised: 0, at: now, detail: String::new(), cleared: true };
                let key = (code, alarm.subject.clone());
                changes.push(Change { key, pending, alarm, raised: false, cleared: true });
            }
        }
        Ok(changes)
    }

    async fn commit(&self, edits: Vec<(Key, Edit)>) -> Result<Option<Committed>, StoreError> {
        if edits.is_empty() {
            return Ok(None);
        }
        let committed = self
            .alarms
            .store()
            .commit(move |draft| edits.into_iter().try_for_each(|(key, edit)| draft.edit(key, vec![edit])));
        match committed.await {
            Ok(((), committed)) => Ok(Some(committed)),
            Err(CommitError::Refused(failed) | CommitError::Store(failed)) => Err(failed),
        }
    }

    /// A raise is reported to outside receivers and to append-only logs: each code may do so 20 times in a burst
    /// and then once per 10 seconds. Waiting raises are counted together.
    fn may_raise(&mut self, code: Code, now: BootInstant) -> bool {
        let budget = || Budget::new(20, Duration::from_secs(10), now);
        self.raises.entry(code).or_insert_with(budget).take(now)
    }

    /// After [`SETTLE`], clears conditions raised by an earlier incarnation of this node and not reported since.
    fn settle(
        &mut self,
        table: &AlarmTable,
        pending: &mut BTreeMap<(Code, String), PendingAlarm>,
        now: BootInstant,
    ) {
        if self.settles.is_none_or(|at| now < at) {
            return;
        }
        self.settles = None;
        for alarm in table.alarms().iter().filter(|alarm| alarm.cleared.is_none()) {
            let Some(code) = alarm.code.filter(|code| lasts(*code)) else { continue };
            let key = (code, alarm.subject.clone());
            if !self.raised_here.contains(&key) {
                let clear = PendingAlarm { raised: 0, at: wall(), detail: String::new(), cleared: true };
                pending.entry(key).or_insert(clear);
            }
        }
    }

    fn within_budget(
        &mut self,
        events: impl IntoIterator<Item = PendingEvent>,
        left_out: u64,
        now: BootInstant,
    ) -> (Vec<PendingEvent>, u64) {
        let (mut within, mut left_out) = (Vec::new(), left_out);
        for event in events {
            if self.events.take(now) {
                within.push(event);
            } else {
                left_out += 1;
                self.alarms.inner().inbox.drop_event();
            }
        }
        (within, left_out)
    }

    /// Numbers the events, in order of time.
    fn number(&mut self, changes: &[Change], reported: &[PendingEvent], left_out: u64) -> Vec<Event> {
        type About<'a> = (Timestamp, Kind, &'a str, &'a str, Option<&'a Alarm>);
        let mut all: Vec<About<'_>> = Vec::new();
        for Change { alarm, raised, cleared, .. } in changes {
            let (subject, detail) = (alarm.subject.as_str(), alarm.detail.as_str());
            if *raised {
                all.push((alarm.raised, Kind::AlarmRaised, subject, detail, Some(alarm)));
            }
            if let Some(at) = alarm.cleared.filter(|_| *cleared) {
                all.push((at, Kind::AlarmCleared, subject, detail, Some(alarm)));
            }
        }
        all.extend(reported.iter().map(|e| (e.at, e.kind, e.subject.as_str(), e.detail.as_str(), None)));
        all.sort_by_key(|(at, ..)| *at);
        let mut events: Vec<Event> = Vec::new();
        for (at, kind, subject, detail, alarm) in all {
            let mut event = self.numbering.next(kind, subject, detail, at);
            event.alarm = alarm.map(|alarm| (alarm.id, alarm.word.clone()));
            events.push(event);
        }
        if left_out > 0 {
            let detail = format!("{left_out} events were left out: they arrived faster than they can be stored");
            events.push(self.numbering.next(Kind::LeftOut, self.alarms.node().as_str(), &detail, wall()));
        }
        events
    }

    /// Erases old events.
    fn old(&mut self, now: BootInstant) -> Result<Vec<(Key, Edit)>, StoreError> {
        if now < self.erases {
            return Ok(Vec::new());
        }
        let before = wall().0.saturating_sub(u64::try_from(OLD.as_millis()).unwrap_or(u64::MAX));
        let mut old = store::events(self.alarms.store(), self.alarms.node())?;
        old.retain(|event| event.at.0 < before);
        if old.len() <= ERASE_BATCH {
            self.erases = now + ERASE_INTERVAL;
        }
        old.sort_by_key(|event| event.sequence);
        Ok(old.iter().take(ERASE_BATCH).map(|event| (event.key(), Event::erase())).collect())
    }

    /// Left-out alarms and events raise an alarm of their own.
    fn report_dropped(&mut self, now: BootInstant) {
        let (alarms, events) = self.alarms.dropped();
        let dropped = alarms.saturating_add(events);
        if dropped == self.dropped || self.dropped_reported.is_some_and(|at| now.since(at) < DROPPED_INTERVAL) {
            return;
        }
        let more = dropped.saturating_sub(self.dropped);
        (self.dropped, self.dropped_reported) = (dropped, Some(now));
        let detail = format!("{more} were left out ({alarms} alarms and {events} events since the start)");
        self.alarms.raise(Code::TooManyAlarms, self.alarms.node().as_str(), detail);
    }

    /// Writes to the log and syslog of this node.
    fn log_locally(&self, Change { alarm, raised, cleared, .. }: &Change) {
        let (code, subject, detail, id) = (&alarm.word, &alarm.subject, &alarm.detail, alarm.id);
        let severity = alarm.code.map_or(Severity::Warning, Code::severity);
        if *raised {
            alarm.code.iter().for_each(|code| self.alarms.inner().note_raised(*code));
            let count = alarm.count;
            match severity {
                Severity::Warning => warn!(%id, code, %severity, subject, count, detail, "alarm raised"),
                Severity::Major | Severity::Critical => {
                    error!(%id, code, %severity, subject, count, detail, "alarm raised")
                }
            }
        }
        if *cleared {
            info!(%id, code, %severity, subject, "alarm cleared");
        }
        if let Some(syslog) = &self.syslog {
            [(*raised, true), (*cleared, false)]
                .into_iter()
                .filter(|(occurred, _)| *occurred)
                .for_each(|(_, raised)| syslog.send(alarm, raised));
        }
    }

    /// Acknowledges all alarms or none, with their events, in one commit.
    async fn acknowledge(&mut self, Acknowledge { ids, by, answer }: Acknowledge) {
        let before = self.numbering.clone();
        let (alarms, committed) = match self.acknowledge_all(&ids, &by).await {
            Ok(done) => done,
            Err(failed) => {
                self.numbering = before;
                // The requester may have disconnected; then the answer is dropped.
                let _ = answer.send(Err(failed));
                return;
            }
        };
        self.began = None;
        let peers = self.alarms.inner().peers.clone();
        tokio::spawn(async move {
            let acknowledgement = match committed {
                Some(committed) => peers.acknowledge(&committed).await,
                None => Acknowledgement::Alone,
            };
            let _ = answer.send(Ok((alarms, acknowledgement)));
        });
    }

    async fn acknowledge_all(
        &mut self,
        ids: &[IdPrefix],
        by: &str,
    ) -> Result<(Vec<Alarm>, Option<Committed>), AckError> {
        let all = store::alarms(self.alarms.store(), None)?;
        let mut meant: BTreeMap<(NodeName, u16), Alarm> = BTreeMap::new();
        for id in ids {
            let mut found = all.iter().filter(|alarm| id.matches(alarm.id));
            let alarm = found.next().ok_or_else(|| AckError::None { id: id.to_string() })?;
            if found.next().is_some() {
                return Err(AckError::Several { id: id.to_string() });
            }
            meant.insert((alarm.node.clone(), alarm.slot), alarm.clone());
        }
        let (now, mut events, mut edits) = (wall(), Vec::new(), Vec::new());
        edits.extend(self.began.iter().cloned());
        for alarm in meant.values_mut().filter(|alarm| alarm.is_open() && alarm.acknowledged.is_none()) {
            let mut event = self.numbering.next(Kind::AlarmAcknowledged, &alarm.subject, "", now);
            event.alarm = Some((alarm.id, alarm.word.clone()));
            edits.push((alarm.key(), alarm.acknowledge(by, now)));
            edits.push((event.key(), event.edit()));
            events.push(event);
            alarm.acknowledged = Some((by.to_owned(), now));
        }
        let committed = if events.is_empty() { None } else { self.commit(edits).await? };
        self.alarms.inner().count(&events);
        Ok((meant.into_values().collect(), committed))
    }
}

/// Whether alarms of this code end with their condition.
fn lasts(code: Code) -> bool {
    code.clearing_rule() == ClearingRule::WhenEnded
}

fn put_back(
    inbox: &crate::inbox::Inbox,
    alarms: BTreeMap<(Code, String), PendingAlarm>,
    events: Vec<PendingEvent>,
) {
    alarms.into_iter().for_each(|(key, pending)| inbox.put_back(key, pending));
    inbox.put_back_events(events);
}
