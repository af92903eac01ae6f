//! Desired and sent state, by table and by random sequences.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_mailstore::Lights;
use twinbox_notifier::{Light, Policy, SendError, Target, board::Board};

const POLICY: Policy = Policy {
    concurrency: 2,
    pace: Duration::from_millis(10),
    first_retry: Duration::from_millis(1_000),
    longest_retry: Duration::from_millis(8_000),
    after_refusal: Duration::from_millis(8_000),
};

fn board() -> Board {
    Board::new(Target::Trunk("pbx".to_owned()), POLICY)
}

fn at(ms: u64) -> BootInstant {
    BootInstant::from_nanos(ms * 1_000_000)
}

fn light(mailbox: u128, new: u32) -> Light {
    Light { mailbox: MailboxId(mailbox), number: format!("100{mailbox}"), lights: Lights { new, saved: 0 } }
}

fn unreachable() -> Result<(), SendError> {
    Err(SendError::Unreachable("no answer".to_owned()))
}

fn incomplete() -> Result<(), SendError> {
    Err(SendError::Incomplete("one does not answer".to_owned()))
}

fn refused() -> Result<(), SendError> {
    Err(SendError::Refused("403".to_owned()))
}

/// State that may be sent at that time.
fn next(board: &mut Board, ms: u64) -> Option<(u128, u32)> {
    board.next(at(ms)).map(|light| (light.mailbox.0, light.lights.new))
}

#[test]
fn what_is_new_is_sent_once_and_what_is_the_same_is_not() {
    let mut board = board();
    assert_eq!((next(&mut board, 0), board.wake()), (None, None));
    board.want(light(1, 2), at(5));
    assert_eq!(board.wake(), Some(at(5)));
    assert_eq!(next(&mut board, 5), Some((1, 2)));
    assert_eq!(next(&mut board, 500), None);
    board.finished(&light(1, 2), Ok(()), at(20), 0);
    board.want(light(1, 2), at(30));
    assert_eq!((next(&mut board, 30), board.wake()), (None, None));
    board.want(light(1, 0), at(40));
    assert_eq!(next(&mut board, 40), Some((1, 0)));
}

#[test]
fn pace_and_concurrency_bound_a_resend_in_full() {
    let mut board = board();
    (1..=4).for_each(|mailbox| board.want(light(mailbox, 1), at(0)));
    assert_eq!(next(&mut board, 0), Some((1, 1)));
    assert_eq!((next(&mut board, 9), board.wake()), (None, Some(at(10))));
    assert_eq!(next(&mut board, 10), Some((2, 1)));
    assert_eq!((next(&mut board, 20), board.wake()), (None, None), "two are under way");
    board.finished(&light(1, 1), Ok(()), at(25), 0);
    assert_eq!(next(&mut board, 25), Some((3, 1)));
}

#[test]
fn changes_while_it_is_sent_are_coalesced_to_the_latest() {
    let mut board = board();
    board.want(light(1, 1), at(0));
    assert_eq!(next(&mut board, 0), Some((1, 1)));
    (2..=5).for_each(|new| board.want(light(1, new), at(1)));
    assert_eq!(next(&mut board, 50), None, "one at a time for one light");
    board.finished(&light(1, 1), Ok(()), at(60), 0);
    assert_eq!(next(&mut board, 60), Some((1, 5)));
    board.finished(&light(1, 5), Ok(()), at(70), 0);
    assert_eq!(board.wake(), None);
}

#[test]
fn a_change_that_is_taken_back_before_it_was_sent_is_not_sent() {
    let mut board = board();
    board.want(light(1, 1), at(0));
    next(&mut board, 0);
    board.finished(&light(1, 1), Ok(()), at(1), 0);
    board.want(light(1, 2), at(2));
    board.want(light(1, 1), at(3));
    assert_eq!((next(&mut board, 100), board.wake()), (None, None));
}

