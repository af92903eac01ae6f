//! Digits, ports, time-outs and statistics over real sockets.

use std::{
    net::UdpSocket,
    sync::{Arc, Mutex, mpsc::Receiver},
    time::Duration,
};

use crate::peer::{LOCALHOST, SOON, TestCall, engine, speech};
use bytes::Bytes;
use tokio::sync::mpsc;
use twinbox_media::{
    ChunkSink, Clip, Codec, Engine, MediaConfig, MediaError, MediaEvent, RecordSpec, Remote, StopCause,
};

#[tokio::test]
async fn key_with_repeated_end_packets_is_one_digit() {
    let engine = engine(23_000..=23_019);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    for key in "1123#*".chars() {
        call.peer.say(&speech(320));
        call.peer.press(key);
    }
    for key in "1123#*".chars() {
        assert_eq!(call.event().await, MediaEvent::Digit(key));
    }
    // A peer that answered with a number of its own may send the one of the offer.
    let Remote { dtmf, .. } = call.remote();
    call.negotiate(Remote { dtmf: Some(96), own_dtmf: dtmf, ..call.remote() }).await;
    call.peer.press('7');
    assert_eq!(call.event().await, MediaEvent::Digit('7'));
    call.negotiate(Remote { dtmf: None, ..call.remote() }).await;
    call.peer.press('9');
    let more = tokio::time::timeout(Duration::from_millis(100), call.events.recv()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(call.session.counters().dropped, 7, "not negotiated, not taken");
}

/// Health checks rely on this: a thread without calls turns too, so a wheel that does not turn means a hang.
#[tokio::test]
async fn idle_threads_keep_turning() {
    let engine = engine(23_100..=23_101);
    let still = engine.stalled_for();
    assert!(still < SOON, "{still:?}");
    let mut seen_older = false;
    // The value grows, then the thread turns.
    loop {
        let now = engine.stalled_for();
        assert!(now < SOON, "the thread stands still for {now:?}");
        seen_older |= now > Duration::from_millis(100);
        if seen_older && now < Duration::from_millis(50) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A sink that blocks, contrary to its contract.
struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);

impl ChunkSink for Stuck {
    fn chunk(&self, _: u64, _: Bytes) {
        // Returns when the test has seen the block, or has failed and dropped the sender.
        let _ = self.0.lock().unwrap().recv();
    }
}

#[tokio::test]
async fn hanging_thread_is_detected() {
    let engine = engine(23_110..=23_119);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let (release, held) = std::sync::mpsc::channel();
    let sink = Arc::new(Stuck(Mutex::new(held)));
    call.session.record(RecordSpec { max: SOON, end_silence: None, sink });
    call.peer.say(&speech(8_000));
    let seen = async {
        // Longer than the turn interval of an idle thread.
        while engine.stalled_for() < Duration::from_millis(900) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, seen).await.expect("it stands still for all to see");
    drop(release);
    let turns = async {
        while engine.stalled_for() > Duration::from_millis(50) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, turns).await.expect("it turns again");
}

#[tokio::test]
async fn ports_are_even_limited_and_reused() {
    // One pair has its RTP port taken by another socket, another pair its RTCP port; the last port has no pair.
    let _taken = [23_022, 23_027].map(|port| UdpSocket::bind((LOCALHOST, port)).unwrap());
    let engine = engine(23_019..=23_028);
    let (events, mut ended) = mpsc::channel(1);
    let first = engine.open(events).unwrap();
    let (events, _second_events) = mpsc::channel(1);
    let second = engine.open(events.clone()).unwrap();
    assert_eq!((first.local_port(), second.local_port()), (23_020, 23_024));
    match engine.open(events.clone()) {
        Err(error @ MediaError::NoPort { .. }) => {
            let text = error.to_string();
            assert!(text.contains("no RTP port is free in 23019-23028: 2 are in use"), "{text}");
        }
        other => panic!("{:?}", other.map(|s| s.local_port())),
    }
    assert_eq!(engine.stats().sessions, 2);
    first.close();
    assert_eq!(tokio::time::timeout(SOON, ended.recv()).await, Ok(None));
    let third = loop {
        match engine.open(events.clone()) {
            Ok(session) => break session,
            // The call is dropped field by field, its port last.
            Err(MediaError::NoPort { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(third.local_port(), 23_020);
}

#[test]
fn invalid_settings_are_refused() {
    for (config, words) in [
        (MediaConfig::new(LOCALHOST, 5_001..=5_001), "5001-5001 has no even port with the next one"),
        (MediaConfig { threads: 0, ..MediaConfig::new(LOCALHOST, 5_000..=5_100) }, "no media threads"),
    ] {
        let error = Engine::start(config).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn media_timeout_is_reported_once_and_not_on_hold() {
    let config =
        MediaConfig { media_timeout: Duration::from_millis(200), ..MediaConfig::new(LOCALHOST, 23_040..=23_059) };
    let engine = Engine::start(config).unwrap();
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    assert_eq!(call.event().await, MediaEvent::MediaTimeout);
    let nothing = async |call: &mut TestCall, when: &str| {
        let event = tokio::time::timeout(Duration::from_millis(500), call.events.recv()).await;
        assert!(event.is_err(), "{when}: {event:?}");
    };
    nothing(&mut call, "not twice").await;
    call.negotiate(Remote { receive: false, ..call.remote() }).await;
    nothing(&mut call, "on hold").await;
    call.negotiate(call.remote()).await;
    call.peer.say(&speech(160));
    assert_eq!(call.event().await, MediaEvent::MediaTimeout, "and again after a packet");
    call.peer.say(&speech(160));
    call.session.play(7, vec![Clip::Silence(500)]);
    assert_eq!(call.event().await, MediaEvent::PlayFinished(7), "a listening caller may be silent");
    assert_eq!(call.event().await, MediaEvent::MediaTimeout, "but not after the play");
    call.session.play(8, vec![Clip::Silence(20)]);
    assert_eq!(call.event().await, MediaEvent::PlayFinished(8));
    assert_eq!(call.event().await, MediaEvent::MediaTimeout, "and again after each play");
}

#[tokio::test]
async fn caller_whose_address_is_not_known_is_missed_also_while_something_is_to_be_played() {
    let config =
        MediaConfig { media_timeout: Duration::from_millis(200), ..MediaConfig::new(LOCALHOST, 23_420..=23_439) };
    let engine = Engine::start(config).unwrap();
    let (sender, mut events) = mpsc::channel(4);
    let session = engine.open(sender).unwrap();
    session.set_remote(Remote::new(None, Codec::Pcmu));
    session.play(1, vec![Clip::Silence(100)]);
    let event = tokio::time::timeout(SOON, events.recv()).await;
    assert_eq!(event, Ok(Some(MediaEvent::MediaTimeout)), "the play waits for the first packet");
}

/// An answer with both codecs, of which the peer sends the second.
#[tokio::test]
async fn either_codec_of_an_answer_is_recorded() {
    let engine = engine(23_440..=23_459);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let other = Some((Codec::Pcmu.payload_type(), Codec::Pcmu));
    call.negotiate(Remote { other, ..Remote { codec: Codec::Pcma, payload_type: 8, ..call.remote() } }).await;
    let tape = call.record(SOON, None).await;
    let spoken = speech(1_600);
    call.peer.say(&spoken);
    call.taken(10).await;
    call.session.stop_record();
    let MediaEvent::RecordStopped { length_bytes, codec, .. } = call.event().await else { panic!("another event") };
    assert_eq!((length_bytes, codec), (1_600, Codec::Pcma));
    assert_eq!(tape.audio(), twinbox_rtp::g711::transcode(Codec::Pcmu, Codec::Pcma, &spoken));
    assert_eq!(call.session.counters().dropped, 0);
}

#[tokio::test]
async fn flooded_port_does_not_starve_other_sessions() {
    let engine = engine(23_060..=23_079);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let sprayed = TestCall::open(&engine, Codec::Pcmu).await;
    let to = (LOCALHOST, sprayed.session.local_port());
    let spray = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..20_000 {
        // The test needs a full queue at the receiver.
        let _ = spray.send_to(&[0x80; 172], to);
    }
    call.peer.press('5');
    assert_eq!(call.event().await, MediaEvent::Digit('5'));
    assert_eq!(sprayed.session.counters().received, 0);
}

#[tokio::test]
async fn events_wait_for_a_slow_receiver() {
    let engine = engine(23_080..=23_099);
    let mut call = TestCall::open_with(&engine, Codec::Pcmu, 1).await;
    for key in "1234".chars() {
        call.peer.press(key);
    }
    call.taken(4 * 7).await;
    for key in "1234".chars() {
        assert_eq!(call.event().await, MediaEvent::Digit(key));
    }
}

#[tokio::test]
async fn burst_of_keys_drops_digits_but_no_recording_end() {
    let engine = engine(23_120..=23_139);
    let mut call = TestCall::open_with(&engine, Codec::Pcmu, 1).await;
    let _tape = call.record(SOON, None).await;
    // One event is in the channel, 64 wait.
    for press in 1..=80 {
        call.peer.press('5');
        call.taken(press * 7).await;
    }
    call.session.stop_record();
    call.session.play(7, vec![]);
    let mut digits = 0;
    loop {
        match call.event().await {
            MediaEvent::Digit('5') => digits += 1,
            MediaEvent::RecordStopped { cause: StopCause::Stopped, .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(call.event().await, MediaEvent::PlayFinished(7));
    assert!((65..80).contains(&digits), "{digits} keys were reported");
    assert_eq!(engine.stats().dropped.events, 80 - digits);
}

/// A sink that panics in the media thread.
struct Fatal;

impl ChunkSink for Fatal {
    fn chunk(&self, _: u64, _: bytes::Bytes) {
        panic!("a media thread is to die in this test");
    }
}

/// A sink that blocks its media thread until the test releases it.
struct Blocking(Mutex<Receiver<()>>);

impl ChunkSink for Blocking {
    fn chunk(&self, _: u64, _: bytes::Bytes) {
        let _ = self.0.lock().unwrap().recv();
    }
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Records to this sink and sends audio.
async fn record_into(call: &mut TestCall, sink: Arc<dyn ChunkSink>) {
    call.session.record(RecordSpec { max: SOON, end_silence: None, sink });
    call.negotiate(call.remote()).await;
    call.peer.say(&speech(160));
    call.session.stop_record();
}

#[tokio::test]
async fn panicked_thread_gets_no_sessions_and_is_reported() {
    let config = MediaConfig { threads: 2, ..MediaConfig::new(LOCALHOST, 23_140..=23_159) };
    let engine = Engine::start(config).unwrap();
    assert!(engine.health().ok);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    record_into(&mut call, Arc::new(Fatal)).await;
    until("the thread's death is seen", || !engine.health().ok).await;
    assert!(engine.health().detail.contains("media thread 0 has panicked"), "{:?}", engine.health());
    assert_eq!(tokio::time::timeout(SOON, call.events.recv()).await, Ok(None), "its calls see it end");
    // The other thread has more sessions than the dead one now, and still gets the new ones.
    let calls = [TestCall::open(&engine, Codec::Pcmu).await, TestCall::open(&engine, Codec::Pcmu).await];
    let [mut other, _] = calls;
    record_into(&mut other, Arc::new(Fatal)).await;
    let refused = loop {
        let (events, _receiver) = mpsc::channel(1);
        match engine.open(events) {
            Ok(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, MediaError::Stopped), "{refused}");
}

#[tokio::test]
async fn stuck_thread_is_reported_and_avoided_until_it_turns() {
    let config = MediaConfig { threads: 2, ..MediaConfig::new(LOCALHOST, 23_160..=23_179) };
    let engine = Engine::start(config).unwrap();
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let (release, held) = std::sync::mpsc::channel();
    record_into(&mut call, Arc::new(Blocking(Mutex::new(held)))).await;
    until("it is seen to be stuck", || !engine.health().ok).await;
    assert!(engine.health().detail.contains("media thread 0 is stuck"), "{:?}", engine.health());
    // Answered although the other thread has fewer sessions.
    let _calls = [TestCall::open(&engine, Codec::Pcmu).await, TestCall::open(&engine, Codec::Pcmu).await];
    drop(release);
    until("it turns again", || engine.health().ok).await;
}

#[tokio::test]
async fn lateness_is_that_of_this_node_and_not_of_a_slow_sender() {
    let engine = engine(23_100..=23_119);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    // 30 ms pass between packets that are 20 ms apart by their timestamps.
    for _ in 0..20 {
        call.peer.say(&speech(160));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    call.taken(20).await;
    until("all of them count", || engine.stats().lateness.count() == 20).await;
    // By its timestamps, half of them would be 100 ms late and more.
    let lateness = engine.stats().lateness;
    assert!(lateness.p50().is_some_and(|median| median <= Duration::from_millis(50)), "{lateness:?}");
}

#[tokio::test]
async fn packets_that_wait_for_a_busy_thread_are_late() {
    let engine = engine(23_180..=23_199);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let (release, held) = std::sync::mpsc::channel();
    record_into(&mut call, Arc::new(Blocking(Mutex::new(held)))).await;
    until("the thread is seen to be stuck", || !engine.health().ok).await;
    let (before, stuck) = (engine.stats().lateness.count(), engine.stalled_for());
    (0..10).for_each(|_| call.peer.say(&speech(160)));
    until("they have waited", || engine.stalled_for() >= stuck + Duration::from_millis(250)).await;
    drop(release);
    until("they count", || engine.stats().lateness.count() >= before + 10).await;
    let lateness = engine.stats().lateness;
    assert!(lateness.over_ms(100) >= 10, "{lateness:?}");
}
