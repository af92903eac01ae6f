//! Processes that pause between two instructions: stopped for a while, or suspended with their machine. The clock
//! continues; nothing is read, written or decided. When a stopped process continues, all timers that expired meanwhile
//! are due immediately; in a suspended one each timer still has its remaining time, since timers stopped too.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    task::Waker,
    time::Duration,
};

use crate::clocks;

/// Kind of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The process is stopped, or starved: the machine continues.
    Stopped,
    /// Its machine is suspended.
    Suspended,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    since: Duration,
    until: Duration,
    kind: Kind,
}

impl Pause {
    fn suspended(self, now: Duration) -> Duration {
        match self.kind {
            Kind::Stopped => Duration::ZERO,
            Kind::Suspended => now.min(self.until).saturating_sub(self.since),
        }
    }
}

/// A task that waits for the end of a pause.
struct Asleep {
    machine: usize,
    until: Duration,
    waker: Waker,
}

thread_local! {
    /// The last or present pause of each machine.
    static LAST: RefCell<BTreeMap<usize, Pause>> = const { RefCell::new(BTreeMap::new()) };
    /// Total time of each machine's earlier suspensions.
    static SUSPENDED: RefCell<BTreeMap<usize, Duration>> = const { RefCell::new(BTreeMap::new()) };
    /// The planned pause between the check of a write and its sending, by machine.
    static PLANNED: RefCell<BTreeMap<usize, Duration>> = const { RefCell::new(BTreeMap::new()) };
    static ASLEEP: RefCell<Vec<Asleep>> = const { RefCell::new(Vec::new()) };
    /// No process was ever paused: most tasks need no check.
    static QUIET: Cell<bool> = const { Cell::new(true) };
}

/// Makes members on this thread pause when requested.
pub fn install() {
    twinbox_roles::simulation::pause_by(hold);
}

/// Pauses this machine's process from now on, for `length`.
pub fn begin(machine: usize, length: Duration, kind: Kind) {
    QUIET.set(false);
    end(machine);
    let since = clocks::global();
    let before = LAST.with_borrow_mut(|last| last.insert(machine, Pause { since, until: since + length, kind }));
    let took = before.map_or(Duration::ZERO, |pause| pause.suspended(since));
    SUSPENDED.with_borrow_mut(|all| *all.entry(machine).or_default() += took);
}

/// Ends the pause of the process, because it continues or has exited.
pub fn end(machine: usize) {
    let now = clocks::global();
    LAST.with_borrow_mut(|last| {
        if let Some(pause) = last.get_mut(&machine) {
            pause.until = pause.until.min(now);
        }
    });
    ASLEEP.with_borrow_mut(|asleep| {
        asleep.iter_mut().filter(|asleep| asleep.machine == machine).for_each(|asleep| asleep.until = now);
    });
}

/// Ends the pause of the process, and removes its planned one.
pub fn resume(machine: usize) {
    end(machine);
    planned(machine);
}

/// Plans a pause of this length after the check of this machine's next write.
pub fn plan(machine: usize, length: Duration) {
    PLANNED.with_borrow_mut(|planned| planned.insert(machine, length));
}

/// The planned pause between check and sending, if this write has one.
pub fn planned(machine: usize) -> Option<Duration> {
    PLANNED.with_borrow_mut(|planned| planned.remove(&machine))
}

/// Whether the process is paused.
pub fn is_paused(machine: usize) -> bool {
    let now = clocks::global();
    LAST.with_borrow(|last| last.get(&machine).is_some_and(|pause| now < pause.until))
}

/// Total time for which this machine has been suspended.
pub fn suspended(machine: usize, global: Duration) -> Duration {
    let before = SUSPENDED.with_borrow(|all| all.get(&machine).copied().unwrap_or_default());
    let last = LAST.with_borrow(|last| last.get(&machine).copied());
    before + last.map_or(Duration::ZERO, |pause| pause.suspended(global))
}

/// Wakes the processes whose pause has ended.
pub fn wake() {
    let now = clocks::last();
    let due: Vec<Asleep> =
        ASLEEP.with_borrow_mut(|asleep| asleep.extract_if(.., |asleep| asleep.until <= now).collect());
    due.into_iter().for_each(|asleep| asleep.waker.wake());
}

/// Whether the calling task is paused. `held` stores the time for which it stays paused after the end of the pause.
pub fn hold(held: &mut Option<Duration>, waker: &Waker) -> bool {
    if QUIET.get() {
        return false;
    }
    let global = clocks::global();
    let Some(machine) = clocks::machine() else { return false };
    let Some(pause) = LAST.with_borrow(|last| last.get(&machine).copied()) else { return false };
    if held.is_none() && global < pause.until {
        *held = Some(match pause.kind {
            Kind::Stopped => Duration::ZERO,
            // It was woken by a timer, which would have had this much time left.
            Kind::Suspended => global - pause.since,
        });
    }
    match held.map(|after| pause.until + after).filter(|until| global < *until) {
        Some(until) => {
            ASLEEP.with_borrow_mut(|asleep| asleep.push(Asleep { machine, until, waker: waker.clone() }));
            true
        }
        None => {
            *held = None;
            false
        }
    }
}