#[test]
fn retries_back_off_with_jitter_and_carry_the_latest_state() {
    let mut board = board();
    board.want(light(1, 1), at(0));
    let mut now = 0;
    // chance 0: the whole wait; chance 999: nearly a quarter less.
    for (chance, wait) in [(0, 1_000), (0, 2_000), (0, 4_000), (999, 6_002), (0, 8_000), (0, 8_000)] {
        let sent = board.next(at(now)).expect("due");
        board.finished(&sent, unreachable(), at(now), chance);
        assert_eq!(board.wake(), Some(at(now + wait)), "chance {chance}");
        now += wait;
    }
    // A change does not cause an earlier retry, because the receiver does not answer; the retry sends the new
    // state.
    board.want(light(1, 7), at(now - 500));
    assert_eq!((next(&mut board, now - 1), board.wake()), (None, Some(at(now))));
    assert_eq!(next(&mut board, now), Some((1, 7)));
    let state = &board.snapshot()[0];
    assert_eq!(
        (state.failures, state.sending, state.error.as_deref()),
        (6, true, Some("not delivered: no answer"))
    );
    board.finished(&light(1, 7), Ok(()), at(now), 0);
    let state = &board.snapshot()[0];
    assert_eq!((state.failures, state.sent, state.error.as_deref()), (0, Some(Lights { new: 7, saved: 0 }), None));
}

#[test]
fn what_is_refused_waits_long_unless_it_changes() {
    let mut board = board();
    board.want(light(1, 1), at(0));
    next(&mut board, 0);
    board.finished(&light(1, 1), refused(), at(0), 0);
    assert_eq!(board.wake(), Some(at(8_000)));
    board.want(light(1, 1), at(50));
    assert_eq!(board.wake(), Some(at(8_000)));
    board.want(light(1, 2), at(60));
    assert_eq!(next(&mut board, 60), Some((1, 2)));
}

#[test]
fn after_a_failure_it_is_not_known_what_the_receiver_shows() {
    let mut board = board();
    board.want(light(1, 1), at(0));
    next(&mut board, 0);
    board.finished(&light(1, 1), Ok(()), at(0), 0);
    board.want(light(1, 2), at(100));
    next(&mut board, 100);
    // The answer to "2" was lost; the return to "1" must be sent nevertheless.
    board.finished(&light(1, 2), unreachable(), at(100), 0);
    board.want(light(1, 1), at(200));
    assert_eq!(next(&mut board, 1_100), Some((1, 1)));
}

/// Otherwise a take-over would try thousands of states at a dead PBX, one per interval.
#[test]
fn one_that_does_not_answer_is_asked_rarely_and_told_all_that_it_missed_when_it_does() {
    let mut board = board();
    board.want(light(1, 1), at(0));
    board.want(light(2, 1), at(0));
    assert_eq!((next(&mut board, 0), next(&mut board, 10)), (Some((1, 1)), Some((2, 1))));
    board.finished(&light(1, 1), unreachable(), at(100), 0);
    board.finished(&light(2, 1), unreachable(), at(100), 0);
    board.want(light(3, 1), at(200));
    board.want(light(4, 1), at(200));
    assert_eq!(next(&mut board, 200), Some((3, 1)));
    assert_eq!((next(&mut board, 210), board.wake()), (None, Some(at(1_200))), "one try at a time");
    // The target answers: no entry waits for its own retry any more.
    board.finished(&light(3, 1), Ok(()), at(300), 0);
    let told = [310, 320].map(|ms| next(&mut board, ms).map(|(mailbox, _)| mailbox));
    assert_eq!(told, [Some(4), Some(1)]);
    board.finished(&light(4, 1), Ok(()), at(330), 0);
    assert_eq!(next(&mut board, 330), Some((2, 1)));
}

