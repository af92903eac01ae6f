//! Recordings in progress, fed by one thread as a media thread feeds them: each gets a chunk of 2,000 bytes every
//! quarter of a second, ends after a set number of chunks, is filed, and the next one takes its place.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use bytes::Bytes;
use tokio::runtime::Handle;
use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::{LiveRecording, Mailstore};
use twinbox_store_kit::meta;
use twinbox_testkit::wait_until;

use crate::{
    machine,
    population::{self, CHUNK, Written},
};

/// Pause between two rounds of the generator.
const STEP: Duration = Duration::from_millis(5);
/// Rounds in the length of a chunk: a recording gets a chunk in one of them.
const STEPS: usize = 50;
/// A first recording has at least this many chunks: a shorter one would be no message.
const LEAST_CHUNKS: u32 = 8;

impl Plan {
    /// Time after which all of the first recordings have ended.
    pub fn warm_up(&self) -> Duration {
        STEP * STEPS as u32 * (LEAST_CHUNKS + self.chunks)
    }
}

/// The crowd to be kept recording.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Recordings at once.
    pub recordings: usize,
    /// Chunks of each.
    pub chunks: u32,
}

/// A recording that was filed, or not.
pub struct Deposit {
    /// The message; the error if it was not filed, or not as a whole.
    pub outcome: Result<Written, String>,
    /// Time from the end of the recording to its acknowledgement.
    pub took: Duration,
    /// Time of the acknowledgement.
    pub at: BootInstant,
}

/// The crowd, until it is stopped.
pub struct Recorders {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    /// Thread id of the generator; 0 before it runs.
    thread: AtomicU32,
    deposits: Mutex<Vec<Deposit>>,
    /// Recordings that are being filed.
    ending: AtomicUsize,
    /// Maximum lateness of the generator in microseconds since it was last taken.
    late_us: AtomicUsize,
}

/// One recording of the crowd; none while the next one is beginning.
#[derive(Default)]
struct Slot {
    live: Option<LiveRecording>,
    audio: Bytes,
    offset: usize,
}

/// A recording that has begun, and its slot.
type Begun = (usize, LiveRecording);

struct Generator {
    shared: Arc<Shared>,
    runtime: Handle,
    mailstore: Mailstore,
    mailboxes: Vec<MailboxId>,
    plan: Plan,
    slots: Vec<Slot>,
    begun: (mpsc::Sender<Begun>, mpsc::Receiver<Begun>),
    count: u64,
    /// Audio of all messages, but for the first chunk of each.
    speech: Bytes,
}

impl Recorders {
    /// Starts the crowd. Its commits run on `runtime`; the generator is a thread of its own, on core `pinned` if given.
    pub fn start(
        runtime: &Handle,
        mailstore: &Mailstore,
        mailboxes: &[MailboxId],
        plan: Plan,
        pinned: Option<usize>,
    ) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            thread: AtomicU32::new(0),
            deposits: Mutex::default(),
            ending: AtomicUsize::new(0),
            late_us: AtomicUsize::new(0),
        });
        let generator = Generator {
            shared: Arc::clone(&shared),
            runtime: runtime.clone(),
            mailstore: mailstore.clone(),
            mailboxes: mailboxes.to_vec(),
            plan,
            slots: (0..plan.recordings).map(|_| Slot::default()).collect(),
            begun: mpsc::channel(),
            count: 0,
            speech: population::audio(0, (LEAST_CHUNKS + plan.chunks) as usize * CHUNK),
        };
        let told = Arc::clone(&shared);
        let run = move || {
            if let Some(core) = pinned {
                machine::pin(0, core);
                machine::prefer();
            }
            // SAFETY: gettid takes nothing and touches no memory.
            told.thread.store(unsafe { libc::gettid() } as u32, Relaxed);
            generator.run();
        };
        let thread = thread::Builder::new().name("generator".to_owned()).spawn(run).expect("a thread starts");
        wait_until("the generator to run", Duration::from_secs(5), || shared.thread.load(Relaxed) != 0);
        Self { shared, thread: Some(thread) }
    }

    /// Processor time of the generator's thread so far.
    pub fn generator_time(&self) -> Duration {
        machine::cpu_time(&format!("/proc/self/task/{}/stat", self.shared.thread.load(Relaxed)))
    }

    /// The deposits since the last call.
    pub fn take(&self) -> Vec<Deposit> {
        std::mem::take(&mut *self.shared.deposits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Maximum lateness of the generator since the last call.
    pub fn take_late(&self) -> Duration {
        Duration::from_micros(self.shared.late_us.swap(0, Relaxed) as u64)
    }

    /// Ends the crowd: recordings in progress are left, those that have ended are filed. Returns the last deposits.
    pub fn finish(mut self) -> Vec<Deposit> {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the generator ends");
        }
        wait_until("the last recordings to be filed", Duration::from_secs(60), || {
            self.shared.ending.load(Relaxed) == 0
        });
        self.take()
    }
}

