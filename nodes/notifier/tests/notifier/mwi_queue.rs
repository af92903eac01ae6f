//! Desired and sent state, by table and by random sequences.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::MessageCounts;
use twinbox_notifier::mwi::{MwiPolicy, MwiUpdate, SendError, Target, queue::MwiQueue};

pub const POLICY: MwiPolicy = MwiPolicy {
    concurrency: 2,
    pace: Duration::from_millis(10),
    first_retry: Duration::from_millis(1_000),
    longest_retry: Duration::from_millis(8_000),
    after_refusal: Duration::from_millis(8_000),
};

fn queue() -> MwiQueue {
    MwiQueue::new(Target::Trunk("pbx".to_owned()), POLICY)
}

pub fn at(ms: u64) -> BootInstant {
    BootInstant::from_nanos(ms * 1_000_000)
}

pub fn mwi(mailbox: u128, new: u32) -> MwiUpdate {
    at_number(mailbox, mailbox, new)
}

/// The state of a mailbox that has another number than usual.
fn at_number(mailbox: u128, number: u128, new: u32) -> MwiUpdate {
    MwiUpdate {
        mailbox: MailboxId(mailbox),
        number: format!("100{number}"),
        counts: MessageCounts { new, saved: 0 },
    }
}

pub fn unreachable() -> Result<(), SendError> {
    Err(SendError::Unreachable("no answer".to_owned()))
}

pub fn incomplete() -> Result<(), SendError> {
    Err(SendError::Incomplete("one does not answer".to_owned()))
}

fn refused() -> Result<(), SendError> {
    Err(SendError::Refused("403".to_owned()))
}

/// State that may be sent at that time.
fn next(queue: &mut MwiQueue, ms: u64) -> Option<(u128, u32)> {
    queue.next(at(ms)).map(|update| (update.mailbox.0, update.counts.new))
}

#[test]
fn new_state_is_sent_once_and_an_equal_one_is_not() {
    let mut queue = queue();
    assert_eq!((next(&mut queue, 0), queue.wake()), (None, None));
    queue.want(mwi(1, 2), at(5));
    assert_eq!(queue.wake(), Some(at(5)));
    assert_eq!(next(&mut queue, 5), Some((1, 2)));
    assert_eq!(next(&mut queue, 500), None);
    queue.finished(&mwi(1, 2), Ok(()), at(20), 0);
    queue.want(mwi(1, 2), at(30));
    assert_eq!((next(&mut queue, 30), queue.wake()), (None, None));
    queue.want(mwi(1, 0), at(40));
    assert_eq!(next(&mut queue, 40), Some((1, 0)));
}

#[test]
fn pace_and_concurrency_bound_a_resend_in_full() {
    let mut queue = queue();
    (1..=4).for_each(|mailbox| queue.want(mwi(mailbox, 1), at(0)));
    assert_eq!(next(&mut queue, 0), Some((1, 1)));
    assert_eq!((next(&mut queue, 9), queue.wake()), (None, Some(at(10))));
    assert_eq!(next(&mut queue, 10), Some((2, 1)));
    assert_eq!((next(&mut queue, 20), queue.wake()), (None, None), "two are under way");
    queue.finished(&mwi(1, 1), Ok(()), at(25), 0);
    assert_eq!(next(&mut queue, 25), Some((3, 1)));
}

