//! Runs of jobs: the history.

use twinbox_ids::{Incarnation, JobId, NodeName, Timestamp};
use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Edit, Key, Record};

use crate::{
    JobPlace,
    schema::{self, run as tag},
    value::{Fields, read_text, read_u64, set, set_u64},
};

/// Kind of the record, for error texts.
const WHAT: &str = "a run of a job";
/// Maximum length of an outcome's text, in bytes.
pub const LONGEST_OUTCOME: usize = 4_096;

/// State of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Under way.
    Running,
    /// Ended as it should.
    Done,
    /// Ended with an error, or over its time.
    Failed,
    /// Its process died, or its node lost the duty.
    Interrupted,
    /// Missed, and skipped by the job's rule.
    Skipped,
}

impl RunState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Running, Self::Done, Self::Failed, Self::Interrupted, Self::Skipped];

    /// The word in lists.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Skipped => "skipped",
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Running => 1,
            Self::Done => 2,
            Self::Failed => 3,
            Self::Interrupted => 4,
            Self::Skipped => 5,
        }
    }
}

/// A run of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRun {
    /// The job.
    pub job: JobId,
    /// The due time, or the time at which a run by hand was asked for.
    pub due: Timestamp,
    /// Place of the job: a job of every node has a run of each.
    pub place: JobPlace,
    /// The node that runs it.
    pub node: NodeName,
    /// The incarnation of that node.
    pub incarnation: Incarnation,
    /// Time of its beginning.
    pub began: Timestamp,
    /// Time of its end; `None` while it is under way.
    pub ended: Option<Timestamp>,
    /// State.
    pub state: RunState,
    /// Number of the attempt, from 1: an interrupted run may be attempted again.
    pub attempt: u64,
    /// The result, or the reason of the failure; empty while the first attempt is under way.
    pub outcome: String,
}

impl JobRun {
    /// The key of its record.
    pub fn key(&self) -> Key {
        schema::run_key(self.job, self.due, (self.place == JobPlace::EveryNode).then_some(&self.node))
    }

    /// Whether it concerns a node: a run of a job of every node concerns the node that made it, any other all nodes.
    pub fn is_of(&self, node: &NodeName) -> bool {
        self.place == JobPlace::Publisher || self.node == *node
    }

    /// The run with this end.
    pub fn ended(&self, state: RunState, outcome: &str, at: Timestamp) -> Self {
        Self { state, outcome: bounded(outcome).to_owned(), ended: Some(at), ..self.clone() }
    }

    /// The edits that write its record.
    pub fn edits(&self) -> Vec<Edit> {
        let mut outcome = vec![self.state.byte()];
        outcome.extend_from_slice(&self.ended.map_or(0, |at| at.0).to_be_bytes());
        outcome.extend_from_slice(bounded(&self.outcome).as_bytes());
        vec![
            set(tag::NODE, self.node.as_str().as_bytes()),
            set(tag::INCARNATION, &self.incarnation.to_bytes()),
            set_u64(tag::BEGAN, self.began.0),
            set(tag::OUTCOME, &outcome),
            set_u64(tag::ATTEMPT, self.attempt),
            set_u64(tag::DUE, self.due.0),
        ]
    }

    /// The edits of its record that remove it.
    pub fn removal() -> Vec<Edit> {
        vec![Edit::Delete]
    }

    /// Reads a run; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let (job, node) = schema::run_of(key).ok_or(ViewError::Key { what: WHAT })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields { what: WHAT, record };
        let (state, ended, outcome) = fields.required(tag::OUTCOME, read_outcome)?;
        Ok(Some(Self {
            job,
            due: Timestamp(fields.required(tag::DUE, read_u64)?),
            place: if node.is_some() { JobPlace::EveryNode } else { JobPlace::Publisher },
            node: fields.required(tag::NODE, |bytes| read_text(bytes)?.parse().ok())?,
            incarnation: fields.required(tag::INCARNATION, Incarnation::from_slice)?,
            began: Timestamp(fields.required(tag::BEGAN, read_u64)?),
            ended,
            state,
            attempt: fields.optional(tag::ATTEMPT, read_u64)?.unwrap_or(1),
            outcome,
        }))
    }
}

fn read_outcome(bytes: &[u8]) -> Option<(RunState, Option<Timestamp>, String)> {
    let (state, rest) = bytes.split_first()?;
    let (ended, outcome) = rest.split_at_checked(8)?;
    let state = RunState::ALL.into_iter().find(|known| known.byte() == *state)?;
    let ended = Some(read_u64(ended)?).filter(|at| *at > 0).map(Timestamp);
    Some((state, ended, read_text(outcome)?))
}

/// The text within its maximum length.
fn bounded(text: &str) -> &str {
    let end = (0..=LONGEST_OUTCOME.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}
