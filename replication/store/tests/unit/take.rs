use super::*;

fn piece(pack: u32, offset: u32, length: u32) -> Extent {
    Extent { pack, offset, length }
}

#[test]
fn pieces_that_overlap_are_cut_and_found_by_range() {
    let mut pieces = Pieces::default();
    pieces.add(10, piece(1, 100, 10));
    pieces.add(0, piece(2, 500, 30));
    pieces.add(5, piece(3, 900, 10));
    assert!(pieces.covered().iter().eq(std::iter::once(0..30)));
    assert_eq!(pieces.places(0..30), [piece(2, 500, 10), piece(1, 100, 10), piece(2, 520, 10)]);
    assert_eq!(pieces.places(8..12), [piece(2, 508, 2), piece(1, 100, 2)]);
    assert_eq!(pieces.places(20..20), []);
    assert_eq!(pieces.places(25..99), [piece(2, 525, 5)]);
    assert_eq!((pieces.first_pack(), pieces.bytes_in(2), pieces.bytes_in(3)), (Some(1), 20, 0));
    assert!(pieces.replace(10, piece(1, 100, 10), piece(7, 1, 10)));
    assert!(!pieces.replace(10, piece(1, 100, 10), piece(8, 1, 10)), "it is there no more");
    assert_eq!((pieces.first_pack(), pieces.bytes_in(7), pieces.bytes_in(1)), (Some(2), 10, 0));
    assert!(pieces.replace(0, piece(2, 500, 10), piece(7, 20, 10)));
    assert_eq!((pieces.first_pack(), pieces.bytes_in(7), pieces.bytes_in(2)), (Some(2), 20, 10));
}

#[test]
fn hash_follows_bytes_in_order_only() {
    let mut hashed = Hashed::default();
    for (offset, bytes) in [(0, "ab"), (4, "ef"), (2, "cd"), (0, "ab")] {
        hashed.follow(offset, bytes.as_bytes());
    }
    assert_eq!((hashed.upto(), hashed.hash().0), (4, *blake3::hash(b"abcd").as_bytes()));
}

#[test]
fn hash_is_that_of_the_whole_whatever_the_pieces_and_whenever_it_is_asked_for() {
    let audio: Vec<u8> = (0..3 * AT_ONCE + 5).map(|at| (at % 251) as u8).collect();
    for piece in [1, 2_000, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 1, audio.len()] {
        let mut hashed = Hashed::default();
        for bytes in audio.chunks(piece) {
            hashed.follow(hashed.upto(), bytes);
            let upto = hashed.upto() as usize;
            assert!(hashed.pending.len() < AT_ONCE);
            if upto.is_multiple_of(7) || upto == audio.len() {
                assert_eq!(hashed.clone().hash().0, *blake3::hash(&audio[..upto]).as_bytes(), "{piece} {upto}");
            }
        }
    }
}
