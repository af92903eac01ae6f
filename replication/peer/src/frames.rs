//! Frames of the streams, to and from the types of the store. Input from outside is checked here.

use std::{ops::RangeInclusive, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use tracing::error;
use twinbox_ids::{BlobHash, ClusterId, NodeName, Origin, RecordingId};
use twinbox_replication_core::{Change, Holdings, Vector, tails::Take};
use twinbox_replication_store::{Filled, Store, codec};
use twinbox_wire::replication as wire;

use crate::{config::limits, error::StreamError, peers::Inner};

/// The highest number of a change that a peer may name; no store gets near it. A higher one would, as a prefix, make this node refuse
/// all later changes of its origin, and leave no room for the number after it.
const LAST: u64 = u64::MAX / 4;

/// Changes by origin and numbers.
pub(crate) type Runs = Vec<(Origin, RangeInclusive<u64>)>;

/// The first frame of a follower.
pub(crate) struct Hello {
    pub(crate) origin: Origin,
    pub(crate) vector: Vector,
    pub(crate) recordings: Vec<(Take, u64)>,
    pub(crate) lacks_data: bool,
    pub(crate) fills_by_state: bool,
}

/// The first frame of a source.
pub(crate) struct Welcome {
    pub(crate) origin: Origin,
    pub(crate) vector: Vector,
    pub(crate) lacks_records: bool,
    pub(crate) log_begins: Vector,
}

pub(crate) fn bad(what: impl ToString) -> StreamError {
    StreamError::Frame(what.to_string())
}

fn id<T>(what: &'static str, from: impl Fn(&[u8]) -> Option<T>, bytes: &[u8]) -> Result<T, StreamError> {
    from(bytes).ok_or_else(|| bad(format!("a {what} of {} bytes", bytes.len())))
}

/// The peer must have the name in its certificate, belong to this cluster, and use this protocol.
fn check_greeting(
    inner: &Inner,
    certificate: &NodeName,
    protocol: u32,
    cluster: &[u8],
    name: &str,
) -> Result<(), StreamError> {
    if protocol != limits::PROTOCOL {
        return Err(StreamError::Protocol { theirs: protocol, ours: limits::PROTOCOL });
    }
    let cluster = id("cluster id", ClusterId::from_slice, cluster)?;
    if cluster != inner.config.cluster {
        return Err(StreamError::WrongCluster { theirs: cluster, ours: inner.config.cluster });
    }
    if name != certificate.as_str() {
        return Err(StreamError::NotItself {
            certificate: certificate.clone(),
            claimed: name.chars().take(80).collect(),
        });
    }
    Ok(())
}

/// Refuses a peer that claims more changes of this node's present origin than this node has made (rule D1).
pub(crate) fn check_own(store: &Store, theirs: u64) -> Result<(), StreamError> {
    let origin = store.origin();
    if theirs == 0 || store.has(origin, theirs) {
        return Ok(());
    }
    Err(StreamError::OwnOriginAhead { origin, theirs, ours: store.vector().get(origin) })
}

/// Refuses an acknowledgement of changes that are not here: a peer acknowledges what this node has sent.
pub(crate) fn check_here(store: &Store, origin: Origin, seqs: &RangeInclusive<u64>) -> Result<(), StreamError> {
    match store.first_missing(origin, *seqs.start()) > *seqs.end() {
        true => Ok(()),
        false => Err(bad("an acknowledgement of changes that this node does not have")),
    }
}

/// This node's greeting as a follower.
pub(crate) fn hello(inner: &Inner) -> wire::Hello {
    let store = &inner.store;
    let recordings = store.recordings();
    let open = recordings.open().into_iter().map(|(id, take, _)| wire::OpenRecording {
        recording: recording_to_wire(id),
        take,
        length: here_from_start(store, (id, take)),
    });
    wire::Hello {
        protocol: limits::PROTOCOL,
        cluster: Bytes::copy_from_slice(&inner.config.cluster.to_bytes()),
        name: inner.config.node.to_string(),
        origin: codec::origin_to_wire(store.origin()),
        vector: Some(codec::vector_to_wire(&store.vector())),
        recording: open.collect(),
        lacks_data: lacks_data(store),
        fills_by_state: true,
    }
}

/// A follower's greeting.
pub(crate) fn read_hello(inner: &Inner, certificate: &NodeName, hello: &wire::Hello) -> Result<Hello, StreamError> {
    check_greeting(inner, certificate, hello.protocol, &hello.cluster, &hello.name)?;
    let vector = read_prefixes(hello.vector.as_ref())?;
    check_own(&inner.store, vector.get(inner.store.origin()))?;
    let recordings = hello
        .recording
        .iter()
        .map(|open| Ok((read_take(&open.recording, open.take)?, open.length)))
        .collect::<Result<_, StreamError>>()?;
    let origin = codec::origin_from_wire(&hello.origin).map_err(bad)?;
    let wire::Hello { lacks_data, fills_by_state, .. } = *hello;
    Ok(Hello { origin, vector, recordings, lacks_data, fills_by_state })
}

/// This node's greeting as a source.
pub(crate) fn welcome(inner: &Inner, log_begins: &Vector) -> wire::Welcome {
    wire::Welcome {
        protocol: limits::PROTOCOL,
        cluster: Bytes::copy_from_slice(&inner.config.cluster.to_bytes()),
        name: inner.config.node.to_string(),
        origin: codec::origin_to_wire(inner.store.origin()),
        vector: Some(codec::vector_to_wire(&inner.store.vector())),
        lacks_records: lacks_records(&inner.store),
        log_begins: Some(codec::vector_to_wire(log_begins)),
    }
}

/// This node's first fill is in progress: it is no source for another node's.
pub(crate) fn lacks_records(store: &Store) -> bool {
    !store.filled().has_records()
}

/// This node lacks records, or audio that records name, from before its first fill: it covers no changes for others.
pub(crate) fn lacks_data(store: &Store) -> bool {
    store.filled() < Filled::Complete
}

/// A source's greeting.
pub(crate) fn read_welcome(
    inner: &Inner,
    peer: &NodeName,
    welcome: &wire::Welcome,
) -> Result<Welcome, StreamError> {
    check_greeting(inner, peer, welcome.protocol, &welcome.cluster, &welcome.name)?;
    let vector = read_prefixes(welcome.vector.as_ref())?;
    check_own(&inner.store, vector.get(inner.store.origin()))?;
    let origin = codec::origin_from_wire(&welcome.origin).map_err(bad)?;
    let log_begins = read_prefixes(welcome.log_begins.as_ref())?;
    Ok(Welcome { origin, vector, lacks_records: welcome.lacks_records, log_begins })
}

/// Refuses a number of a change that no store has reached.
pub(crate) fn check_number(number: u64) -> Result<(), StreamError> {
    match number > LAST {
        true => Err(bad("a number of a change that no store has reached")),
        false => Ok(()),
    }
}

/// Prefixes of a peer.
pub(crate) fn read_prefixes(vector: Option<&wire::Vector>) -> Result<Vector, StreamError> {
    let vector = vector.map_or_else(|| Ok(Vector::new()), |vector| codec::vector_from_wire(vector).map_err(bad))?;
    vector.iter().try_for_each(|(_, upto)| check_number(upto))?;
    Ok(vector)
}

/// An acknowledgement of held changes, with the prefixes of the origins that it touches.
pub(crate) fn ack(store: &Store, held: &Holdings) -> wire::Acked {
    let vector = store.vector();
    let mut prefixes = Vector::new();
    let mut run = Vec::new();
    for (origin, seqs) in held.iter() {
        prefixes.raise(origin, vector.get(origin));
        run.push(run_to_wire((origin, seqs)));
    }
    wire::Acked { run, vector: Some(codec::vector_to_wire(&prefixes)) }
}

/// Reads an acknowledgement.
pub(crate) fn acked(acked: wire::Acked) -> Result<(Runs, Vector), StreamError> {
    let run = |run: &wire::Run| {
        let origin = codec::origin_from_wire(&run.origin).map_err(bad)?;
        if run.first == 0 || run.first > run.last {
            return Err(bad("a run that is empty"));
        }
        check_number(run.last)?;
        Ok((origin, run.first..=run.last))
    };
    Ok((acked.run.iter().map(run).collect::<Result<_, _>>()?, read_prefixes(acked.vector.as_ref())?))
}

/// All changes that are durable here at one moment, and the audio that they were applied without; `None` when there are too many
/// gaps for one frame, or a change is set aside: it is in the log, but not in its record, and others may get it from here.
pub(crate) fn report(store: &Store) -> Option<wire::Report> {
    if store.health().set_aside > 0 {
        return None;
    }
    let report = report_all(store)?;
    // After the changes: the note of each of them is among these.
    let lost = store.lost_blobs().ok()?.into_iter().take(limits::REPORTED_AUDIO);
    let lost_audio = lost.map(|blob| Bytes::copy_from_slice(&blob.hash.0)).collect();
    Some(wire::Report { lost_audio, ..report })
}

/// The same, without the changes that are set aside.
pub(crate) fn report_all(store: &Store) -> Option<wire::Report> {
    // Before the holdings: a report that denies a missed member must have the changes of that member. A fill in progress may
    // still end without a member; later answers report its end without a report.
    let fill_missed = lacks_data(store) || !store.fill_missed().is_empty();
    report_of(&Holdings::from(store.applied()), fill_missed)
}

/// A report of these changes; `None` when there are too many gaps for one frame.
pub(crate) fn report_of(holdings: &Holdings, fill_missed: bool) -> Option<wire::Report> {
    let vector = holdings.vector();
    let beyond = holdings.iter().filter(|(origin, seqs)| *seqs.start() > vector.get(*origin));
    let beyond: Vec<_> = beyond.map(run_to_wire).take(limits::REPORTED_RUNS + 1).collect();
    (beyond.len() <= limits::REPORTED_RUNS).then(|| wire::Report {
        vector: Some(codec::vector_to_wire(&vector)),
        beyond,
        fill_missed,
        lost_audio: Vec::new(),
    })
}

fn run_to_wire((origin, seqs): (Origin, RangeInclusive<u64>)) -> wire::Run {
    wire::Run { origin: codec::origin_to_wire(origin), first: *seqs.start(), last: *seqs.end() }
}

/// The audio that changes of a report were applied without.
pub(crate) fn read_lost(report: &wire::Report) -> Result<Vec<BlobHash>, StreamError> {
    if report.lost_audio.len() > limits::REPORTED_AUDIO {
        return Err(bad("too many blobs in a report"));
    }
    report.lost_audio.iter().map(|hash| codec::hash_from_wire(hash).map_err(bad)).collect()
}

/// Reads a report: all changes that the peer has, and whether its first fill missed a member.
pub(crate) fn read_report(report: wire::Report) -> Result<(Holdings, bool), StreamError> {
    let fill_missed = report.fill_missed;
    let (runs, vector) = acked(wire::Acked { run: report.beyond, vector: report.vector })?;
    let mut holdings = Holdings::of(&vector);
    runs.into_iter().for_each(|(origin, seqs)| holdings.add(origin, seqs));
    Ok((holdings, fill_missed))
}

/// Changes for one frame.
#[derive(Default)]
pub(crate) struct Batch {
    changes: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    pub(crate) fn push(&mut self, encoded: Bytes) {
        self.bytes += encoded.len();
        self.changes.push(encoded);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.changes.len() >= limits::FRAME_CHANGES || self.bytes >= limits::FRAME_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        std::mem::take(&mut self.changes)
    }
}

/// Changes from a frame, each with its length there. An unreadable change is set aside (rule R11): it is never acknowledged,
/// so this node shows as behind at the peer until a release that can read the change runs here.
pub(crate) fn changes(
    inner: &Inner,
    peer: &NodeName,
    changes: Vec<Bytes>,
) -> Result<Vec<(Change, usize)>, StreamError> {
    let mut read = Vec::with_capacity(changes.len());
    for bytes in changes {
        match codec::change_from_bytes(&bytes) {
            // The others of its commit would never be all here.
            Ok(change) if change.part.others() > limits::INCOMPLETE as u64 => {
                return Err(bad("a change of a commit that is too large"));
            }
            Ok(change) => {
                check_number(change.seq)?;
                read.push((change, bytes.len()));
            }
            Err(error) => {
                if inner.counters.set_aside.fetch_add(1, Relaxed) == 0 {
                    error!(%peer, %error, "change cannot be decoded; set aside (is the peer of a later release?)");
                }
            }
        }
    }
    Ok(read)
}

pub(crate) fn chunk((id, take): Take, offset: u64, data: Bytes) -> wire::Chunk {
    wire::Chunk { recording: recording_to_wire(id), take, offset, data }
}

/// Reads a chunk. No node sends one without audio: it would begin a take and add nothing to it.
pub(crate) fn read_chunk(chunk: wire::Chunk) -> Result<(Take, u64, Bytes), StreamError> {
    let wire::Chunk { recording, take, offset, data } = chunk;
    if data.is_empty() {
        return Err(bad("a chunk without audio"));
    }
    Ok((read_take(&recording, take)?, offset, data))
}

pub(crate) fn discarded((id, take): Take) -> wire::Discarded {
    wire::Discarded { recording: recording_to_wire(id), take }
}

pub(crate) fn read_take(recording: &[u8], take: u32) -> Result<Take, StreamError> {
    Ok((id("recording id", RecordingId::from_slice, recording)?, take))
}

fn recording_to_wire(id: RecordingId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

/// Bytes of a take in progress that are here from its start without a gap.
pub(crate) fn here_from_start(store: &Store, (id, take): Take) -> u64 {
    store.recordings().coverage(id, take).map_or(0, |ranges| ranges.run_end(0))
}