/// A take-over of 100,000 mailboxes takes minutes.
#[test]
fn changed_states_are_sent_before_those_that_a_take_over_or_a_resync_repeats() {
    let mut queue = queue();
    (1..=5).for_each(|mailbox| queue.want(mwi(mailbox, 1), at(0)));
    let sent = |queue: &mut MwiQueue, ms| {
        next(queue, ms).inspect(|(mailbox, new)| queue.finished(&mwi(*mailbox, *new), Ok(()), at(ms), 0))
    };
    assert_eq!(sent(&mut queue, 0), Some((1, 1)));
    // One that waits for its turn, one that was sent, one that was not read yet; and a new mailbox, which is empty.
    queue.want_first(mwi(5, 2), at(5));
    queue.want_first(mwi(1, 2), at(6));
    queue.want_first(mwi(9, 1), at(7));
    queue.want_first(mwi(0, 0), at(8));
    let order: Vec<_> = (1..=7).map(|turn| sent(&mut queue, turn * 10).expect("due")).collect();
    assert_eq!(order, [(5, 2), (1, 2), (9, 1), (2, 1), (3, 1), (4, 1), (0, 0)]);
    assert_eq!(queue.wake(), None);

    // Delivered states are repeated like the others.
    queue.resync(None, at(200));
    queue.want(mwi(4, 3), at(201));
    let order: Vec<_> = (0..4).map(|turn| sent(&mut queue, 300 + turn * 10).expect("due")).collect();
    assert_eq!(order, [(4, 3), (0, 0), (1, 2), (2, 1)]);
}

#[test]
fn changed_state_that_was_not_delivered_stays_before_the_others() {
    let mut queue = queue();
    (1..=3).for_each(|mailbox| queue.want(mwi(mailbox, 1), at(0)));
    queue.want(mwi(3, 2), at(0));
    assert_eq!(next(&mut queue, 0), Some((3, 2)));
    queue.finished(&mwi(3, 2), unreachable(), at(5), 0);
    assert_eq!(next(&mut queue, 10), Some((1, 1)));
    queue.finished(&mwi(1, 1), Ok(()), at(15), 0);
    assert_eq!(next(&mut queue, 25), Some((3, 2)));
}

/// Timers fire late; a late state does not make all the others late too, and a long pause is not made up for.
#[test]
fn a_state_sent_late_does_not_delay_the_next() {
    let mut queue = queue();
    (1..=5).for_each(|mailbox| queue.want(mwi(mailbox, 1), at(0)));
    let mut sent = |ms| {
        next(&mut queue, ms).inspect(|(mailbox, new)| {
            queue.finished(&mwi(*mailbox, *new), Ok(()), at(ms), 0);
        })
    };
    assert_eq!((sent(0), sent(13), sent(19), sent(20)), (Some((1, 1)), Some((2, 1)), None, Some((3, 1))));
    assert_eq!((sent(95), sent(95), sent(95)), (Some((4, 1)), Some((5, 1)), None));
}

#[test]
fn changes_while_it_is_sent_are_coalesced_to_the_latest() {
    let mut queue = queue();
    queue.want(mwi(1, 1), at(0));
    assert_eq!(next(&mut queue, 0), Some((1, 1)));
    (2..=5).for_each(|new| queue.want(mwi(1, new), at(1)));
    assert_eq!(next(&mut queue, 50), None, "one at a time for one mailbox");
    queue.finished(&mwi(1, 1), Ok(()), at(60), 0);
    assert_eq!(next(&mut queue, 60), Some((1, 5)));
    queue.finished(&mwi(1, 5), Ok(()), at(70), 0);
    assert_eq!(queue.wake(), None);
}

#[test]
fn a_change_that_is_taken_back_before_it_was_sent_is_not_sent() {
    let mut queue = queue();
    queue.want(mwi(1, 1), at(0));
    next(&mut queue, 0);
    queue.finished(&mwi(1, 1), Ok(()), at(1), 0);
    queue.want(mwi(1, 2), at(2));
    queue.want(mwi(1, 1), at(3));
    assert_eq!((next(&mut queue, 100), queue.wake()), (None, None));
}

