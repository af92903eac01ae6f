//! The media thread: a wheel of four slots, 5 ms each; each session has its slot.
//!
//! The thread visits a session once in 20 ms and takes the packets received since. A play has its own slot and sends
//! one frame per turn. The work of thousands of calls is thus spread over time, and no packet causes a wake-up.

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
    poll_phase::Shift,
    rtp_session::{RtpSession, ThreadContext},
    socket::{Batch, Waker, raise_priority},
};

const SLOTS: usize = 4;
const SLOT: Duration = Duration::from_millis(5);

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
    /// Indices of the sessions to send for, by slot: every playing session once.
    playing: [Vec<usize>; SLOTS],
}

struct SessionSlot {
    session: Box<RtpSession>,
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
        let mut playing = mem::take(&mut self.playing[slot]);
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
        self.playing[slot] = playing;

        let mut receiving = mem::take(&mut self.receiving[slot]);
        receiving.retain(|&at| {
            let Some(entry) = &mut self.sessions[at] else { return false };
            let shift = counting(&mut self.context, entry.session.counted, |context| {
                entry.session.visit(BootInstant::now(), SLOTS as u8, context)
            });
            let to = match shift {
                Shift::Stay => return true,
                Shift::Later => (slot + 1) % SLOTS,
                Shift::Earlier => (slot + SLOTS - 1) % SLOTS,
            };
            self.receiving[to].push(at);
            false
        });
        self.receiving[slot] = receiving;
    }

    /// Executes the queued commands. Returns false when all handles are dropped.
    fn run_commands(&mut self, slot: usize) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command { session, order: Order::Open(opened) }) => self.open(session, opened),
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

    fn open(&mut self, id: u64, session: Box<RtpSession>) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        self.sessions[at] = Some(SessionSlot { session, plays_in: None });
        self.index.insert(id, at);
        if let Some(emptiest) = self.receiving.iter_mut().min_by_key(|slot| slot.len()) {
            emptiest.push(at);
        }
    }

    fn order(&mut self, at: usize, id: u64, order: Order, slot: usize) {
        let Some(SessionSlot { session, plays_in }) = &mut self.sessions[at] else { return };
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
                    *plays_in = Some(slot);
                    self.playing[slot].push(at);
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
                self.receiving
                    .iter_mut()
                    .chain(&mut self.playing)
                    .for_each(|slot| slot.retain(|&other| other != at));
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
