use super::*;

#[test]
fn rate_is_that_of_the_last_samples() {
    let at = |s: u64| BootInstant::from_nanos(s * 1_000_000_000);
    let mut counted = Counted::default();
    assert_eq!(counted.rate(), 0.0);
    for second in 0..30 {
        counted.add(at(second), if second < 15 { 0 } else { (second - 15) * 7 });
    }
    assert_eq!(counted.rate(), 7.0);
    counted.add(at(30), 0);
    assert_eq!(counted.rate(), 0.0, "a peer with another disk");
}