#[test]
fn retries_back_off_with_jitter_and_carry_the_latest_state() {
    let mut queue = queue();
    queue.want(mwi(1, 1), at(0));
    let mut now = 0;
    // chance 0: the whole wait; chance 999: nearly a quarter less.
    for (chance, wait) in [(0, 1_000), (0, 2_000), (0, 4_000), (999, 6_002), (0, 8_000), (0, 8_000)] {
        let sent = queue.next(at(now)).expect("due");
        queue.finished(&sent, unreachable(), at(now), chance);
        assert_eq!(queue.wake(), Some(at(now + wait)), "chance {chance}");
        now += wait;
    }
    // A change does not cause an earlier retry, because the receiver does not answer; the retry sends the new
    // state.
    queue.want(mwi(1, 7), at(now - 500));
    assert_eq!((next(&mut queue, now - 1), queue.wake()), (None, Some(at(now))));
    assert_eq!(next(&mut queue, now), Some((1, 7)));
    let state = &queue.snapshot()[0];
    assert_eq!(
        (state.failures, state.sending, state.error.as_deref()),
        (6, true, Some("not delivered: no answer"))
    );
    queue.finished(&mwi(1, 7), Ok(()), at(now), 0);
    let state = &queue.snapshot()[0];
    assert_eq!(
        (state.failures, state.sent, state.error.as_deref()),
        (0, Some(MessageCounts { new: 7, saved: 0 }), None)
    );
}

#[test]
fn refused_state_waits_long_unless_it_changes() {
    let mut queue = queue();
    queue.want(mwi(1, 1), at(0));
    next(&mut queue, 0);
    queue.finished(&mwi(1, 1), refused(), at(0), 0);
    assert_eq!(queue.wake(), Some(at(8_000)));
    queue.want(mwi(1, 1), at(50));
    assert_eq!(queue.wake(), Some(at(8_000)));
    queue.want(mwi(1, 2), at(60));
    assert_eq!(next(&mut queue, 60), Some((1, 2)));
}

#[test]
fn after_a_failure_it_is_not_known_what_the_receiver_shows() {
    let mut queue = queue();
    queue.want(mwi(1, 1), at(0));
    next(&mut queue, 0);
    queue.finished(&mwi(1, 1), Ok(()), at(0), 0);
    queue.want(mwi(1, 2), at(100));
    next(&mut queue, 100);
    // The answer to "2" was lost; the return to "1" must be sent nevertheless.
    queue.finished(&mwi(1, 2), unreachable(), at(100), 0);
    queue.want(mwi(1, 1), at(200));
    assert_eq!(next(&mut queue, 1_100), Some((1, 1)));
}

/// Otherwise a take-over would try thousands of states at a dead PBX, one per interval.
#[test]
fn one_that_does_not_answer_is_asked_rarely_and_told_all_that_it_missed_when_it_does() {
    let mut queue = queue();
    queue.want(mwi(1, 1), at(0));
    queue.want(mwi(2, 1), at(0));
    assert_eq!((next(&mut queue, 0), next(&mut queue, 10)), (Some((1, 1)), Some((2, 1))));
    queue.finished(&mwi(1, 1), unreachable(), at(100), 0);
    queue.finished(&mwi(2, 1), unreachable(), at(100), 0);
    queue.want(mwi(3, 1), at(200));
    queue.want(mwi(4, 1), at(200));
    assert_eq!(next(&mut queue, 200), Some((3, 1)));
    assert_eq!((next(&mut queue, 210), queue.wake()), (None, Some(at(1_200))), "one try at a time");
    // The target answers: no entry waits for its own retry any more.
    queue.finished(&mwi(3, 1), Ok(()), at(300), 0);
    let told = [310, 320].map(|ms| next(&mut queue, ms).map(|(mailbox, _)| mailbox));
    assert_eq!(told, [Some(4), Some(1)]);
    queue.finished(&mwi(4, 1), Ok(()), at(330), 0);
    assert_eq!(next(&mut queue, 330), Some((2, 1)));
}

#[test]
fn one_behind_a_target_that_does_not_answer_delays_nothing_else_there() {
    let mut queue = queue();
    queue.want(mwi(1, 1), at(0));
    next(&mut queue, 0);
    queue.finished(&mwi(1, 1), incomplete(), at(10), 0);
    assert_eq!(queue.wake(), Some(at(1_010)), "soon again");
    queue.want(mwi(2, 1), at(20));
    queue.want(mwi(3, 1), at(20));
    assert_eq!((next(&mut queue, 20), next(&mut queue, 30)), (Some((2, 1)), Some((3, 1))), "at the usual pace");
    queue.finished(&mwi(2, 1), Ok(()), at(40), 0);
    // The other receivers behind the target wait for the new state.
    queue.want(mwi(1, 2), at(50));
    assert_eq!(next(&mut queue, 50), Some((1, 2)));
}

