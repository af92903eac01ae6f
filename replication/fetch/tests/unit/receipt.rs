use twinbox_wire::replication::BlobPiece;

use super::*;

/// A piece in short: number, data, whether it is the last, absence.
fn piece(number: u32, data: &'static [u8], last: bool, absence: Absence) -> BlobPiece {
    BlobPiece { number, data: data.into(), last, absence: absence.into() }
}

fn data(number: u32, bytes: &'static [u8], last: bool) -> BlobPiece {
    piece(number, bytes, last, Absence::Unspecified)
}

/// Three blobs: of five bytes, of unknown length, empty.
fn wanted() -> Vec<Wanted> {
    [Some(5), None, Some(0)].into_iter().map(|length| Wanted::new(BlobHash([1; 32]), length)).collect()
}

/// The end of an answer of these pieces: of each blob its end and the bytes that came; and the error that ended it early.
fn answer(pieces: Vec<BlobPiece>) -> (Vec<String>, Option<String>, bool) {
    let mut wanted = wanted();
    let mut receipt = Receipt::new(&mut wanted);
    let error =
        pieces.into_iter().try_for_each(|piece| receipt.take_piece(piece)).err().map(|error| error.to_string());
    let complete = receipt.is_complete();
    let ends = receipt.ends();
    let show = |(wanted, end): (&Wanted, Option<Result<(), AskError>>)| {
        let end = end.map_or("open".into(), |end| end.map_or_else(|error| error.to_string(), |()| "whole".into()));
        format!("{end} {}", String::from_utf8_lossy(&wanted.bytes))
    };
    (wanted.iter().zip(ends).map(show).collect(), error, complete)
}

#[test]
fn answer_gives_each_blob_its_end() {
    let absent = |absence| piece(1, b"", false, absence);
    for (pieces, ends, error, complete) in [
        (vec![], ["open ", "open ", "open "], None, false),
        (
            vec![data(0, b"he", false), data(0, b"llo", true), data(1, b"any", true), data(2, b"", true)],
            ["whole hello", "whole any", "whole "],
            None,
            true,
        ),
        (
            vec![data(0, b"he", false), piece(0, b"", false, Absence::Unreadable), data(2, b"", true)],
            ["the peer does not send it: it cannot be read there he", "open ", "whole "],
            None,
            true,
        ),
        (
            vec![absent(Absence::GivenUp)],
            [
                "open ",
                "the peer does not send it: the records that named it were deleted and purged there ",
                "open ",
            ],
            None,
            false,
        ),
        // Shorter than its record says, and longer.
        (
            vec![data(0, b"hell", true)],
            ["the peer sent data of another length hell", "open ", "open "],
            None,
            false,
        ),
        (
            vec![data(0, b"hello", false), data(0, b"!", true)],
            ["open ", "open ", "open "],
            Some("the peer sent data of another length"),
            false,
        ),
        // Lies.
        (
            vec![data(1, b"any", true), data(0, b"hello", true)],
            ["open ", "whole any", "open "],
            Some("the peer sent an invalid answer: blobs out of order"),
            false,
        ),
        (
            vec![data(1, b"any", true), data(1, b"more", true)],
            ["open ", "whole any", "open "],
            Some("the peer sent an invalid answer: blobs out of order"),
            false,
        ),
        (
            vec![data(3, b"what", true)],
            ["open ", "open ", "open "],
            Some("the peer sent an invalid answer: a blob that was not asked for"),
            false,
        ),
        (
            vec![data(0, b"", false)],
            ["open ", "open ", "open "],
            Some("the peer sent an invalid answer: a piece without data"),
            false,
        ),
    ] {
        let expected = (ends.map(String::from).to_vec(), error.map(String::from), complete);
        assert_eq!(answer(pieces.clone()), expected, "{pieces:?}");
    }
}

#[test]
fn request_goes_on_where_the_first_blob_was_cut_off() {
    let mut wanted = wanted();
    let mut receipt = Receipt::new(&mut wanted);
    receipt.take_piece(data(0, b"he", false)).expect("a piece");
    let request = receipt.request();
    assert_eq!((request.offset, request.hash.len()), (2, 3));
}

/// Each message may take as long as a peer may be silent.
#[test]
fn answer_of_small_messages_ends_with_the_first_of_them() {
    static AUDIO: [u8; MESSAGE] = [7; MESSAGE];
    let unknown = || vec![Wanted::new(BlobHash([1; 32]), None), Wanted::new(BlobHash([2; 32]), None)];
    let full = vec![data(0, &AUDIO, false)];
    let both = |bytes: usize| vec![data(0, &AUDIO[..bytes], true), data(1, b"", true)];
    for (messages, is_right) in [
        (vec![full.clone(), full.clone(), both(3)], true),
        (vec![both(0)], true),
        (vec![full.clone(), vec![data(0, &AUDIO[..LEAST], true)], vec![data(1, b"short", true)]], true),
        (vec![full.clone(), vec![data(0, &AUDIO[..LEAST - 1], true)]], false),
        (vec![vec![data(0, b"x", false)]], false),
        (vec![vec![piece(0, b"", false, Absence::NotHere)]], false),
        (vec![vec![]], false),
    ] {
        let (mut wanted, sizes) = (unknown(), messages.iter().map(Vec::len).collect::<Vec<_>>());
        let mut receipt = Receipt::new(&mut wanted);
        let taken: Vec<bool> = messages.into_iter().map(|message| receipt.take(message).is_ok()).collect();
        let (last, before) = taken.split_last().expect("a message");
        assert!(before.iter().all(|taken| *taken) && *last == is_right, "{sizes:?}: {taken:?}");
        assert_eq!(receipt.is_complete(), is_right, "{sizes:?}");
    }
}
