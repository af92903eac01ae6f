use super::*;

fn at(ms: u64) -> BootInstant {
    BootInstant::from_nanos(ms * 1_000_000)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn prober_sends_one_probe_at_a_time() {
    let mut prober = StreamProber::new(ms(250));
    assert_eq!(prober.pause(at(0)), ms(0));
    assert_eq!(prober.tick(at(0)), Some(ProberAction::Send(1)));
    assert_eq!((prober.tick(at(100)), prober.pause(at(100))), (None, ms(150)));
    assert_eq!(prober.answer(1, at(120)), [ProberAction::Answered { sent: at(0), took: 120 }]);
    assert_eq!(prober.answer(1, at(121)), [], "answered twice");
    assert_eq!((prober.tick(at(200)), prober.pause(at(200))), (None, ms(50)));
    assert_eq!(prober.tick(at(250)), Some(ProberAction::Send(2)));
    assert_eq!(prober.answer(7, at(260)), [], "unknown probe");
}

#[test]
fn silence_is_reported_once_until_a_late_answer() {
    let mut prober = StreamProber::new(ms(250));
    prober.tick(at(0));
    assert_eq!(prober.tick(at(250)), Some(ProberAction::Lost));
    assert_eq!((prober.tick(at(500)), prober.pause(at(500))), (None, ms(250)));
    assert_eq!(prober.answer(1, at(600)), [ProberAction::Back, ProberAction::Send(2)]);
    assert_eq!(prober.answer(2, at(610)), [ProberAction::Answered { sent: at(600), took: 10 }]);
}