#[test]
fn a_removed_mailbox_goes_dark_and_is_forgotten() {
    let mut queue = queue();
    queue.remove(MailboxId(1), at(0));
    assert_eq!(queue.wake(), None);
    queue.want(mwi(1, 3), at(0));
    next(&mut queue, 0);
    queue.finished(&mwi(1, 3), Ok(()), at(0), 0);
    queue.remove(MailboxId(1), at(10));
    assert_eq!(next(&mut queue, 10), Some((1, 0)));
    queue.finished(&mwi(1, 0), unreachable(), at(10), 0);
    assert_eq!(next(&mut queue, 1_010), Some((1, 0)));
    queue.finished(&mwi(1, 0), Ok(()), at(1_010), 0);
    assert!(queue.mailboxes().is_empty());
    queue.remove(MailboxId(1), at(2_000));
    assert_eq!(queue.wake(), None);
}

/// All states that are due, delivered.
fn delivered(queue: &mut MwiQueue, mut ms: u64) -> Vec<(String, u32)> {
    let mut sent = Vec::new();
    while let Some(wake) = queue.wake() {
        ms = ms.max(wake.as_nanos() / 1_000_000);
        let update = queue.next(at(ms)).expect("due when it says so");
        queue.finished(&update, Ok(()), at(ms), 0);
        sent.push((update.number, update.counts.new));
    }
    sent
}

#[test]
fn a_number_that_a_mailbox_gives_up_goes_dark() {
    let mut queue = queue();
    queue.want(mwi(1, 3), at(0));
    assert_eq!(delivered(&mut queue, 0), [("1001".to_owned(), 3)]);
    queue.want(at_number(1, 2, 3), at(50));
    assert_eq!(delivered(&mut queue, 50), [("1001".to_owned(), 0), ("1002".to_owned(), 3)]);
    assert_eq!(queue.snapshot().len(), 1, "the old number is forgotten");
}

#[test]
fn a_number_that_moved_shows_the_state_of_the_mailbox_that_has_it() {
    let mut queue = queue();
    queue.want(mwi(1, 3), at(0));
    queue.want(at_number(2, 1, 5), at(0));
    assert_eq!(delivered(&mut queue, 0), [("1001".to_owned(), 5)]);
    // The first lost its number in a split, or was removed.
    queue.remove(MailboxId(1), at(50));
    assert_eq!(delivered(&mut queue, 50), []);
    // Two exchange their numbers.
    queue.want(mwi(1, 4), at(60));
    queue.want(at_number(2, 2, 5), at(60));
    assert_eq!(delivered(&mut queue, 60), [("1001".to_owned(), 4), ("1002".to_owned(), 5)]);
    queue.want(at_number(1, 2, 4), at(100));
    queue.want(at_number(2, 1, 5), at(100));
    assert_eq!(delivered(&mut queue, 100), [("1001".to_owned(), 5), ("1002".to_owned(), 4)]);
}

