//! Blocks as they are stored.

use super::*;

#[test]
fn each_block_comes_back_and_none_grows() {
    let repeated = b"mailbox 2001 of node a, ".repeat(40);
    let mixed: Vec<u8> = (0..1_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for block in [&[1][..], &[1; 127], &[1; 128], &[1; 1024], &[1; MOST], &[1; MOST + 1], &repeated, &mixed] {
        let stored = stored(block);
        assert!(stored.len() <= block.len());
        assert_eq!(block_in(&stored).as_deref(), Ok(block));
    }
    assert!(stored(&repeated).len() < repeated.len() / 4);
}

#[test]
fn damaged_bytes_are_an_error() {
    let whole = stored(&[1; 1024]).into_owned();
    assert_eq!(whole[0], COMPRESSED);
    for end in 1..=LENGTH {
        assert_eq!(block_in(&whole[..end]), Err(Malformed::CutShort));
    }
    for end in 1 + LENGTH..whole.len() {
        assert_eq!(block_in(&whole[..end]), Err(Malformed::Compression));
    }
    for length in [0, 1023, 1025, MOST as u32 + 1, u32::MAX] {
        let mut other = whole.clone();
        other[1..=LENGTH].copy_from_slice(&length.to_be_bytes());
        assert_eq!(block_in(&other), Err(Malformed::Compression), "{length}");
    }
}
