//! States that a take-over or a resync repeats to the subscribers of a node.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use twinbox_ids::MailboxId;
use twinbox_notifier::mwi::{
    MwiUpdate, Receivers, SendError, Target,
    queue::{MAX_BATCH, MwiQueue},
};

use crate::mwi_queue::{POLICY, at, incomplete, mwi, unreachable};

/// More mailboxes than are sent without a list.
const MANY: u128 = 100;

/// States of these mailboxes, as a take-over has them, with no message.
fn queue(mailboxes: u128) -> MwiQueue {
    let mut queue = MwiQueue::new(Target::Subscribers("b".parse().expect("a name")), POLICY);
    (1..=mailboxes).for_each(|mailbox| queue.want(mwi(mailbox, 0), at(0)));
    queue
}

fn list(mailboxes: impl IntoIterator<Item = u128>) -> Result<Receivers, SendError> {
    Ok(Receivers::Of(mailboxes.into_iter().map(MailboxId).collect()))
}

fn batch(queue: &mut MwiQueue, ms: u64) -> Vec<u128> {
    queue.next_batch(at(ms)).into_iter().map(|update| update.mailbox.0).collect()
}

/// All batches, delivered, and the time after the last.
fn delivered(queue: &mut MwiQueue, mut ms: u64) -> (Vec<Vec<u128>>, u64) {
    let mut batches = Vec::new();
    while let Some(wake) = queue.wake() {
        ms = ms.max(wake.as_nanos() / 1_000_000);
        let sent = queue.next_batch(at(ms));
        sent.iter().for_each(|update| queue.finished(update, Ok(()), at(ms), 0));
        batches.push(sent.iter().map(|update| update.mailbox.0).collect());
    }
    (batches, ms)
}

fn unsent(queue: &MwiQueue) -> usize {
    queue.snapshot().iter().filter(|state| state.sent.is_none()).count()
}

#[test]
fn listed_mailboxes_are_sent_and_the_others_count_as_delivered() {
    let mut queue = queue(MANY);
    assert_eq!((queue.wake(), batch(&mut queue, 0)), (None, vec![]), "they wait for the list");
    assert!(queue.begin_list(at(0)));
    assert!(!queue.begin_list(at(5_000)), "it is requested once");
    queue.listed(list([3, 70, 500]), at(10), 0);
    assert_eq!(unsent(&queue), 2);
    assert_eq!(delivered(&mut queue, 10).0, [[3, 70]]);
    assert_eq!((unsent(&queue), queue.begin_list(at(5_000))), (0, false));
}

#[test]
fn few_states_and_those_of_a_node_without_a_list_are_all_sent_in_batches_at_the_usual_pace() {
    let few = u128::try_from(MAX_BATCH).expect("few");
    let mut queue = queue(few);
    assert!(!queue.begin_list(at(0)), "they cost less than a list");
    assert_eq!(delivered(&mut queue, 0).0.concat().len(), MAX_BATCH);

    let mut queue = self::queue(MANY);
    assert!(queue.begin_list(at(0)));
    queue.listed(Ok(Receivers::Unknown), at(0), 0);
    let (batches, ended) = delivered(&mut queue, 0);
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 32, 4]);
    assert_eq!(batches.concat().into_iter().collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(Duration::from_millis(ended), POLICY.pace * 96, "the last batch begins after 96 states");
}

/// Its subscriber may have come after the list was made, and have a state of this holder.
#[test]
fn list_decides_nothing_about_a_state_that_was_sent_or_began_to_wait_since_its_request() {
    let mut queue = queue(MANY);
    assert!(queue.begin_list(at(0)));
    queue.want(mwi(1, 1), at(1));
    queue.want(mwi(2, 1), at(1));
    assert_eq!(batch(&mut queue, 1), [1], "a change waits for no list");
    queue.finished(&mwi(1, 1), incomplete(), at(2), 0);
    (MANY + 1..=MANY * 2).for_each(|mailbox| queue.want(mwi(mailbox, 0), at(2)));
    queue.listed(list([]), at(3), 0);
    assert_eq!(unsent(&queue), 2 + 100);
    assert_eq!(batch(&mut queue, 20), [2]);
    queue.finished(&mwi(2, 1), Ok(()), at(20), 0);
    assert_eq!(batch(&mut queue, 1_010), [1], "its retry");
    queue.finished(&mwi(1, 1), Ok(()), at(1_010), 0);
    assert!(queue.begin_list(at(1_010)), "the later ones have a list of their own");
    queue.listed(list([]), at(1_020), 0);
    assert_eq!((unsent(&queue), queue.wake()), (0, None));
}