/// They are told by the mailbox: one state of each, whatever its number.
#[test]
fn subscribers_of_a_mailbox_keep_its_state_when_its_number_changes() {
    let mut queue = MwiQueue::new(Target::Subscribers("a".parse().expect("a name")), POLICY);
    queue.want(mwi(1, 3), at(0));
    assert!(!queue.begin_list(at(0)), "of one");
    assert_eq!(delivered(&mut queue, 0), [("1001".to_owned(), 3)]);
    queue.want(at_number(1, 2, 3), at(50));
    assert_eq!(delivered(&mut queue, 50), []);
    assert_eq!(queue.snapshot()[0].number, "1002");
    // Another one gets the number: those of the first see nothing of that.
    queue.want(at_number(2, 2, 0), at(100));
    queue.remove(MailboxId(1), at(100));
    assert!(!queue.begin_list(at(100)), "of two");
    let mut sent = Vec::new();
    while let Some(wake) = queue.wake() {
        let update = queue.next(wake).expect("due when it says so");
        queue.finished(&update, Ok(()), wake, 0);
        sent.push((update.mailbox.0, update.counts.new));
    }
    sent.sort_unstable();
    assert_eq!(sent, [(1, 0), (2, 0)]);
}

#[test]
fn resync_sends_all_states_again_within_pace_and_concurrency() {
    let mut queue = queue();
    let mut now = 0;
    for mailbox in 1..=3 {
        queue.want(mwi(mailbox, 1), at(now));
        assert_eq!(next(&mut queue, now), Some((mailbox, 1)));
        queue.finished(&mwi(mailbox, 1), Ok(()), at(now), 0);
        now += 10;
    }
    assert_eq!(queue.wake(), None);
    assert_eq!(queue.resync(None, at(100)), 3);
    assert_eq!((next(&mut queue, 100), next(&mut queue, 105)), (Some((1, 1)), None), "paced");
    assert_eq!((next(&mut queue, 110), next(&mut queue, 120)), (Some((2, 1)), None), "two are under way");
    queue.finished(&mwi(1, 1), Ok(()), at(130), 0);
    assert_eq!(next(&mut queue, 130), Some((3, 1)));
    queue.finished(&mwi(2, 1), Ok(()), at(140), 0);
    queue.finished(&mwi(3, 1), Ok(()), at(140), 0);
    assert_eq!((next(&mut queue, 200), queue.wake()), (None, None), "each was sent once");
}

#[test]
fn resync_of_one_mailbox_leaves_the_others_alone() {
    let mut queue = queue();
    for mailbox in [1, 2] {
        queue.want(mwi(mailbox, 1), at(0));
        next(&mut queue, 10 * mailbox as u64);
        queue.finished(&mwi(mailbox, 1), Ok(()), at(20), 0);
    }
    assert_eq!(queue.resync(Some(MailboxId(7)), at(100)), 0, "no such mailbox");
    assert_eq!(queue.resync(Some(MailboxId(2)), at(100)), 1);
    assert_eq!(next(&mut queue, 100), Some((2, 1)));
    queue.finished(&mwi(2, 1), Ok(()), at(110), 0);
    assert_eq!(queue.wake(), None);
}

#[test]
fn resync_repeats_a_send_in_progress_and_shortens_the_wait_of_a_retry() {
    let mut queue = queue();
    queue.want(mwi(1, 1), at(0));
    next(&mut queue, 0);
    assert_eq!(queue.resync(None, at(5)), 1);
    assert_eq!(next(&mut queue, 50), None, "one send at a time for one mailbox");
    queue.finished(&mwi(1, 1), Ok(()), at(60), 0);
    assert_eq!(next(&mut queue, 60), Some((1, 1)), "it may have arrived before the loss");
    queue.finished(&mwi(1, 1), refused(), at(70), 0);
    assert_eq!(queue.wake(), Some(at(8_070)));
    queue.resync(None, at(100));
    assert_eq!(next(&mut queue, 100), Some((1, 1)));
    queue.finished(&mwi(1, 1), Ok(()), at(110), 0);
    assert_eq!(queue.wake(), None);
}

/// As at a take-over: the PBX is not asked at full pace while it restarts.
#[test]
fn resync_tries_a_target_that_does_not_answer_rarely() {
    let mut queue = queue();
    (1..=3).for_each(|mailbox| queue.want(mwi(mailbox, 1), at(0)));
    next(&mut queue, 0);
    queue.finished(&mwi(1, 1), unreachable(), at(10), 0);
    queue.resync(None, at(20));
    assert!(next(&mut queue, 20).is_some());
    assert_eq!((next(&mut queue, 30), queue.wake()), (None, Some(at(1_020))), "one try at a time");
}

