//! A call of the node to itself, on a timer, over the very sockets, transactions, store and media threads that
//! callers meet: whether it is answered, and a tone is heard.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use twinbox_calls::{Calls, SelfTestCall, Transport};
use twinbox_clock::BootInstant;
use twinbox_phone::{CallOptions, Phone, PhoneConfig, Target};
use twinbox_rtp::g711;

use crate::{
    health::{Tally, Verdict},
    node::Node,
};

/// After one that failed the next follows soon …
const AGAIN: Duration = Duration::from_secs(1);
/// … and so many in a row are believed: a single one may be a busy moment.
const BELIEVED: u32 = 2;
/// How long the answer, the tone, and the answer to the hang-up may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const HEARD_WITHIN: Duration = Duration::from_secs(2);
const BYE_WITHIN: Duration = Duration::from_secs(3);
/// A fifth of a second of audio, in bytes.
const ENOUGH: usize = 1_600;
/// Mean magnitude of a sample; silence has next to none.
const AUDIBLE: u16 = 500;

/// What self-tests have found.
#[derive(Debug, Default)]
pub struct SelfTests {
    state: Mutex<State>,
    /// Those that went well.
    pub passed: AtomicU64,
    /// Those that did not.
    pub failed: AtomicU64,
    /// INVITE sent to enough of the tone heard.
    pub time: Tally,
}

#[derive(Debug, Default)]
struct State {
    /// In a row, and why the last.
    failed: u32,
    why: String,
    /// Of these, since the door was opened anew to mend it.
    since_mended: u32,
}

impl SelfTests {
    /// What is to be thought of the node's ability to take calls.
    pub fn verdict(&self) -> Verdict {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed < BELIEVED { Ok(()) } else { Err(format!("the self-test call failed: {}", state.why)) }
    }

    /// Whether opening the door anew may help: not before that was seen not to have helped the last time.
    pub fn worth_mending(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).since_mended >= BELIEVED
    }

    /// The door was opened anew. What was wrong stays wrong until a test goes well.
    pub fn mended(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).since_mended = 0;
    }

    fn note(&self, outcome: Result<Duration, String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(time) => {
                self.passed.fetch_add(1, Relaxed);
                self.time.note(time);
                *state = State::default();
            }
            Err(why) => {
                self.failed.fetch_add(1, Relaxed);
                state.failed = state.failed.saturating_add(1);
                state.since_mended = state.since_mended.saturating_add(1);
                state.why = why;
            }
        }
    }

    /// Nothing is known any more: the node is too busy to be asked, and that shows that it works.
    fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// Tests every so often until stopped.
    pub async fn run(self: Arc<Self>, node: Arc<Node>, every: Duration, stop: CancellationToken) {
        let testing = async {
            loop {
                // Not held during the call: a door that is to be closed must not be kept open.
                let calls =
                    node.calls().map(|calls| (has_room(&calls, node.config.calls.max_calls), calls.self_test()));
                let pause = match calls {
                    Some((true, Some(how))) => {
                        let outcome = test(&how).await;
                        let failed = outcome.is_err();
                        self.note(outcome);
                        if failed { AGAIN.min(every) } else { every }
                    }
                    Some((false, _)) => {
                        self.forget();
                        AGAIN
                    }
                    // The door is closed: that is said already.
                    _ => AGAIN,
                };
                tokio::time::sleep(pause).await;
            }
        };
        let _ = stop.run_until_cancelled(testing).await;
    }
}

/// A node that carries many calls shows by them that it works, and has no RTP port to spare for a test.
fn has_room(calls: &Calls, max_calls: usize) -> bool {
    calls.active() < (max_calls * 3).div_ceil(4)
}

async fn test(how: &SelfTestCall) -> Result<Duration, String> {
    let begun = BootInstant::now();
    let call = answered(how).await?;
    if !call.wait_received(ENOUGH, HEARD_WITHIN).await {
        return Err(format!("no tone is heard from {}", how.to));
    }
    let time = begun.elapsed();
    let audible = g711::mean_magnitude(call.codec(), &call.received()) >= AUDIBLE;
    match tokio::time::timeout(BYE_WITHIN, call.bye()).await {
        Ok(Ok((200, _))) if audible => Ok(time),
        Ok(Ok((200, _))) => Err(format!("silence is heard from {}", how.to)),
        Ok(Ok((status, _))) => Err(format!("hanging up is answered {status} by {}", how.to)),
        _ => Err(format!("hanging up is not answered by {}", how.to)),
    }
}

async fn answered(how: &SelfTestCall) -> Result<twinbox_phone::Call, String> {
    let transport = match how.transport {
        Transport::Udp => twinbox_phone::Transport::Udp,
        Transport::Tcp => twinbox_phone::Transport::Tcp,
    };
    let words = format!("{} {}", how.transport.label(), how.to);
    let phone = Phone::bind(PhoneConfig::new(how.local, transport)).await;
    let phone = phone.map_err(|error| format!("no socket to call {words} from: {error}"))?;
    let options = CallOptions {
        from: Some(how.from.reveal().clone()),
        answer_timeout: ANSWER_WITHIN,
        ..CallOptions::default()
    };
    let call = phone.call(Target { uri: how.uri.clone(), address: Some(how.to) }, options);
    // Taking the INVITE back may take as long again.
    match tokio::time::timeout(ANSWER_WITHIN * 2, call).await {
        Ok(Ok(call)) => Ok(call),
        Ok(Err(error)) if error.status != 408 && error.status != 487 => {
            Err(format!("{words} answers {} {}", error.status, error.reason))
        }
        _ => Err(format!("{words} does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_a_busy_moment_and_two_are_believed() {
        let tests = SelfTests::default();
        let fault = || Err("udp 127.0.0.1:5060 does not answer".to_owned());
        assert_eq!(tests.verdict(), Ok(()), "not yet tested");
        tests.note(fault());
        assert_eq!(tests.verdict(), Ok(()));
        tests.note(fault());
        assert!(tests.verdict().is_err_and(|why| why.contains("does not answer")));
        assert!(tests.worth_mending());
        tests.mended();
        tests.note(fault());
        assert!(tests.verdict().is_err() && !tests.worth_mending(), "it has not helped so far");
        tests.note(Ok(Duration::from_millis(250)));
        assert_eq!(tests.verdict(), Ok(()));
        tests.note(fault());
        assert_eq!(tests.verdict(), Ok(()), "not in a row");
        assert_eq!((tests.passed.load(Relaxed), tests.failed.load(Relaxed)), (1, 4));
    }
}
