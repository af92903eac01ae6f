//! Any changes of both sides, with runs that are cut at any action: in the end both sides agree, and nothing was lost.

use proptest::prelude::*;
use twinbox_mailbox::{Folder, Mark};
use twinbox_mailbox_sync::RemoteFlags;

use crate::model::{Cut, Op, World};

fn any_folder() -> impl Strategy<Value = Folder> {
    prop::sample::select(vec![Folder::New, Folder::Heard, Folder::Saved])
}

fn any_mark() -> impl Strategy<Value = Mark> {
    prop::sample::select(vec![Mark::New, Mark::Heard, Mark::Saved, Mark::Deleted, Mark::Undeleted])
}

prop_compose! {
    fn any_flags()(
        seen in any::<bool>(),
        flagged in any::<bool>(),
        deleted in prop::bool::weighted(0.2),
    ) -> RemoteFlags {
        RemoteFlags { seen, flagged, deleted }
    }
}

prop_compose! {
    fn any_cut()(
        before in prop::option::of(0..6_usize),
        append in prop::option::of(any::<bool>()),
        mark in prop::option::weighted(0.3, (0..4_usize, 0..8_usize, any_mark())),
    ) -> Cut {
        Cut { before, append, mark }
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => any_folder().prop_map(Op::New),
        2 => Just(Op::Part),
        2 => (0..8_usize).prop_map(Op::Complete),
        6 => (0..8_usize, any_mark()).prop_map(|(at, mark)| Op::Mark(at, mark)),
        1 => (0..8_usize).prop_map(Op::Purge),
        6 => (0..8_usize, any_flags()).prop_map(|(at, flags)| Op::Flag(at, flags)),
        2 => (0..8_usize).prop_map(Op::Expunge),
        3 => (0..8_usize).prop_map(Op::MoveOut),
        3 => (0..8_usize).prop_map(Op::MoveBack),
        1 => Just(Op::Foreign),
        1 => any::<bool>().prop_map(|keep_flags| Op::Reset { keep_flags }),
        1 => Just(Op::Lost),
        1 => Just(Op::Wiped),
        2 => (0..64_usize).prop_map(Op::Restored),
        8 => any_cut().prop_map(Op::Sync),
        4 => Just(Op::Sync(Cut::default())),
    ]
}

/// Changes without anybody deleting anything.
fn harmless_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => any_folder().prop_map(Op::New),
        2 => Just(Op::Part),
        2 => (0..8_usize).prop_map(Op::Complete),
        3 => (0..8_usize, prop::sample::select(vec![Mark::New, Mark::Heard, Mark::Saved]))
            .prop_map(|(at, mark)| Op::Mark(at, mark)),
        3 => (0..8_usize, any::<bool>(), any::<bool>()).prop_map(|(at, seen, flagged)| {
            Op::Flag(at, RemoteFlags { seen, flagged, deleted: false })
        }),
        1 => Just(Op::Foreign),
        2 => any::<bool>().prop_map(|keep_flags| Op::Reset { keep_flags }),
        2 => Just(Op::Lost),
        2 => Just(Op::Wiped),
        3 => (0..64_usize).prop_map(Op::Restored),
        6 => (prop::option::of(0..6_usize), prop::option::of(any::<bool>()))
            .prop_map(|(before, append)| Op::Sync(Cut { before, append, mark: None })),
        4 => Just(Op::Sync(Cut::default())),
    ]
}

fn run(condstore: bool, ops: &[Op]) -> World {
    let mut world = World::new(condstore);
    ops.iter().for_each(|op| world.apply(op));
    world.settle(false);
    world.check_agreement();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// `World` checks at each step that no message is twice in the folder, that each action meets its own mail, and
    /// that only messages that a user deleted are deleted here; `settle` checks that a plan without changes is empty.
    #[test]
    fn both_sides_agree_after_any_changes_and_cuts(
        condstore in any::<bool>(),
        ops in prop::collection::vec(any_op(), 1..60),
    ) {
        let mut world = run(condstore, &ops);
        // An administrator accepts what is held back.
        let held: Vec<_> = world.here.keys().copied().filter(|id| world.is_held(*id)).collect();
        prop_assert_eq!(world.state.held_back as usize, held.len());
        world.deleted_by_hand.extend(held);
        world.settle(true);
        world.check_agreement();
        prop_assert_eq!(world.state.held_back, 0);
        prop_assert!(!world.here.keys().any(|id| world.is_held(*id)));
    }

    #[test]
    fn resets_copies_and_empty_folders_delete_nothing(
        condstore in any::<bool>(),
        ops in prop::collection::vec(harmless_op(), 1..60),
    ) {
        let world = run(condstore, &ops);
        prop_assert!(world.here.values().all(|message| !message.state.deleted));
    }
}
