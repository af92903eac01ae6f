//! The numbers on disk and on the wire. They are permanent: a number never gets a second meaning, and the number of a
//! removed field is not used again. Nodes that do not know a field merge and forward it all the same (rule D7).

use twinbox_ids::{JobId, NodeName, Timestamp};
use twinbox_replication_core::{Key, Table};

/// Jobs of the timetable. Id: job id (16 bytes).
pub const TIMETABLE_JOB: Table = Table(19);
/// Runs of jobs. Id: job id, slot of the due time (16 + 2 bytes), and for jobs of every node its name.
pub const JOB_RUN: Table = Table(20);
/// Number of slots of a job, and so of its latest runs that are kept: a later run in the slot replaces the earlier one,
/// so that a job that is due each minute leaves no rows behind. A prime, so that regular due times use all slots.
pub const RUN_SLOTS: u64 = 127;

/// Fields of [`TIMETABLE_JOB`].
pub mod job {
    use twinbox_replication_core::Tag;

    /// Register, u64: time of its creation (milliseconds since 1970). A record without it is no job.
    pub const CREATED: Tag = 1;
    /// Register, text: the name in lists.
    pub const NAME: Tag = 2;
    /// Register, one byte: the kind, see [`JobKind::number`](crate::JobKind::number).
    pub const KIND: Tag = 3;
    /// Register, text: the arguments, one `word=value` per line.
    pub const ARGUMENTS: Tag = 4;
    /// Register, text: the cron expression, five fields or a name such as `@daily`.
    pub const CRON: Tag = 5;
    /// Register, text: the IANA name of the time zone.
    pub const ZONE: Tag = 6;
    /// Register, one byte: 1 the publisher runs it, 2 every node does.
    pub const PLACE: Tag = 7;
    /// Register, one byte: 1 missed runs are skipped, 2 one run makes up for them.
    pub const MISSED: Tag = 8;
    /// Register, one byte, 0 or 1: it runs at its due times.
    pub const ENABLED: Tag = 9;
    /// Register, u64: earlier due times do not count (milliseconds since 1970): time of the latest change of its times.
    pub const SINCE: Tag = 10;
    /// Register, u64: time of the latest request of a run by hand (milliseconds since 1970).
    pub const REQUESTED: Tag = 11;
    /// Register, u64: maximum time of a run, in seconds.
    pub const LIMIT: Tag = 12;
}

/// Fields of [`JOB_RUN`].
pub mod run {
    use twinbox_replication_core::Tag;

    /// Register, text: the node that runs it.
    pub const NODE: Tag = 1;
    /// Register, 16 bytes: the incarnation of that node.
    pub const INCARNATION: Tag = 2;
    /// Register, u64: time of its beginning (milliseconds since 1970). A record without it is no run.
    pub const BEGAN: Tag = 3;
    /// Register: state (one byte, 1 running, 2 done, 3 failed, 4 interrupted, 5 skipped), time of its end (u64,
    /// milliseconds since 1970; 0 while it runs), then the outcome as text. One register, because the parts make sense
    /// only together.
    pub const OUTCOME: Tag = 4;
    /// Register, u64: number of the attempt, from 1.
    pub const ATTEMPT: Tag = 5;
    /// Register, u64: the due time (milliseconds since 1970).
    pub const DUE: Tag = 6;
}

/// The key of a job.
pub fn job_key(id: JobId) -> Key {
    Key { table: TIMETABLE_JOB, id: id.to_bytes().to_vec() }
}

/// The job of a job's key; `None` for another key.
pub fn job_of(key: &Key) -> Option<JobId> {
    (key.table == TIMETABLE_JOB).then(|| JobId::from_slice(&key.id)).flatten()
}

/// The key of a run; `node` is given for jobs of every node.
pub fn run_key(job: JobId, due: Timestamp, node: Option<&NodeName>) -> Key {
    let slot = u16::try_from(due.0 / 1_000 % RUN_SLOTS).unwrap_or_default();
    let mut id = job.to_bytes().to_vec();
    id.extend_from_slice(&slot.to_be_bytes());
    id.extend_from_slice(node.map_or("", NodeName::as_str).as_bytes());
    Key { table: JOB_RUN, id }
}

/// The job and, for a job of every node, the node of a run's key; `None` for another key.
pub fn run_of(key: &Key) -> Option<(JobId, Option<NodeName>)> {
    if key.table != JOB_RUN {
        return None;
    }
    let (job, rest) = key.id.split_at_checked(16)?;
    let (_, node) = rest.split_at_checked(2)?;
    let node = match node {
        [] => None,
        name => Some(std::str::from_utf8(name).ok()?.parse().ok()?),
    };
    Some((JobId::from_slice(job)?, node))
}
