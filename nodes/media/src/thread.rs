//! The media thread: a wheel of sixteen slots, 5 ms each; each session waits in the slot of its next visit.
//!
//! A visit takes the packets received since the last one: 20 ms later, or 80 ms while the session only records ([`RtpSession::visit`]). A
//! play has its own slot and sends one frame in 20 ms. The work of thousands of calls is thus spread over time, and no packet causes a
//! wake-up.

use std::{
    collections::HashMap,
    io, mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, TryRecvError},
    },
    thread::JoinHandle,
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::{
    Clip, MediaError, MediaStats, RecordSpec, Remote,
    rtp_session::{RtpSession, ThreadContext},
    socket::{Batch, Waker, raise_priority},
};

/// Slots of the wheel: one turn lasts 80 ms, the longest time between two visits.
pub(crate) const SLOTS: usize = 16;
/// Slots of 20 ms: the time between two frames.
pub(crate) const FRAME_SLOTS: usize = 4;
pub(crate) const SLOT: Duration = Duration::from_millis(5);

/// With a greater delay the wheel restarts instead of catching up: the machine was suspended or overloaded.
const LOST: Duration = Duration::from_millis(200);

/// Turn interval of a thread without sessions. Distinguishes an idle thread from one that hangs.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A thread whose wheel has not turned for this time is stuck.
const STUCK: Duration = Duration::from_secs(1);

/// Order to a session.
pub(crate) struct Command {
    pub(crate) session: u64,
    pub(crate) order: Order,
}

pub(crate) enum Order {
    Open(Box<RtpSession>),
    SetRemote(Remote),
    Play(u64, Vec<Clip>),
    StopPlay,
    Record(RecordSpec),
    StopRecord,
    Close,
}

/// Handle of a media thread, held by the engine and by sessions. The thread ends when the last handle is dropped.
pub(crate) struct ThreadHandle {
    /// `None` only while being dropped.
    commands: Option<mpsc::Sender<Command>>,
    waker: Arc<Waker>,
    pub(crate) sessions: AtomicUsize,
    stats: Arc<Mutex<MediaStats>>,
    thread: JoinHandle<()>,
    /// Time of the last turn of the wheel, in nanoseconds since boot.
    turned: Arc<AtomicU64>,
}

impl ThreadHandle {
    pub(crate) fn spawn(index: usize, media_timeout: Duration) -> Result<Arc<Self>, MediaError> {
        let failed = |what: &str, source: io::Error| MediaError::Io { what: what.to_owned(), source };
        let waker = Arc::new(Waker::new().map_err(|e| failed("making an event descriptor", e))?);
        let (commands, queue) = mpsc::channel();
        let stats = Arc::new(Mutex::new(MediaStats::default()));
        let turned = Arc::new(AtomicU64::new(BootInstant::now().as_nanos()));
        let thread = Thread {
            commands: queue,
            waker: waker.clone(),
            published: stats.clone(),
            turned: turned.clone(),
            context: ThreadContext { batch: Batch::new(), stats: MediaStats::default(), media_timeout },
            sessions: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            receiving: Default::default(),
            visited: Vec::new(),
            playing: Default::default(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("media-{index}"))
            .spawn(move || thread.run())
            .map_err(|e| failed("starting a media thread", e))?;
        Ok(Arc::new(Self { commands: Some(commands), waker, sessions: AtomicUsize::new(0), stats, thread, turned }))
    }

    pub(crate) fn send(&self, command: Command) {
        match command.order {
            Order::Open(_) => _ = self.sessions.fetch_add(1, Relaxed),
            Order::Close => _ = self.sessions.fetch_sub(1, Relaxed),
            _ => {}
        }
        // Sending fails only if the thread has panicked; its sessions are then lost, and their event channels closed.
        if self.commands.as_ref().is_some_and(|c| c.send(command).is_ok()) {
            self.waker.wake();
        }
    }

    /// Whether the thread has not panicked.
    pub(crate) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Whether the thread turns its wheel in time.
    pub(crate) fn is_turning(&self) -> bool {
        self.stalled_for() < STUCK
    }

    /// Time since the last turn of the wheel.
    pub(crate) fn stalled_for(&self) -> Duration {
        BootInstant::from_nanos(self.turned.load(Relaxed)).elapsed()
    }

    pub(crate) fn stats(&self) -> MediaStats {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stats.sessions = self.sessions.load(Relaxed);
        stats
    }
}

impl Drop for ThreadHandle {
    fn drop(&mut self) {
        self.commands = None;
        self.waker.wake();
    }
}

struct Thread {
    commands: mpsc::Receiver<Command>,
    waker: Arc<Waker>,
    published: Arc<Mutex<MediaStats>>,
    turned: Arc<AtomicU64>,
    context: ThreadContext,
    /// Sessions by index; an empty index is in `free`.
    sessions: Vec<Option<SessionSlot>>,
    free: Vec<usize>,
    index: HashMap<u64, usize>,
    /// Indices of the sessions to visit, by slot: every session once.
    receiving: [Vec<usize>; SLOTS],
    /// Empty: the room of the list that the next slot to visit gets in place of its own.
    visited: Vec<usize>,
    /// Indices of the sessions to send for, by slot modulo [`FRAME_SLOTS`]: every playing session once.
    playing: [Vec<usize>; FRAME_SLOTS],
}

struct SessionSlot {
    session: Box<RtpSession>,
    /// Slot of `receiving` that contains this session.
    waits_in: usize,
    /// Slot of `playing` that contains this session.
    plays_in: Option<usize>,
}

impl Thread {
    fn run(mut self) {
        raise_priority();
        let mut slot = 0;
        let mut next = BootInstant::now() + SLOT;
        loop {
            if self.index.is_empty() {
                self.publish();
                self.waker.wait(Some(HEARTBEAT));
                next = BootInstant::now();
            }
            let wait = next.since(BootInstant::now());
            if !wait.is_zero() {
                self.waker.wait(Some(wait));
            }
            if !self.run_commands(slot) {
                return;
            }
            let now = BootInstant::now();
            if now < next {
                continue;
            }
            self.turned.store(now.as_nanos(), Relaxed);
            self.turn(slot, next);
            self.publish();
            slot = (slot + 1) % SLOTS;
            next = if now.since(next) > LOST { now + SLOT } else { next + SLOT };
        }
    }