#[derive(Debug, Clone)]
enum QueueStep {
    Want(u128, u128, u32),
    Remove(u128),
    Resync(Option<u128>),
    Send,
    Answer(usize, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = QueueStep> {
    prop_oneof![
        3 => (1u128..4, 1u128..5, 0u32..3).prop_map(|(mailbox, number, new)| QueueStep::Want(mailbox, number, new)),
        1 => (1u128..4).prop_map(QueueStep::Remove),
        1 => proptest::option::of(1u128..4).prop_map(QueueStep::Resync),
        3 => Just(QueueStep::Send),
        3 => (0usize..4, 0u8..3).prop_map(|(which, how)| QueueStep::Answer(which, how)),
        2 => (0u64..3_000).prop_map(QueueStep::Wait),
    ]
}

proptest! {
    /// In every sequence, once receivers answer again each number shows the latest state of the mailbox that has it, or
    /// nothing; the number of concurrent sends stays within the bound, and no number is sent twice concurrently.
    #[test]
    fn every_receiver_ends_with_the_latest_state(steps in proptest::collection::vec(step(), 0..120)) {
        let mut queue = queue();
        let mut now = 0;
        let mut shown: BTreeMap<String, u32> = BTreeMap::new();
        // The last mailbox of each number, and the number and state of each mailbox.
        let mut owners: BTreeMap<String, u128> = BTreeMap::new();
        let mut wanted: BTreeMap<u128, (String, u32)> = BTreeMap::new();
        let mut under_way: Vec<MwiUpdate> = Vec::new();
        for step in steps {
            match step {
                QueueStep::Want(mailbox, number, new) => {
                    let update = at_number(mailbox, number, new);
                    queue.want(update.clone(), at(now));
                    owners.insert(update.number.clone(), mailbox);
                    wanted.insert(mailbox, (update.number, new));
                }
                QueueStep::Remove(mailbox) => {
                    queue.remove(MailboxId(mailbox), at(now));
                    wanted.remove(&mailbox);
                }
                QueueStep::Resync(mailbox) => {
                    queue.resync(mailbox.map(MailboxId), at(now));
                }
                QueueStep::Send => {
                    if let Some(update) = queue.next(at(now)) {
                        prop_assert!(under_way.iter().all(|other| other.number != update.number));
                        under_way.push(update);
                        prop_assert!(under_way.len() <= POLICY.concurrency);
                    }
                }
                QueueStep::Answer(which, how) if which < under_way.len() => {
                    let update = under_way.swap_remove(which);
                    // A failed send may have been delivered nevertheless.
                    shown.insert(update.number.clone(), update.counts.new);
                    let result = match how { 0 => Ok(()), 1 => unreachable(), _ => refused() };
                    queue.finished(&update, result, at(now), 7);
                }
                QueueStep::Answer(..) => {}
                QueueStep::Wait(ms) => now += ms,
            }
        }
        for update in under_way.drain(..) {
            shown.insert(update.number.clone(), update.counts.new);
            queue.finished(&update, Ok(()), at(now), 7);
        }
        for _ in 0..20 {
            let Some(wake) = queue.wake() else { break };
            now = now.max(wake.as_nanos() / 1_000_000 + 1);
            let update = queue.next(at(now)).expect("due when it says so");
            shown.insert(update.number.clone(), update.counts.new);
            queue.finished(&update, Ok(()), at(now), 7);
        }
        prop_assert_eq!(queue.wake(), None);
        for (number, mailbox) in owners {
            let desired = wanted.get(&mailbox).filter(|(at, _)| *at == number).map(|(_, new)| *new);
            // A number that was given up before anything was sent may have shown nothing.
            let shows = shown.get(&number).copied();
            prop_assert!(shows == desired || (desired.is_none() && shows.unwrap_or(0) == 0), "{} {:?}", number, shows);
        }
    }
}
