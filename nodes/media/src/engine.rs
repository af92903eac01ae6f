//! Handle of the media engine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use twinbox_clock::BootInstant;

use crate::{
    MediaConfig, MediaError, MediaEvent, MediaHealth, MediaStats, Session,
    ports::Ports,
    rtp_session::RtpSession,
    thread::{Command, Order, ThreadHandle},
};

/// The media engine. Clones share it. Its threads end when the last clone and the last session are dropped.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: MediaConfig,
    ports: Ports,
    threads: Vec<Arc<ThreadHandle>>,
    next_session: AtomicU64,
}

impl Engine {
    /// Starts the media threads.
    pub fn start(config: MediaConfig) -> Result<Self, MediaError> {
        let ports = Ports::new(config.ports.clone())?;
        if config.threads == 0 {
            return Err(MediaError::Config {
                problem: "there are no media threads".to_owned(),
                remedy: "give at least one",
            });
        }
        let threads =
            (0..config.threads).map(|i| ThreadHandle::spawn(i, config.media_timeout)).collect::<Result<_, _>>()?;
        Ok(Self { inner: Arc::new(Inner { config, ports, threads, next_session: AtomicU64::new(0) }) })
    }

    /// Opens a session on a free pair of ports. The session sends its events to `events`, whose channel should have
    /// room for a few: the media thread does not wait for the receiver and drops digits beyond 64 pending events.
    ///
    /// Chooses the thread with the fewest sessions, never a thread that has panicked, and a stuck thread only if all
    /// are stuck.
    pub fn open(&self, events: mpsc::Sender<MediaEvent>) -> Result<Session, MediaError> {
        self.open_session(events, true)
    }

    /// Like [`Self::open`], but the session's traffic is excluded from [`Self::stats`]: for self-test calls.
    pub fn open_uncounted(&self, events: mpsc::Sender<MediaEvent>) -> Result<Session, MediaError> {
        self.open_session(events, false)
    }

    fn open_session(&self, events: mpsc::Sender<MediaEvent>, counted: bool) -> Result<Session, MediaError> {
        let inner = &self.inner;
        let running = inner.threads.iter().filter(|t| t.is_running());
        let thread =
            running.min_by_key(|t| (!t.is_turning(), t.sessions.load(Relaxed))).ok_or(MediaError::Stopped)?;
        let pair = inner.ports.bind(inner.config.bind, inner.config.dscp)?;
        let session = Session {
            id: inner.next_session.fetch_add(1, Relaxed),
            port: pair.reserved.port(),
            thread: thread.clone(),
            counters: Arc::default(),
        };
        let mut rtp = RtpSession::new(pair, events, session.counters.clone(), BootInstant::now());
        rtp.counted = counted;
        thread.send(Command { session: session.id, order: Order::Open(Box::new(rtp)) });
        Ok(session)
    }

    /// Reports whether all threads run and serve their sessions in time.
    pub fn health(&self) -> MediaHealth {
        let fault = self.inner.threads.iter().enumerate().find_map(|(i, thread)| match () {
            () if !thread.is_running() => Some(format!("media thread {i} has panicked: restart the process")),
            () if !thread.is_turning() => Some(format!(
                "media thread {i} is stuck: its calls have no audio; restart the process if it stays stuck"
            )),
            () => None,
        });
        MediaHealth { ok: fault.is_none(), detail: fault.unwrap_or_default() }
    }

    /// Longest time since a media thread last turned its wheel: some milliseconds while calls are in progress, up to
    /// half a second without calls. Grows without limit if a thread hangs or has ended.
    pub fn stalled_for(&self) -> Duration {
        self.inner.threads.iter().map(|thread| thread.stalled_for()).max().unwrap_or_default()
    }

    /// Totals since the start, at most 5 ms old.
    pub fn stats(&self) -> MediaStats {
        let mut total = MediaStats::default();
        for thread in &self.inner.threads {
            total.merge(&thread.stats());
        }
        total
    }
}

/// Returns a function: the 99th percentile of the time for which packets waited since its previous call.
pub fn recent_lateness(engine: Engine) -> impl FnMut() -> Option<Duration> {
    let mut before = engine.stats().lateness;
    move || {
        let now = engine.stats().lateness;
        let late = now.since(&before).percentile(0.99);
        before = now;
        late
    }
}
