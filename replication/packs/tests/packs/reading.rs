//! Reading of several parts at once.

use proptest::{prelude::*, sample::Index};
use twinbox_packs::{Extent, Frame, PackError};

use crate::{append, chunk, open, sim::SimMedium};

/// Bytes that tell frames and places apart.
fn payload(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (number * 31 + at) as u8).collect()
}

#[test]
fn wrong_part_and_missing_pack_are_refused_wherever_they_are() {
    let packs = open(&SimMedium::new(0));
    let [one, two] = [1, 2].map(|number| append(&packs, number, b"hello"));
    let beyond = Err(PackError::Range { start: 4, end: 6, length: 5 });
    assert_eq!(packs.read_all(&[(one, 0..5), (two, 4..6)]), beyond);
    let elsewhere = Extent { pack: 7, ..two };
    assert_eq!(packs.read_all(&[(one, 0..5), (elsewhere, 0..5)]), Err(PackError::NoPack { pack: 7 }));
    assert_eq!(packs.read_all(&[(one, 1..5), (two, 0..4), (one, 0..1)]).as_deref(), Ok(&b"ellohellh"[..]));
    assert_eq!(packs.read_all(&[]).as_deref(), Ok(&b""[..]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn parts_follow_each_other_whatever_lies_between_them(
        lengths in prop::collection::vec(prop_oneof![9 => 0_usize..3_000, 1 => 0_usize..300_000], 1..60),
        parts in prop::collection::vec((any::<Index>(), any::<[Index; 2]>()), 0..40),
        in_order in any::<bool>(),
    ) {
        let packs = open(&SimMedium::new(0));
        let payloads: Vec<_> = lengths.iter().enumerate().map(|(number, length)| payload(number, *length)).collect();
        let frames: Vec<Frame<'_>> = payloads.iter().map(|payload| chunk(1, payload)).collect();
        let extents = packs.append(&frames).expect("an append");
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|(which, ends)| {
                let number = which.index(payloads.len());
                let mut ends = ends.map(|end| end.index(payloads[number].len() + 1));
                ends.sort_unstable();
                (number, ends[0]..ends[1])
            })
            .collect();
        if in_order {
            parts.sort_by_key(|(number, part)| (*number, part.start));
        }
        let expected: Vec<u8> =
            parts.iter().flat_map(|(number, part)| payloads[*number][part.clone()].to_vec()).collect();
        let places: Vec<_> = parts
            .into_iter()
            .map(|(number, part)| (extents[number], part.start as u32..part.end as u32))
            .collect();
        prop_assert!(packs.read_all(&places).as_ref() == Ok(&expected));
    }
}
