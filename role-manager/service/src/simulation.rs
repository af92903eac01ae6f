//! What a simulation does to members that share its thread: rules that are broken on purpose, to see that it would notice
//! (rule P4), and processes that stand still.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A rule that members on this thread break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A new leader waits for no lease of the leader before it (rule R4).
    NewLeaderWait,
    /// A leader that hears nobody goes on extending leases (rule R3).
    Quorum,
    /// A store takes part before another has confirmed that it is the latest (rule R8).
    Confirmation,
}

/// Says whether the process that is at work on this thread stands still; then the waker is used when it goes on. What is
/// kept for a task in `held` is the simulation's own.
pub type Hold = fn(held: &mut Option<Duration>, waker: &Waker) -> bool;

thread_local! {
    static HOLD: Cell<Option<Hold>> = const { Cell::new(None) };
    static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
}

/// From now on members on this thread break this rule.
pub fn break_rule(rule: Broken) {
    BROKEN.set(Some(rule));
}

pub(crate) fn breaks(rule: Broken) -> bool {
    BROKEN.get() == Some(rule)
}

/// From now on tasks of members on this thread go no further while `hold` says so.
pub fn pause_by(hold: Hold) {
    HOLD.set(Some(hold));
}

/// A task that stands still while its process does.
pub struct Pausable<F> {
    held: Option<Duration>,
    task: Pin<Box<F>>,
}

impl<F> Pausable<F> {
    /// The same task, which can be held.
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
