//! The older changes that a follower lacks, read from the log batch by batch as the follower takes them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::warn;
use twinbox_replication_core::{Change, Vector, state_fill::reaches};
use twinbox_replication_store::{Store, StoreError, codec};
use twinbox_wire::replication as wire;

use crate::{
    config::limits,
    error::StreamError,
    frames,
    link::{Link, StreamNumber},
    state_scan::blocking,
};

/// Pause before the log is read again after an error.
const READ_AGAIN: Duration = Duration::from_secs(5);

pub(crate) struct HistoryLane {
    pub(crate) store: Store,
    pub(crate) link: Arc<Link>,
    pub(crate) number: StreamNumber,
    /// Changes when the follower missed a change and the log must be read again.
    pub(crate) behind: watch::Receiver<()>,
    /// The last batch that the follower has taken.
    pub(crate) taken: watch::Receiver<u64>,
    pub(crate) out: mpsc::Sender<wire::History>,
    /// Beginning of the log, as announced to the follower.
    pub(crate) log_begins: Vector,
    /// The follower fills by state where the log does not reach.
    pub(crate) fills_by_state: bool,
}

/// A pass over the log was interrupted.
enum Interrupted {
    /// The pass begins again.
    Behind,
    /// The stream or the store has closed.
    End,
    /// The log was cut while it was read.
    Cut,
    /// The log cannot be read.
    Failed(StoreError),
}

impl HistoryLane {
    /// Ends with an error when the log does not reach the changes that the follower lacks; without one when the stream has closed.
    pub(crate) async fn run(mut self) -> Result<(), StreamError> {
        let mut batch = 0;
        let mut all_sent = false;
        if !reaches(&self.log_begins, &self.link.has()) {
            // It scans the rows of some node, and opens this stream again.
            return if self.fills_by_state { std::future::pending().await } else { Err(StreamError::TooFarBehind) };
        }
        loop {
            self.behind.mark_unchanged();
            let mut passed = self.pass(&mut batch).await;
            if passed.is_ok() && !all_sent {
                passed = self.send(wire::History { batch: 0, change: Vec::new(), all: true }, &mut batch).await;
                all_sent = passed.is_ok();
            }
            match passed {
                Ok(()) => {
                    if self.behind.changed().await.is_err() {
                        return Ok(());
                    }
                }
                Err(Interrupted::Behind) => {}
                Err(Interrupted::End) => return Ok(()),
                Err(Interrupted::Cut) => return Err(StreamError::LogCut),
                // The live lane continues meanwhile.
                Err(Interrupted::Failed(error)) => {
                    warn!(peer = %self.link.name, %error, next_in = ?READ_AGAIN, "log cannot be read for peer; retrying");
                    sleep(READ_AGAIN).await;
                }
            }
        }
    }

    /// Sends all changes that the follower lacks.
    async fn pass(&mut self, batch: &mut u64) -> Result<(), Interrupted> {
        let theirs = self.link.rewind(self.number);
        // This node's own changes of this incarnation go first: those acknowledged alone are among them (rule A2).
        let own = self.store.origin();
        let ours = self.store.vector();
        let own_only: Vector =
            ours.iter().filter(|(origin, _)| *origin != own).chain([(own, theirs.get(own))]).collect();
        self.send_after(own_only, ours.get(own), batch).await?;
        self.send_after(theirs, ours.get(own), batch).await
    }

    /// Sends the changes after `cursor`. This node's own changes after `newest` are left to the live lane: a writer
    /// waits for them, and probes cover only that lane.
    async fn send_after(&mut self, mut cursor: Vector, newest: u64, batch: &mut u64) -> Result<(), Interrupted> {
        let own = self.store.origin();
        loop {
            let (store, after) = (self.store.clone(), cursor.clone());
            let read = blocking(move || store.changes_after(&after, limits::FRAME_CHANGES));
            let changes = read.await.map_err(Interrupted::Failed)?;
            // Checked after the reading, in which changes that were cut before are missing.
            if !self.is_whole(&cursor, &changes) {
                return Err(Interrupted::Cut);
            }
            if changes.is_empty() {
                return Ok(());
            }
            let mut frame = frames::Batch::default();
            for change in changes {
                cursor.raise(change.origin, change.seq);
                let new = change.origin == own && change.seq > newest;
                // Skip changes that the live lane has sent meanwhile.
                if !new && self.link.claim(self.number, change.origin, change.seq) {
                    frame.push(codec::change_to_bytes(&change).into());
                }
                if frame.is_full() {
                    self.send_frame(&mut frame, batch).await?;
                }
            }
            self.send_frame(&mut frame, batch).await?;
        }
    }

    /// True when no change between the cursor and those that were read was cut.
    fn is_whole(&self, cursor: &Vector, changes: &[Change]) -> bool {
        let begins = self.store.log_begins();
        if reaches(&begins, cursor) {
            return true;
        }
        let mut next = cursor.clone();
        for change in changes {
            if change.seq == next.get(change.origin).saturating_add(1) {
                next.raise(change.origin, change.seq);
            }
        }
        reaches(&begins, &next)
    }

    async fn send_frame(&mut self, frame: &mut frames::Batch, batch: &mut u64) -> Result<(), Interrupted> {
        match frame.is_empty() {
            true => Ok(()),
            false => self.send(wire::History { batch: 0, change: frame.take(), all: false }, batch).await,
        }
    }

    /// Sends a batch under its number, when the follower has taken the earlier ones.
    async fn send(&mut self, history: wire::History, batch: &mut u64) -> Result<(), Interrupted> {
        let sent = *batch;
        tokio::select! {
            biased;
            behind = self.behind.changed() => {
                return Err(if behind.is_ok() { Interrupted::Behind } else { Interrupted::End });
            }
            room = self.taken.wait_for(|taken| sent.saturating_sub(*taken) < limits::HISTORY_UNDER_WAY) => {
                room.map_err(|_| Interrupted::End)?;
            }
        }
        *batch += 1;
        let history = wire::History { batch: *batch, ..history };
        self.out.send(history).await.map_err(|_| Interrupted::End)
    }
}
