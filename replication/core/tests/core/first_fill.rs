//! The end of a fill.

use twinbox_replication_core::first_fill::FillStep;

#[test]
fn fill_ends_when_a_source_sent_all_or_no_source_is_possible() {
    let (source, filling) = (|given| Some((true, given)), |given| Some((false, given)));
    let away = None;
    for (peers, expected) in [
        (vec![], FillStep::Wait),
        (vec![away], FillStep::Wait),
        (vec![source(false)], FillStep::Wait),
        (vec![source(true)], FillStep::Filled),
        // An absent node causes no delay while another is a source.
        (vec![source(true), away], FillStep::Filled),
        (vec![source(true), source(false)], FillStep::Wait),
        (vec![source(true), filling(false)], FillStep::Filled),
        // Two filling nodes do not wait for each other; the third may have all.
        (vec![filling(true)], FillStep::NoSource),
        (vec![filling(false)], FillStep::Wait),
        (vec![filling(true), away], FillStep::Wait),
        (vec![filling(true), filling(true)], FillStep::NoSource),
    ] {
        assert_eq!(FillStep::of(&peers), expected, "{peers:?}");
    }
}