impl Shared {
    /// Notes a deposit that ends now.
    fn note(&self, outcome: Result<Written, String>, begun: BootInstant) {
        let at = BootInstant::now();
        let deposit = Deposit { outcome, took: at.since(begun), at };
        self.deposits.lock().unwrap_or_else(PoisonError::into_inner).push(deposit);
    }
}

impl Generator {
    fn run(mut self) {
        for slot in 0..self.plan.recordings {
            self.begin(slot);
        }
        let (begun, mut step) = (BootInstant::now(), 0_u32);
        while !self.shared.stop.load(Relaxed) {
            let (now, due) = (BootInstant::now(), begun + STEP * step);
            if now < due {
                sleep(due.since(now));
                continue;
            }
            self.shared.late_us.fetch_max(now.since(due).as_micros() as usize, Relaxed);
            while let Ok((slot, live)) = self.begun.1.try_recv() {
                self.record(slot, live);
            }
            for slot in (step as usize % STEPS..self.slots.len()).step_by(STEPS) {
                self.speak(slot);
            }
            step += 1;
        }
    }

    /// Begins the next recording of a slot.
    fn begin(&self, slot: usize) {
        let (mailstore, begun, shared) = (self.mailstore.clone(), self.begun.0.clone(), Arc::clone(&self.shared));
        let mailbox = self.mailboxes[slot % self.mailboxes.len()];
        let asked = BootInstant::now();
        self.runtime.spawn(async move {
            match mailstore.begin_recording(meta(mailbox)).await {
                // A generator that has ended takes no more.
                Ok(live) => drop(begun.send((slot, live))),
                Err(error) => shared.note(Err(error.to_string()), asked),
            }
        });
    }

    fn record(&mut self, slot: usize, live: LiveRecording) {
        let Plan { recordings, chunks } = self.plan;
        self.count += 1;
        // The first recordings are of all lengths, so that as many end in each moment from then on.
        let chunks = match self.count as usize <= recordings {
            true => (LEAST_CHUNKS + (slot as u64 * u64::from(chunks) / recordings as u64) as u32) as usize,
            false => chunks as usize,
        };
        let first = population::audio(self.count, CHUNK);
        let this = &mut self.slots[slot];
        this.audio = self.speech.slice(..chunks * CHUNK);
        // Its first chunk names it.
        this.offset = CHUNK;
        let _ = live.append(0, first);
        this.live = Some(live);
    }

    fn speak(&mut self, slot: usize) {
        let this = &mut self.slots[slot];
        let Some(live) = &this.live else { return };
        if this.offset < this.audio.len() {
            let chunk = this.audio.slice(this.offset..this.offset + CHUNK);
            // A refused chunk makes the message a partial one, which counts as lost.
            let _ = live.append(this.offset as u64, chunk);
            this.offset += CHUNK;
            return;
        }
        let bytes = this.audio.len();
        if let Some(live) = this.live.take() {
            self.file(live, self.mailboxes[slot % self.mailboxes.len()], bytes);
        }
        self.begin(slot);
    }

    fn file(&self, live: LiveRecording, mailbox: MailboxId, bytes: usize) {
        let shared = Arc::clone(&self.shared);
        shared.ending.fetch_add(1, Relaxed);
        let ended = BootInstant::now();
        self.runtime.spawn(async move {
            let outcome = match live.file().await {
                Ok(filed) if filed.whole => Ok(Written { mailbox, message: filed.message, bytes }),
                Ok(_) => Err("a part of the audio was lost".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            shared.note(outcome, ended);
            shared.ending.fetch_sub(1, Relaxed);
        });
    }
}
