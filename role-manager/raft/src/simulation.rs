//! Control of members that share the simulation's thread: rules broken on purpose, to check that the simulation notices
//! (rule P4), and paused processes.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Rule that members on this thread break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A new leader does not wait for the leases of the leader before (rule R4).
    NewLeaderWait,
    /// A leader without a majority goes on extending leases (rule R3).
    Quorum,
    /// A store takes part before a majority has confirmed that it is the latest (rule R8).
    Confirmation,
}

/// Returns whether the process that runs on this thread is paused; the waker is used when it resumes. `held` stores the
/// simulation's own data for a task.
pub type Hold = fn(held: &mut Option<Duration>, waker: &Waker) -> bool;

thread_local! {
    static HOLD: Cell<Option<Hold>> = const { Cell::new(None) };
    static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
}

/// Makes members on this thread break this rule from now on.
pub fn break_rule(rule: Broken) {
    BROKEN.set(Some(rule));
}

/// Whether members on this thread break this rule.
pub fn breaks(rule: Broken) -> bool {
    BROKEN.get() == Some(rule)
}

/// Pauses tasks of members on this thread while `hold` returns true.
pub fn pause_by(hold: Hold) {
    HOLD.set(Some(hold));
}

/// A task that pauses while its process does.
pub struct Pausable<F> {
    held: Option<Duration>,
    task: Pin<Box<F>>,
}

impl<F> Pausable<F> {
    /// The same task, made pausable.
    pub fn new(task: F) -> Self {
        Self { held: None, task: Box::pin(task) }
    }
}

impl<F: Future> Future for Pausable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match HOLD.get() {
            Some(hold) if hold(&mut self.held, cx.waker()) => Poll::Pending,
            _ => self.task.as_mut().poll(cx),
        }
    }
}
