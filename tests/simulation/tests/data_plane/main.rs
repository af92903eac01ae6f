//! The data plane as a model: members that write, stream, fill by state, compare, purge and cut their logs, leave and join, while
//! disks are wiped, set back, given up, and lose rows. Records and audio are apart, and messages share audio. Each row is a message of
//! one mailbox with the UIDs that the product gives.
//!
//! After the heal all copies are equal, nothing deleted is back, and no UID in force was ever seen as that of another message, on any
//! member. A change that was acknowledged *alone* is there unless the disk of its origin was lost, one *on two* unless both disks were.
//! Planted mistakes are found.
//!
//! No rule promises a row whose only good copy is lost: a disk loses a row only while another disk has all of it, and the last disk that
//! has it stays until the row is repaired, or deleted.

mod mailbox;
mod member;
mod rare;
mod world;

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};

use world::World;

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mistake {
    #[default]
    None,
    /// A disk that was set back numbers its changes on from there (rule D1).
    ReusedOrigin,
    /// A member that fills does not hand over what only it has (rule D2).
    RefillWithoutSalvage,
    /// A deleted row goes before every member has the deletion (rule D3).
    PurgeBeforeStable,
    /// A deleted row goes although it was changed beside its deletion, and may be changed again (rule D3).
    PurgeOfChangedRows,
    /// At equal vectors a row that one side lost is removed on the other (rule D3).
    DamageDeletesTheGoodCopy,
    /// A scan goes on with the rows of another source (rule D1).
    ScanFromTwoSources,
    /// Changes that a stream brings behind the page of their row are not judged again by the source's rows (rule D3).
    ScanBlindToStreams,
    /// A scan removes rows whose deletion is here.
    ScanRemovesDeletions,
    /// A scan begins before its source has the changes that rows of an interrupted scan may show, and removes nothing.
    MarksNotWaitedFor,
    /// A row that a comparison copies is not marked with what it may show beyond the vector.
    UnmarkedRepair,
    /// Of two messages with one UID only the later one gets another (rule D10).
    OneNewUidOfTwo,
    /// A scan brings the messages, and not how many UIDs were given (rule D10).
    ScanWithoutCounters,
    /// A change is acknowledged *on two* when it was sent, not when the follower has synced it (rule A3).
    AcknowledgedWhenSent,
    /// A follower acknowledges a change whose audio it lacks (rule A3).
    AcknowledgedWithoutAudio,
    /// Audio that a follower said it has goes before the change that names it is synced (rule D9).
    UnpinnedAudio,
    /// A member leaves with changes or audio that no other member has (rule D2).
    LeaveWithoutHandOver,
}

/// Rows of the model.
const ROWS: u8 = 10;
/// Rows of a page of a scan.
const PAGE: u8 = 3;

#[derive(Debug, Clone, Copy)]
enum ModelStep {
    /// A new row with its audio, or a mark on one that is here.
    Write(usize, u8),
    Delete(usize, u8),
    /// Changes of the log of one member go to another and are synced there, or a page of its rows.
    Exchange(usize, usize),
    /// Changes of the log of one member go to the memory of another; later they are synced there.
    Send(usize, usize),
    Sync(usize),
    /// A follower tells an origin what it has synced.
    Report(usize, usize),
    /// Missing audio is fetched.
    Fetch(usize, usize),
    Compare(usize, usize),
    /// All that all members have is cut, or with `true` everything.
    Cut(usize, bool),
    Purge(usize),
    /// Audio without use is removed.
    DropAudio(usize),
    /// The disk is lost.
    Wipe(usize),
    /// The disk is copied; later it is put back.
    Copy(usize),
    SetBack(usize),
    /// The disk loses a row.
    Damage(usize, u8),
    /// Messages whose UIDs clash get new ones.
    Renumber(usize),
    /// The member leaves in order, if it has nothing left to hand over.
    Leave(usize),
    /// The disk is lost, and the member is removed with `--lost`.
    GiveUp(usize),
    /// A new member comes with an empty disk, if one is missing.
    Join,
}

impl ModelStep {
    /// The members that take part, one alone twice; `None` for a new one.
    fn members(self) -> Option<(usize, usize)> {
        match self {
            Self::Exchange(one, other)
            | Self::Send(one, other)
            | Self::Report(one, other)
            | Self::Fetch(one, other)
            | Self::Compare(one, other) => Some((one, other)),
            Self::Write(at, _)
            | Self::Delete(at, _)
            | Self::Sync(at)
            | Self::Cut(at, _)
            | Self::Purge(at)
            | Self::DropAudio(at)
            | Self::Wipe(at)
            | Self::Copy(at)
            | Self::SetBack(at)
            | Self::Damage(at, _)
            | Self::Renumber(at)
            | Self::Leave(at)
            | Self::GiveUp(at) => Some((at, at)),
            Self::Join => None,
        }
    }
}

