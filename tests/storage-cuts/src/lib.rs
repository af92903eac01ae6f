//! A simulation of the storage of one node, and of a pair: the real store, with its journal, its runs, its recordings and its packs, on one
//! disk that loses power, or whose process is killed, in any call that changes something, also while the store opens.
//!
//! After each end the next process must have all that was acknowledged: each change, and each byte of the audio that was sealed or
//! filed. In a pair an acknowledgement *alone* counts on its node, one *on two* on both. Each planted mistake is found by a violation of the
//! kind that it is meant to cause. A seed determines the calls of the disks, their order and lengths; random identifiers may differ.

#![cfg(feature = "simulated")]

#[path = "../../turmoil/src/chance.rs"]
mod chance;
mod clock;
mod content;
mod finding;
mod history;
mod judge;
mod link;
mod mistake;
mod model;
mod node;

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use tokio::runtime::Builder;

pub use finding::{Finding, FindingKind};
pub use history::Counts;
pub use mistake::Mistake;

use history::History;

/// Randomness is that of the whole process: one history at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Plays the history of a seed with one node or two; the first violation, if there is one.
pub fn play(nodes: usize, seed: u64, mistake: Mistake) -> Result<Counts, Finding> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    chance::seed(seed);
    // On a thread that has used no randomness yet.
    let history = thread::spawn(move || {
        clock::install();
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(History::new(nodes, seed, mistake).play())
    });
    history.join().unwrap_or_else(|_| Err(Finding::unexpected("it panicked")))
}