    /// Does the work of the slot, due at `due`.
    fn turn(&mut self, slot: usize, due: BootInstant) {
        let plays = slot % FRAME_SLOTS;
        let mut playing = mem::take(&mut self.playing[plays]);
        playing.retain(|&at| {
            let Some(entry) = &mut self.sessions[at] else { return false };
            let goes_on = counting(&mut self.context, entry.session.counted, |context| {
                entry.session.play_frame(due, &mut context.stats)
            });
            if !goes_on {
                entry.plays_in = None;
            }
            goes_on
        });
        self.playing[plays] = playing;

        let mut receiving = mem::replace(&mut self.receiving[slot], mem::take(&mut self.visited));
        for at in receiving.drain(..) {
            let Some(entry) = &mut self.sessions[at] else { continue };
            let pause = counting(&mut self.context, entry.session.counted, |context| {
                entry.session.visit(BootInstant::now(), context)
            });
            entry.waits_in = (slot + pause) % SLOTS;
            self.receiving[entry.waits_in].push(at);
        }
        self.visited = receiving;
    }

    /// Executes the queued commands. Returns false when all handles are dropped.
    fn run_commands(&mut self, slot: usize) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command { session, order: Order::Open(opened) }) => self.open(session, opened, slot),
                Ok(Command { session, order }) => {
                    if let Some(&at) = self.index.get(&session) {
                        self.order(at, session, order, slot);
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn open(&mut self, id: u64, session: Box<RtpSession>, slot: usize) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        // The emptiest of those that are visited within 20 ms.
        let soon = (0..FRAME_SLOTS).map(|later| (slot + later) % SLOTS);
        let waits_in = soon.min_by_key(|&slot| self.receiving[slot].len()).unwrap_or(slot);
        self.sessions[at] = Some(SessionSlot { session, waits_in, plays_in: None });
        self.receiving[waits_in].push(at);
        self.index.insert(id, at);
    }

    fn order(&mut self, at: usize, id: u64, order: Order, slot: usize) {
        let Some(SessionSlot { session, waits_in, plays_in }) = &mut self.sessions[at] else { return };
        let now = BootInstant::now();
        let context = &mut self.context;
        if !matches!(order, Order::Play(..) | Order::StopPlay) {
            counting(context, session.counted, |context| session.catch_up(now, context));
        }
        match order {
            Order::Open(_) => {}
            Order::SetRemote(remote) => session.set_remote(now, remote),
            Order::Play(play, clips) => {
                session.play(play, clips);
                if plays_in.is_none() {
                    let plays = slot % FRAME_SLOTS;
                    *plays_in = Some(plays);
                    self.playing[plays].push(at);
                }
            }
            Order::StopPlay => {
                session.stop_play();
                if let Some(slot) = plays_in.take() {
                    self.playing[slot].retain(|&other| other != at);
                }
            }
            Order::Record(spec) => session.record(now, spec, &mut context.stats),
            Order::StopRecord => session.stop_record(&mut context.stats),
            Order::Close => {
                counting(context, session.counted, |context| session.close(now, &mut context.stats));
                self.index.remove(&id);
                self.receiving[*waits_in].retain(|&other| other != at);
                if let Some(slot) = plays_in {
                    self.playing[*slot].retain(|&other| other != at);
                }
                self.sessions[at] = None;
                self.free.push(at);
            }
        }
    }

    fn publish(&self) {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.context.stats);
    }
}

/// Runs `act` for a session; keeps the changes to the totals only if the session counts.
fn counting<T>(context: &mut ThreadContext, counted: bool, act: impl FnOnce(&mut ThreadContext) -> T) -> T {
    if counted {
        return act(context);
    }
    let before = context.stats.clone();
    let done = act(context);
    context.stats = before;
    done
}