/// The steps of members that stay, each of whose changes is synced when it is sent.
fn usual_step(members: usize) -> impl Strategy<Value = ModelStep> {
    let (one, row) = (0..members, 0..ROWS);
    let two = (one.clone(), one.clone());
    prop_oneof![
        6 => (one.clone(), row.clone()).prop_map(|(one, row)| ModelStep::Write(one, row)),
        2 => (one.clone(), row.clone()).prop_map(|(one, row)| ModelStep::Delete(one, row)),
        14 => two.clone().prop_map(|(from, to)| ModelStep::Exchange(from, to)),
        3 => two.clone().prop_map(|(from, to)| ModelStep::Fetch(from, to)),
        2 => two.prop_map(|(one, other)| ModelStep::Compare(one, other)),
        3 => (one.clone(), any::<bool>()).prop_map(|(one, all)| ModelStep::Cut(one, all)),
        2 => one.clone().prop_map(ModelStep::Purge),
        1 => one.clone().prop_map(ModelStep::Wipe),
        1 => one.clone().prop_map(ModelStep::Copy),
        1 => one.clone().prop_map(ModelStep::SetBack),
        1 => (one.clone(), row).prop_map(|(one, row)| ModelStep::Damage(one, row)),
        2 => one.prop_map(ModelStep::Renumber),
    ]
}

fn any_step(members: usize) -> impl Strategy<Value = ModelStep> {
    let one = 0..members;
    let two = (one.clone(), one.clone());
    prop_oneof![
        38 => usual_step(members),
        3 => two.clone().prop_map(|(from, to)| ModelStep::Send(from, to)),
        3 => one.clone().prop_map(ModelStep::Sync),
        4 => two.prop_map(|(follower, at)| ModelStep::Report(follower, at)),
        2 => one.clone().prop_map(ModelStep::DropAudio),
        1 => one.clone().prop_map(ModelStep::Leave),
        1 => one.prop_map(ModelStep::GiveUp),
        3 => Just(ModelStep::Join),
    ]
}

fn play(members: usize, steps: &[ModelStep], mistake: Mistake) -> Result<(), String> {
    let mut world = World::new(members, mistake);
    steps.iter().for_each(|step| world.step(*step));
    world.heal()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn three_members_lose_nothing_and_agree(steps in vec(any_step(3), 1..200)) {
        prop_assert_eq!(play(3, &steps, Mistake::None), Ok(()));
    }

    #[test]
    fn five_members_lose_nothing_and_agree(steps in vec(any_step(5), 1..250)) {
        prop_assert_eq!(play(5, &steps, Mistake::None), Ok(()));
    }
}

/// A planted mistake is found within some thousand runs of such steps.
fn assert_found(members: usize, mistake: Mistake, histories: impl Strategy<Value = Vec<ModelStep>>) {
    let mut runner = TestRunner::deterministic();
    let found = (0..20_000).find(|_| {
        let steps = histories.new_tree(&mut runner).expect("steps").current();
        play(members, &steps, mistake).is_err()
    });
    println!("{mistake:?}: found in run {found:?}");
    assert!(found.is_some(), "{mistake:?} is never found");
}

fn assert_all_found(members: usize, longest: usize) {
    for mistake in [
        Mistake::ReusedOrigin,
        Mistake::RefillWithoutSalvage,
        Mistake::PurgeBeforeStable,
        Mistake::DamageDeletesTheGoodCopy,
        Mistake::ScanFromTwoSources,
        Mistake::OneNewUidOfTwo,
        Mistake::ScanWithoutCounters,
    ] {
        assert_found(members, mistake, vec(usual_step(members), 1..longest));
    }
    for mistake in [Mistake::AcknowledgedWhenSent, Mistake::LeaveWithoutHandOver] {
        assert_found(members, mistake, vec(any_step(members), 1..longest));
    }
}

#[test]
fn broken_rules_are_found_with_three_members() {
    assert_all_found(3, 160);
}

#[test]
fn broken_rules_are_found_with_five_members() {
    assert_all_found(5, 200);
}
