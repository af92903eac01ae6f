//! A queue to a thread that works in batches: it hands over all that waits in one piece, gathers what may wait, and lets no caller wait
//! for that.

use std::{
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Items for which memory is kept from batch to batch.
const KEPT: usize = 1_024;

/// The side of the senders. Dropping it closes the queue.
pub struct Queue<T>(Arc<Inner<T>>);

/// The side of the thread. Dropping it drops what waits, and fails what is sent later.
pub struct Batches<T>(Arc<Inner<T>>);

/// The thread that took from a queue has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread behind the queue has ended")]
pub struct Ended;

struct Inner<T> {
    /// Time for which items are gathered.
    gathers: Duration,
    queued: Mutex<Queued<T>>,
    changed: Condvar,
}

struct Queued<T> {
    /// In the order in which they came.
    items: Vec<T>,
    /// A caller waits for one of them.
    is_awaited: bool,
    wakes: Wakes,
    closed: bool,
}

/// The items that wake the thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wakes {
    /// None: it works, or has been woken.
    Nothing,
    Any,
    Awaited,
}

impl<T> Queue<T> {
    /// A queue whose items may wait for `gathers`, unless a caller waits for one of them.
    pub fn new(gathers: Duration) -> (Self, Batches<T>) {
        let queued = Queued { items: Vec::new(), is_awaited: false, wakes: Wakes::Nothing, closed: false };
        let inner = Arc::new(Inner { gathers, queued: Mutex::new(queued), changed: Condvar::new() });
        (Self(Arc::clone(&inner)), Batches(inner))
    }

    /// Queues an item, behind those that were sent before. Locks for some instructions: for threads of media too.
    pub fn send(&self, item: T, is_awaited: bool) -> Result<(), Ended> {
        let mut queued = self.0.queued();
        if queued.closed {
            return Err(Ended);
        }
        queued.items.push(item);
        queued.is_awaited |= is_awaited;
        let wakes = match queued.wakes {
            Wakes::Nothing => false,
            Wakes::Any => true,
            Wakes::Awaited => queued.is_awaited,
        };
        if wakes {
            queued.wakes = Wakes::Nothing;
            drop(queued);
            self.0.changed.notify_one();
        }
        Ok(())
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Batches<T> {
    /// Replaces `batch` by the items that came since the last call, in order. Waits for one, and gathers those that follow it; without
    /// any, the batch is empty after `idle`. False when the queue is closed and everything was taken.
    pub fn take(&self, idle: Duration, batch: &mut Vec<T>) -> bool {
        batch.clear();
        batch.shrink_to(KEPT);
        let queued = self.0.queued();
        let queued = self.0.wait(queued, Wakes::Any, idle, |queued| queued.items.is_empty());
        let gathers = if queued.items.is_empty() { Duration::ZERO } else { self.0.gathers };
        let mut queued = self.0.wait(queued, Wakes::Awaited, gathers, |queued| !queued.is_awaited);
        mem::swap(&mut queued.items, batch);
        queued.is_awaited = false;
        !(queued.closed && batch.is_empty())
    }
}

impl<T> Drop for Batches<T> {
    fn drop(&mut self) {
        self.0.close();
        let items = mem::take(&mut self.0.queued().items);
        // Outside of the lock: their callers learn that there is no answer.
        drop(items);
    }
}

impl<T> Inner<T> {
    fn queued(&self) -> MutexGuard<'_, Queued<T>> {
        // Each change of it is complete before the lock is released.
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at most for this time: while the queue is open, `waits`, and nothing of that kind wakes the thread.
    fn wait<'a>(
        &'a self,
        mut queued: MutexGuard<'a, Queued<T>>,
        wakes: Wakes,
        most: Duration,
        waits: impl Fn(&Queued<T>) -> bool,
    ) -> MutexGuard<'a, Queued<T>> {
        if most.is_zero() || queued.closed || !waits(&queued) {
            return queued;
        }
        queued.wakes = wakes;
        let waited = self.changed.wait_timeout_while(queued, most, |queued| !queued.closed && waits(queued));
        let (mut queued, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queued.wakes = Wakes::Nothing;
        queued
    }

    fn close(&self) {
        self.queued().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn items_that_wait_are_handed_over_together_and_in_order() {
        let (queue, batches) = Queue::new(LONG);
        let mut batch = Vec::new();
        assert!(batches.take(Duration::ZERO, &mut batch) && batch.is_empty(), "it is open, and has nothing");
        for (item, is_awaited) in [(1, false), (2, true), (3, false), (4, false)] {
            queue.send(item, is_awaited).unwrap();
        }
        assert!(batches.take(LONG, &mut batch));
        assert_eq!(batch, [1, 2, 3, 4]);
        // Nothing is left of the batch before, nor of its urgency.
        queue.send(5, false).unwrap();
        let closing = thread::spawn(move || queue.send(6, true).unwrap());
        assert!(batches.take(LONG, &mut batch));
        assert_eq!(batch, [5, 6], "gathered, until a caller waits");
        closing.join().unwrap();
        assert!(!batches.take(LONG, &mut batch) && batch.is_empty(), "a close wakes the thread");
    }

    #[test]
    fn item_alone_is_handed_over_after_the_gathering() {
        let (queue, batches) = Queue::new(SHORT);
        let sending = thread::spawn(move || {
            queue.send(1, false).unwrap();
            queue
        });
        let mut batch = Vec::new();
        assert!(batches.take(LONG, &mut batch));
        assert_eq!(batch, [1]);
        drop(sending.join().unwrap());
    }

    #[test]
    fn closed_queue_hands_over_what_it_has() {
        let (queue, batches) = Queue::new(LONG);
        queue.send(1, false).unwrap();
        drop(queue);
        let mut batch = Vec::new();
        assert!(batches.take(LONG, &mut batch));
        assert_eq!(batch, [1]);
        assert!(!batches.take(LONG, &mut batch));
    }

    #[test]
    fn caller_learns_that_the_thread_has_ended() {
        let (queue, batches) = Queue::new(LONG);
        let (reply, answer) = mpsc::channel::<()>();
        queue.send(reply.clone(), true).unwrap();
        drop(batches);
        assert_eq!(queue.send(reply, true), Err(Ended));
        assert!(answer.recv().is_err(), "both replies are dropped");
    }

    /// Mutants: a wake-up that is lost, a batch that is swapped with one that still has items.
    #[test]
    fn items_of_many_threads_arrive_in_the_order_of_each_and_are_answered() {
        const EACH: usize = 500;
        let (queue, batches) = Queue::new(SHORT);
        let queue = Arc::new(queue);
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    for n in 0..EACH {
                        let (reply, answer) = mpsc::channel();
                        let is_awaited = n % 50 == 49;
                        queue.send((sender, n, reply), is_awaited).unwrap();
                        if is_awaited {
                            answer.recv().unwrap();
                        }
                    }
                })
            })
            .collect();
        drop(queue);
        let (mut next, mut batch) = ([0; 4], Vec::new());
        while batches.take(LONG, &mut batch) {
            assert!(!batch.is_empty(), "an item has not woken the thread");
            for (sender, n, reply) in batch.drain(..) {
                let next: &mut usize = &mut next[sender];
                assert_eq!(n, *next);
                *next += 1;
                // A sender that does not wait has gone.
                let _ = reply.send(());
            }
        }
        assert_eq!(next, [EACH; 4]);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }
}
