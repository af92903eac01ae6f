//! The longest gap between granted keep-alives.

use std::time::Duration;

use twinbox_roles_core::LongestGap;

fn ms(ms: u64) -> Duration {
    Duration::from_secs(7_000) + Duration::from_millis(ms)
}

#[test]
fn a_gap_runs_from_the_sending_of_one_keep_alive_to_the_answer_to_the_next() {
    let mut gaps = LongestGap::default();
    assert_eq!(gaps.longest(ms(0)), None, "nothing was granted");
    // The first answer may take any time: no lease was at stake.
    gaps.granted(ms(0), ms(500));
    assert_eq!(gaps.longest(ms(510)), Some(Duration::from_millis(510)), "the gap that has begun");
    gaps.granted(ms(150), ms(520));
    gaps.granted(ms(300), ms(530));
    assert_eq!(gaps.longest(ms(530)), Some(Duration::from_millis(520)), "sent at 0, the next answered at 520");
    // An overtaken keep-alive resets nothing.
    gaps.granted(ms(200), ms(540));
    gaps.granted(ms(450), ms(560));
    assert_eq!(gaps.longest(ms(600)), Some(Duration::from_millis(520)));
    assert_eq!(gaps.longest(ms(2_000)), Some(Duration::from_millis(1_550)), "since the one sent at 450");
}

#[test]
fn a_gap_is_remembered_for_the_window_and_then_forgotten() {
    let mut gaps = LongestGap::default();
    gaps.granted(ms(0), ms(10));
    let mut at = 600;
    gaps.granted(ms(at), ms(at));
    let long = Duration::from_millis(600);
    let window = u64::try_from(LongestGap::WINDOW.as_millis()).expect("small");
    while at < window {
        at += 150;
        gaps.granted(ms(at), ms(at));
        assert_eq!(gaps.longest(ms(at)), Some(long), "after {at} ms");
    }
    for _ in 0..2 * 60_000 / 150 {
        at += 150;
        gaps.granted(ms(at), ms(at));
    }
    assert_eq!(gaps.longest(ms(at)), Some(Duration::from_millis(150)), "two minutes after the window");
}