#[test]
fn failed_request_for_a_list_is_repeated_after_growing_waits() {
    let mut queue = queue(MANY);
    let mut now = 0;
    for wait in [1_000, 2_000, 4_000, 8_000, 8_000] {
        assert!(queue.begin_list(at(now)));
        queue.listed(unreachable().map(|()| Receivers::Unknown), at(now), 0);
        assert!(!queue.begin_list(at(now + wait - 1)));
        now += wait;
    }
    queue.want(mwi(5, 1), at(now));
    assert_eq!(batch(&mut queue, now), [5], "a change is tried meanwhile");
    assert!(queue.begin_list(at(now)));
    queue.listed(list([6]), at(now), 0);
    queue.finished(&mwi(5, 1), Ok(()), at(now), 0);
    assert_eq!(delivered(&mut queue, now).0, [[6]]);
}

#[test]
fn resync_asks_for_another_list_and_resync_of_one_mailbox_for_none() {
    let mut queue = queue(MANY);
    assert!(queue.begin_list(at(0)));
    queue.listed(list([]), at(0), 0);
    assert_eq!(queue.resync(Some(MailboxId(7)), at(2_000)), 1);
    assert!(!queue.begin_list(at(2_000)));
    assert_eq!(delivered(&mut queue, 2_000).0, [[7]]);
    assert_eq!(queue.resync(None, at(3_000)), 100);
    assert!(queue.begin_list(at(3_000)));
    queue.listed(list([7, 9]), at(3_000), 0);
    assert_eq!(delivered(&mut queue, 3_000).0, [[7, 9]]);
}

#[test]
fn state_that_changed_or_failed_is_sent_alone_and_a_batch_is_one_send() {
    let mut queue = queue(MANY);
    assert!(queue.begin_list(at(0)));
    queue.listed(list(1..=40), at(0), 0);
    let sent = queue.next_batch(at(0));
    assert_eq!(sent.len(), MAX_BATCH);
    queue.want(mwi(90, 1), at(1));
    queue.want(mwi(91, 1), at(1));
    assert_eq!(batch(&mut queue, 320), [90], "first, and alone");
    assert_eq!(batch(&mut queue, 330), [0; 0], "two sends are in progress");
    // One of the batch does not answer.
    sent.iter().skip(1).for_each(|update| queue.finished(update, Ok(()), at(340), 0));
    assert_eq!(batch(&mut queue, 340), [0; 0], "the batch is in progress");
    queue.finished(&sent[0], incomplete(), at(340), 0);
    assert_eq!((batch(&mut queue, 340), batch(&mut queue, 350)), (vec![91], vec![]));
    queue.finished(&mwi(91, 1), Ok(()), at(400), 0);
    assert_eq!(batch(&mut queue, 400), (33..=40).collect::<Vec<u128>>());
    (33..=40).for_each(|mailbox| queue.finished(&mwi(mailbox, 0), Ok(()), at(410), 0));
    assert_eq!(batch(&mut queue, 2_000), [1], "its retry");
}

#[test]
fn removed_mailbox_that_waits_for_a_list_is_forgotten_with_it() {
    let mut queue = queue(MANY);
    queue.remove(MailboxId(4), at(0));
    assert!(queue.begin_list(at(0)));
    queue.listed(list([]), at(0), 0);
    assert_eq!(queue.mailboxes().len(), 99);
    assert_eq!(queue.snapshot().len(), 99);
}

#[derive(Debug, Clone)]
enum Happening {
    Want(u128, u32),
    Remove(u128),
    Resync,
    /// A telephone subscribes, or again: its node shows its own state, which may be behind the holder's.
    Subscribe(u128),
    /// Its subscription ends.
    Leave(u128),
    /// The node's store catches up.
    CatchUp,
    List,
    Listed(bool),
    Send,
    Answer(u8),
    Wait(u64),
}

/// Mailboxes of the random sequences: lists are used for the others of these.
const SOME: u128 = MAX_BATCH as u128 + 8;

fn step() -> impl Strategy<Value = Happening> {
    let mailbox = || 1..=SOME;
    prop_oneof![
        4 => (mailbox(), 0u32..3).prop_map(|(mailbox, new)| Happening::Want(mailbox, new)),
        1 => mailbox().prop_map(Happening::Remove),
        2 => Just(Happening::Resync),
        4 => mailbox().prop_map(Happening::Subscribe),
        2 => mailbox().prop_map(Happening::Leave),
        2 => Just(Happening::CatchUp),
        4 => Just(Happening::List),
        4 => any::<bool>().prop_map(Happening::Listed),
        4 => Just(Happening::Send),
        4 => (0u8..3).prop_map(Happening::Answer),
        2 => (0u64..3_000).prop_map(Happening::Wait),
    ]
}

