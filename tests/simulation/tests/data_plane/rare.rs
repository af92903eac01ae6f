//! Steps that the product once did not survive, and others that random histories rarely take.

use super::{
    Mistake, ModelStep,
    ModelStep::{
        Compare, Cut, Delete, DropAudio, Exchange, GiveUp, Leave, Purge, Renumber, Report, Send, Sync, Wipe, Write,
    },
    play,
};

/// Each with the mistake that it finds.
#[test]
fn rare_interleavings_lose_nothing() {
    let scripts: [(Mistake, &[ModelStep]); 10] = [
        (
            Mistake::UnmarkedRepair,
            &[
                Write(2, 0),
                Cut(2, true),
                Exchange(2, 1),
                Wipe(2),
                Write(0, 1),
                Cut(0, true),
                Exchange(1, 2),
                Compare(2, 1),
                Wipe(1),
            ],
        ),
        (
            Mistake::ScanWithoutCounters,
            &[
                Write(0, 0),
                Delete(0, 0),
                Exchange(0, 1),
                Exchange(0, 2),
                Purge(0),
                Purge(1),
                Purge(2),
                Cut(0, true),
                Wipe(2),
                Exchange(0, 2),
                Exchange(0, 2),
                Exchange(0, 2),
                Exchange(0, 2),
                Write(2, 1),
            ],
        ),
        (
            Mistake::ScanBlindToStreams,
            &[
                Write(1, 0),
                Exchange(1, 0),
                Wipe(1),
                Write(0, 1),
                Exchange(0, 1),
                Delete(1, 0),
                Write(0, 3),
                Write(0, 2),
                Exchange(1, 0),
                Exchange(1, 2),
                Purge(0),
                Exchange(0, 1),
                Purge(1),
                Cut(0, true),
                Wipe(2),
                Exchange(0, 2),
                Exchange(1, 2),
            ],
        ),
        (
            Mistake::ScanRemovesDeletions,
            &[
                Write(1, 1),
                Write(0, 0),
                Exchange(0, 1),
                Delete(1, 0),
                Exchange(1, 0),
                Write(1, 1),
                Exchange(0, 2),
                Purge(1),
                Purge(2),
                Write(1, 1),
                Cut(2, false),
                Wipe(0),
                Exchange(1, 2),
                Exchange(1, 0),
                Exchange(2, 0),
            ],
        ),
        (
            Mistake::MarksNotWaitedFor,
            &[
                Write(0, 9),
                Write(2, 4),
                Exchange(0, 1),
                Write(1, 0),
                Delete(1, 9),
                Exchange(1, 0),
                Write(0, 0),
                Exchange(0, 2),
                Purge(0),
                Wipe(1),
                Write(0, 0),
                Exchange(2, 1),
                Wipe(2),
                Cut(0, true),
                Exchange(1, 0),
                Exchange(0, 1),
                Exchange(0, 1),
                Exchange(1, 2),
                Exchange(0, 1),
                Exchange(0, 1),
                Write(1, 0),
                Exchange(1, 2),
            ],
        ),
        // Member 2 gives row 5 a new UID beside its deletion; member 1 gives it another one when member 2 has removed it.
        (
            Mistake::PurgeOfChangedRows,
            &[
                Write(2, 5),
                Write(0, 6),
                Exchange(2, 0),
                Exchange(0, 1),
                Exchange(0, 2),
                Delete(1, 5),
                Renumber(2),
                Write(1, 0),
                Exchange(1, 2),
                Exchange(2, 0),
                Exchange(2, 1),
                Purge(2),
                Renumber(1),
                Exchange(1, 2),
                GiveUp(0),
                GiveUp(1),
            ],
        ),
        // The change is in the memory of member 1, and goes with its stream.
        (Mistake::AcknowledgedWhenSent, &[Write(0, 0), Send(0, 1), Wipe(0), Sync(1)]),
        // Member 2 has the row by a scan, and only member 0 has the audio.
        (
            Mistake::AcknowledgedWithoutAudio,
            &[
                Write(0, 0),
                Cut(0, true),
                Exchange(0, 2),
                Exchange(0, 2),
                Exchange(0, 2),
                Exchange(0, 2),
                Report(2, 0),
                Wipe(0),
            ],
        ),
        (
            Mistake::LeaveWithoutHandOver,
            &[Write(0, 0), Cut(0, true), Exchange(0, 2), Exchange(0, 2), Exchange(0, 2), Exchange(0, 2), Leave(0)],
        ),
        // Row 1 has the audio of row 0, which members 1 and 2 have purged.
        (
            Mistake::UnpinnedAudio,
            &[
                Write(0, 0),
                Exchange(0, 1),
                Exchange(0, 2),
                Delete(0, 0),
                Exchange(0, 1),
                Exchange(0, 2),
                Purge(1),
                Purge(2),
                DropAudio(2),
                Write(0, 1),
                Send(0, 1),
                DropAudio(1),
                Sync(1),
                Report(1, 0),
                Wipe(0),
            ],
        ),
    ];
    for (mistake, steps) in scripts {
        assert_eq!(play(3, steps, Mistake::None), Ok(()), "{mistake:?}");
        assert!(play(3, steps, mistake).is_err(), "{mistake:?} is not found");
    }
}