#[test]
fn one_behind_a_target_that_does_not_answer_delays_nothing_else_there() {
    let mut board = board();
    board.want(light(1, 1), at(0));
    next(&mut board, 0);
    board.finished(&light(1, 1), incomplete(), at(10), 0);
    assert_eq!(board.wake(), Some(at(1_010)), "soon again");
    board.want(light(2, 1), at(20));
    board.want(light(3, 1), at(20));
    assert_eq!((next(&mut board, 20), next(&mut board, 30)), (Some((2, 1)), Some((3, 1))), "at the usual pace");
    board.finished(&light(2, 1), Ok(()), at(40), 0);
    // The other receivers behind the target wait for the new state.
    board.want(light(1, 2), at(50));
    assert_eq!(next(&mut board, 50), Some((1, 2)));
}

#[test]
fn a_removed_mailbox_goes_dark_and_is_forgotten() {
    let mut board = board();
    board.remove(MailboxId(1), at(0));
    assert_eq!(board.wake(), None);
    board.want(light(1, 3), at(0));
    next(&mut board, 0);
    board.finished(&light(1, 3), Ok(()), at(0), 0);
    board.remove(MailboxId(1), at(10));
    assert_eq!(next(&mut board, 10), Some((1, 0)));
    board.finished(&light(1, 0), unreachable(), at(10), 0);
    assert_eq!(next(&mut board, 1_010), Some((1, 0)));
    board.finished(&light(1, 0), Ok(()), at(1_010), 0);
    assert!(board.mailboxes().is_empty());
    board.remove(MailboxId(1), at(2_000));
    assert_eq!(board.wake(), None);
}

#[derive(Debug, Clone)]
enum Step {
    Want(u128, u32),
    Send,
    Answer(usize, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u128..4, 0u32..3).prop_map(|(mailbox, new)| Step::Want(mailbox, new)),
        Just(Step::Send),
        (0usize..4, 0u8..3).prop_map(|(which, how)| Step::Answer(which, how)),
        (0u64..3_000).prop_map(Step::Wait),
    ]
}

proptest! {
    /// In every sequence, once receivers answer again each of them gets the latest state, the number of concurrent
    /// sends stays within the bound, and no entry is sent twice concurrently.
    #[test]
    fn every_receiver_ends_with_the_latest_state(steps in proptest::collection::vec(step(), 0..120)) {
        let mut board = board();
        let mut now = 0;
        let mut shown: BTreeMap<u128, u32> = BTreeMap::new();
        let mut wanted: BTreeMap<u128, u32> = BTreeMap::new();
        let mut under_way: Vec<Light> = Vec::new();
        for step in steps {
            match step {
                Step::Want(mailbox, new) => {
                    board.want(light(mailbox, new), at(now));
                    wanted.insert(mailbox, new);
                }
                Step::Send => {
                    if let Some(light) = board.next(at(now)) {
                        prop_assert!(under_way.iter().all(|other| other.mailbox != light.mailbox));
                        under_way.push(light);
                        prop_assert!(under_way.len() <= POLICY.concurrency);
                    }
                }
                Step::Answer(which, how) if which < under_way.len() => {
                    let light = under_way.swap_remove(which);
                    // A failed send may have been delivered nevertheless.
                    shown.insert(light.mailbox.0, light.lights.new);
                    let result = match how { 0 => Ok(()), 1 => unreachable(), _ => refused() };
                    board.finished(&light, result, at(now), 7);
                }
                Step::Answer(..) => {}
                Step::Wait(ms) => now += ms,
            }
        }
        for light in under_way.drain(..) {
            shown.insert(light.mailbox.0, light.lights.new);
            board.finished(&light, Ok(()), at(now), 7);
        }
        for _ in 0..20 {
            let Some(wake) = board.wake() else { break };
            now = now.max(wake.as_nanos() / 1_000_000 + 1);
            let light = board.next(at(now)).expect("due when it says so");
            shown.insert(light.mailbox.0, light.lights.new);
            board.finished(&light, Ok(()), at(now), 7);
        }
        prop_assert_eq!(board.wake(), None);
        prop_assert_eq!(shown, wanted);
    }
}
