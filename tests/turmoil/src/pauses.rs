//! Processes that stand still between two instructions: stopped for a while, or suspended with their machine. The clock runs
//! on; nothing is read, written or decided. When a stopped process goes on, all that would have been due is due at once; in a
//! suspended one what was to happen in so long happens in so long, since timers stood still with it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    task::Waker,
    time::Duration,
};

use crate::clocks;

/// How a process stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is stopped, or starved: the machine goes on around it.
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

/// Who waits for the end of a pause.
struct Asleep {
    machine: usize,
    until: Duration,
    waker: Waker,
}

thread_local! {
    /// The last pause of each machine, or the one that is now.
    static LAST: RefCell<BTreeMap<usize, Pause>> = const { RefCell::new(BTreeMap::new()) };
    /// For how long each machine was suspended before that.
    static SUSPENDED: RefCell<BTreeMap<usize, Duration>> = const { RefCell::new(BTreeMap::new()) };
    /// For whom a pause will come between the check of a write and its sending, and for how long.
    static PLANNED: RefCell<BTreeMap<usize, Duration>> = const { RefCell::new(BTreeMap::new()) };
    static ASLEEP: RefCell<Vec<Asleep>> = const { RefCell::new(Vec::new()) };
    /// Nothing was ever paused: most tasks need not ask.
    static QUIET: Cell<bool> = const { Cell::new(true) };
}

/// Members on this thread stand still when they are told to.
pub fn install() {
    twinbox_roles::simulation::pause_by(hold);
}

/// From now on nothing of this machine's process goes on, for so long.
pub fn begin(machine: usize, length: Duration, kind: Kind) {
    QUIET.set(false);
    end(machine);
    let since = clocks::global();
    let before = LAST.with_borrow_mut(|last| last.insert(machine, Pause { since, until: since + length, kind }));
    let took = before.map_or(Duration::ZERO, |pause| pause.suspended(since));
    SUSPENDED.with_borrow_mut(|all| *all.entry(machine).or_default() += took);
}

/// The process goes on now, or is no more.
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

/// The process goes on now, and nothing is planned for it.
pub fn resume(machine: usize) {
    end(machine);
    planned(machine);
}

/// The next write of this machine is checked, and sent only so long after it.
pub fn plan(machine: usize, length: Duration) {
    PLANNED.with_borrow_mut(|planned| planned.insert(machine, length));
}

/// How long the process stands still between check and sending, if this is such a write.
pub fn planned(machine: usize) -> Option<Duration> {
    PLANNED.with_borrow_mut(|planned| planned.remove(&machine))
}

/// Whether it stands still.
pub fn is_paused(machine: usize) -> bool {
    let now = clocks::global();
    LAST.with_borrow(|last| last.get(&machine).is_some_and(|pause| now < pause.until))
}

/// For how long this machine has been suspended in all.
pub fn suspended(machine: usize, global: Duration) -> Duration {
    let before = SUSPENDED.with_borrow(|all| all.get(&machine).copied().unwrap_or_default());
    let last = LAST.with_borrow(|last| last.get(&machine).copied());
    before + last.map_or(Duration::ZERO, |pause| pause.suspended(global))
}

/// Whoever has stood still for long enough goes on.
pub fn wake() {
    let now = clocks::last();
    let due: Vec<Asleep> =
        ASLEEP.with_borrow_mut(|asleep| asleep.extract_if(.., |asleep| asleep.until <= now).collect());
    due.into_iter().for_each(|asleep| asleep.waker.wake());
}

/// Whether whoever asks stands still. `held` says for how long after the end of the pause it still does.
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
            // It was woken by a timer, which would have had so long to go.
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
