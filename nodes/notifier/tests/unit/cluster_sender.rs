//! Requests between the holder of the duty and another node: their time, their states and outcomes, and lists.

use super::*;

#[test]
fn another_nodes_lease_is_used_only_within_the_margin_of_the_time_it_was_told() {
    let at = |ms: u64| BootInstant::from_nanos(ms * 1_000_000);
    let window = SendWindow { since: at(1_000), valid: Duration::from_millis(50) };
    for (now, allowed) in [(999, false), (1_000, true), (1_049, true), (1_050, false), (9_000, false)] {
        assert_eq!(window.is_open(at(now)), allowed, "{now}");
    }
    // A request that waited for a connection since before the machine was restarted, or that has no time.
    assert!(!SendWindow { since: at(7_000), ..window }.is_open(at(100)));
    assert!(!SendWindow { since: at(0), ..window }.is_open(at(100)));
}

#[test]
fn a_node_that_cannot_be_asked_keeps_its_dialogs_and_is_told_later() {
    for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown] {
        assert!(matches!(unasked(Status::new(code, "")), SendError::Unreachable(_)), "{code}");
    }
    assert!(matches!(unasked(Status::aborted("")), SendError::Incomplete(_)));
    assert!(matches!(unasked(Status::failed_precondition("")), SendError::Refused(_)));
}

/// The state of this mailbox, with as many new messages.
fn update(mailbox: u32) -> MwiUpdate {
    let counts = MessageCounts { new: mailbox, saved: 1 };
    MwiUpdate { mailbox: MailboxId(mailbox.into()), number: mailbox.to_string(), counts }
}

fn change(further: impl Iterator<Item = u32>) -> LightChange {
    let LightState { mailbox, new, saved } = state(&update(1));
    LightChange { mailbox, new, saved, further: further.map(|n| state(&update(n))).collect(), ..Default::default() }
}

fn refused() -> Result<(), SendError> {
    Err(SendError::Refused("403".to_owned()))
}

fn incomplete() -> Result<(), SendError> {
    Err(SendError::Incomplete("one does not answer".to_owned()))
}

#[test]
fn states_of_a_change_are_read_in_their_order_up_to_the_size_of_a_batch() {
    let expected = |count: u32| (1..=count).map(update).map(|u| (u.mailbox, u.counts)).collect::<Vec<_>>();
    for (asked, taken) in [(1, 1), (3, 3), (32, 32), (33, 32), (10_000, 32)] {
        let read = states(&change(2..=asked)).unwrap_or_else(|status| panic!("{status}"));
        assert_eq!(read, expected(taken), "{asked}");
    }
    let mut wrong = change(2..=3);
    wrong.further[1].mailbox = b"short".to_vec().into();
    assert_eq!(states(&wrong).map_err(|status| status.code()), Err(Code::InvalidArgument));
    assert_eq!(states(&LightChange::default()).map_err(|status| status.code()), Err(Code::InvalidArgument));
}

#[test]
fn each_state_of_a_request_has_its_own_outcome_and_one_alone_has_it_as_status() {
    let told = vec![Ok(()), refused(), incomplete(), Ok(())];
    let answer = reply(told.clone(), false);
    let read = taken(Ok(answer.clone()), 6).expect("an outcome for each");
    assert_eq!((read[0].clone(), read[1].clone(), read[3].clone(), read.len()), (Ok(()), refused(), Ok(()), 4));
    assert!(matches!(&read[2], Err(SendError::Incomplete(_))), "{read:?}");
    assert_eq!(taken(Ok(answer), 2).expect("outcomes").len(), 2, "not more than it was asked for");
    // As a holder of an earlier release expects it.
    let (of_refusal, of_silence) = (Some(Code::FailedPrecondition), Some(Code::Aborted));
    for (outcome, code) in [(Ok(()), None), (refused(), of_refusal), (incomplete(), of_silence)] {
        let answer = reply(vec![outcome], true);
        assert_eq!(answer.as_ref().err().map(Status::code), code);
        assert_eq!(taken(Ok(answer), 1).expect("an outcome")[0].is_ok(), code.is_none());
    }
}

/// A node of an earlier release notifies the subscribers of the first mailbox only.
#[test]
fn answer_of_an_earlier_release_concerns_the_first_state_only() {
    assert_eq!(taken(Ok(Ok(LightReply::default())), 5), Ok(vec![Ok(())]));
    let unanswered = taken(Ok(Err(Status::aborted("one does not answer"))), 5);
    assert_eq!(unanswered, Ok(vec![incomplete()]));
    assert_eq!(taken(Ok(Err(Status::failed_precondition("403"))), 5), Ok(vec![refused()]));
    assert!(matches!(taken(Ok(Err(Status::permission_denied("over"))), 5), Err(SendError::Incomplete(_))));
    assert!(matches!(taken(Ok(Err(Status::unavailable("restarts"))), 5), Err(SendError::Unreachable(_))));
    assert_eq!(taken(Err(SendError::NotHolder), 5), Err(SendError::NotHolder));
}

#[test]
fn list_arrives_in_pages() {
    for count in [0u128, 1, 4_096, 4_097, 10_000] {
        let all: Vec<_> = (0..count).map(|n| MailboxId(n * 7)).collect();
        let (mut found, mut pages) = (BTreeSet::new(), 0);
        loop {
            let page = page(&all, found.last().copied());
            assert!(add_page(&mut found, &page) && page.mailboxes.len() <= 65_536);
            pages += 1;
            if !page.more {
                break;
            }
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), all);
        assert_eq!(pages, count.div_ceil(4_096).max(1), "{count}");
    }
    let mut broken = page(&[MailboxId(1)], None);
    broken.mailboxes = broken.mailboxes.slice(..15);
    assert!(!add_page(&mut BTreeSet::new(), &broken));
}