/// A node with subscribers: what each shows, and whether the holder sent it.
#[derive(Default)]
struct Node {
    store: BTreeMap<u128, u32>,
    shown: BTreeMap<u128, (u32, bool)>,
}

impl Node {
    fn tell(&mut self, update: &MwiUpdate) {
        if let Some(shown) = self.shown.get_mut(&update.mailbox.0) {
            *shown = (update.counts.new, true);
        }
    }

    /// The store never corrects the holder.
    fn catch_up(&mut self, wanted: &BTreeMap<u128, u32>) {
        self.store.clone_from(wanted);
        for (mailbox, shown) in self.shown.iter_mut().filter(|(_, (_, by_holder))| !by_holder) {
            shown.0 = wanted.get(mailbox).copied().unwrap_or_default();
        }
    }
}

proptest! {
    /// Whenever a telephone subscribes, and whatever is lost, it shows the latest state in the end.
    #[test]
    fn every_subscriber_ends_with_the_latest_state(steps in proptest::collection::vec(step(), 0..150)) {
        let mut queue = queue(SOME);
        let mut wanted: BTreeMap<u128, u32> = (1..=SOME).map(|mailbox| (mailbox, 0)).collect();
        let mut node = Node::default();
        let (mut now, mut sends, mut requested) = (0, Vec::<Vec<MwiUpdate>>::new(), None::<BTreeSet<MailboxId>>);
        for step in steps {
            match step {
                Happening::Want(mailbox, new) => {
                    queue.want(mwi(mailbox, new), at(now));
                    wanted.insert(mailbox, new);
                }
                Happening::Remove(mailbox) => {
                    queue.remove(MailboxId(mailbox), at(now));
                    wanted.remove(&mailbox);
                }
                Happening::Resync => {
                    queue.resync(None, at(now));
                }
                Happening::Subscribe(mailbox) => {
                    let own = node.store.get(&mailbox).copied().unwrap_or_default();
                    node.shown.entry(mailbox).or_insert((own, false));
                }
                Happening::Leave(mailbox) => {
                    node.shown.remove(&mailbox);
                }
                Happening::CatchUp => node.catch_up(&wanted),
                // The node makes it immediately; its answer takes a while.
                Happening::List if queue.begin_list(at(now)) => {
                    requested = Some(node.shown.keys().copied().map(MailboxId).collect());
                }
                Happening::Listed(true) => {
                    if let Some(list) = requested.take() {
                        queue.listed(Ok(Receivers::Of(list)), at(now), 7);
                    }
                }
                Happening::Listed(false) if requested.take().is_some() => {
                    queue.listed(unreachable().map(|()| Receivers::Unknown), at(now), 7);
                }
                Happening::Send => {
                    let batch = queue.next_batch(at(now));
                    // It arrives, whatever becomes of the answer.
                    batch.iter().for_each(|update| node.tell(update));
                    if !batch.is_empty() {
                        sends.push(batch);
                        prop_assert!(sends.len() <= POLICY.concurrency);
                    }
                }
                Happening::Answer(outcome) if !sends.is_empty() => {
                    for update in sends.remove(0) {
                        let result = match outcome { 0 => Ok(()), 1 => unreachable(), _ => incomplete() };
                        queue.finished(&update, result, at(now), 7);
                    }
                }
                Happening::List | Happening::Listed(_) | Happening::Answer(_) => {}
                Happening::Wait(ms) => now += ms,
            }
        }
        for update in sends.into_iter().flatten() {
            queue.finished(&update, Ok(()), at(now), 7);
        }
        if let Some(list) = requested {
            queue.listed(Ok(Receivers::Of(list)), at(now), 7);
        }
        node.catch_up(&wanted);
        for _ in 0..200 {
            now += 10_000;
            if queue.begin_list(at(now)) {
                let list = node.shown.keys().copied().map(MailboxId).collect();
                queue.listed(Ok(Receivers::Of(list)), at(now), 7);
            }
            for update in queue.next_batch(at(now)) {
                node.tell(&update);
                queue.finished(&update, Ok(()), at(now), 7);
            }
        }
        prop_assert_eq!((queue.wake(), unsent(&queue)), (None, 0));
        for (mailbox, (shows, _)) in node.shown {
            prop_assert_eq!(shows, wanted.get(&mailbox).copied().unwrap_or_default(), "{}", mailbox);
        }
    }
}
