//! Timers of the SIP server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::time::Instant as PausedInstant;

use super::*;

/// Simulated timers of a transaction layer, on tokio's clock, which the tests advance.
struct Layer {
    timers: Timers,
    began: PausedInstant,
    /// Number of timers due at each millisecond.
    due: Mutex<BTreeMap<u64, u32>>,
    passes: Mutex<u64>,
    fired: Mutex<Vec<u64>>,
}

impl Layer {
    #[allow(clippy::disallowed_methods, reason = "tokio's paused clock, not the system clock")]
    fn start() -> Arc<Self> {
        let layer = Arc::new(Self {
            timers: Timers::default(),
            began: PausedInstant::now(),
            due: Mutex::default(),
            passes: Mutex::default(),
            fired: Mutex::default(),
        });
        let looped = layer.clone();
        tokio::spawn(
            async move { looped.timers.run(|| looped.now(), || looped.pass(), || looped.next_due()).await },
        );
        layer
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn next_due(&self) -> Option<u64> {
        self.due.lock().unwrap().keys().next().copied()
    }

    fn arm(&self, after: u64) {
        *self.due.lock().unwrap().entry(self.now() + after).or_default() += 1;
        self.timers.changed(self.next_due());
    }

    /// Like the SIP server: each pass ends with a call of `changed`.
    fn pass(&self) {
        *self.passes.lock().unwrap() += 1;
        let now = self.now();
        let mut due = self.due.lock().unwrap();
        while let Some(entry) = due.first_entry().filter(|entry| *entry.key() <= now) {
            let late = now - *entry.key();
            self.fired.lock().unwrap().extend(std::iter::repeat_n(late, entry.remove() as usize));
        }
        drop(due);
        self.timers.changed(self.next_due());
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_fifty_passes_per_second_under_load() {
    let layer = Layer::start();
    // 100 calls per second for ten seconds, each with the timers of an INVITE, its 200, and its BYE.
    for call in 0..1_000 {
        for after in [1, 5, 15, 200, 500, 1_000, 5_000, 32_000] {
            layer.arm(after + call % 7);
        }
        sleep(Duration::from_millis(10)).await;
    }
    let passes = *layer.passes.lock().unwrap();
    assert!((300..=500).contains(&passes), "{passes} passes in ten seconds");
    sleep(Duration::from_secs(60)).await;
    let fired = layer.fired.lock().unwrap();
    assert_eq!(fired.len(), 8_000);
    let latest = fired.iter().max().copied().unwrap_or_default();
    assert!(latest <= 40, "a timer ran {latest} ms late");
}

#[tokio::test(start_paused = true)]
async fn loop_sleeps_without_timers_and_wakes_for_an_earlier_one() {
    let layer = Layer::start();
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(*layer.passes.lock().unwrap(), 1);
    layer.arm(32_000);
    sleep(Duration::from_secs(1)).await;
    layer.arm(500);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*layer.fired.lock().unwrap(), [0], "the timer of 500 ms ran in time");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(layer.fired.lock().unwrap().len(), 2);
    assert!(*layer.passes.lock().unwrap() <= 6);
}
