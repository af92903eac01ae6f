//! Periodic call of the node to itself, over the same sockets, transactions, store and media threads as callers
//! use: tests whether it is answered and a tone is received.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use twinbox_calls::{Calls, CallsService, SelfTestCall, Transport};
use twinbox_clock::{BootInstant, DurationHistogram};
use twinbox_phone::{CallOptions, Phone, PhoneConfig, Target};
use twinbox_rtp::g711;

use crate::{health::BOUNDS_US, probe::CheckResult};

/// Pause after a failed test.
const AGAIN: Duration = Duration::from_secs(1);
/// Number of consecutive failures that count: a single failure may be a busy moment.
const BELIEVED: u32 = 2;
/// Timeouts of the answer, the tone, and the answer to the BYE.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const HEARD_WITHIN: Duration = Duration::from_secs(2);
const BYE_WITHIN: Duration = Duration::from_secs(3);
/// 0.2 seconds of audio, in bytes.
const ENOUGH: usize = 1_600;
/// Minimum mean magnitude of a sample; silence has almost none.
const AUDIBLE: u16 = 500;

/// Results of the self-tests.
#[derive(Debug)]
pub struct SelfTests {
    state: Mutex<State>,
    /// Number of successful tests.
    pub passed: AtomicU64,
    /// Number of failed tests.
    pub failed: AtomicU64,
    /// Time from the INVITE until enough of the tone was received.
    pub time: DurationHistogram,
}

#[derive(Debug, Default)]
struct State {
    /// Number of consecutive failures; `why`: reason of the last one.
    failed: u32,
    why: String,
    /// Number of those since the latest restart of the SIP server.
    since_restart: u32,
}

impl Default for SelfTests {
    fn default() -> Self {
        let (state, passed, failed) = Default::default();
        Self { state, passed, failed, time: DurationHistogram::new(&BOUNDS_US) }
    }
}

impl SelfTests {
    /// Whether the node can take calls, by the self-tests.
    pub fn verdict(&self) -> CheckResult {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed < BELIEVED { Ok(()) } else { Err(format!("the self-test call failed: {}", state.why)) }
    }

    /// Whether a restart of the SIP server may help: only after the failures since the previous restart are
    /// confirmed.
    pub fn restart_may_help(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).since_restart >= BELIEVED
    }

    /// Records a restart of the SIP server. The failure lasts until a test succeeds.
    pub fn restarted(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).since_restart = 0;
    }

    fn note(&self, outcome: Result<Duration, String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(time) => {
                self.passed.fetch_add(1, Relaxed);
                self.time.record(time);
                *state = State::default();
            }
            Err(why) => {
                self.failed.fetch_add(1, Relaxed);
                state.failed = state.failed.saturating_add(1);
                state.since_restart = state.since_restart.saturating_add(1);
                state.why = why;
            }
        }
    }

    /// Clears the state: the node is too busy for a test, and its calls show that it works.
    fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// Tests periodically until stopped.
    pub fn run(
        self: Arc<Self>,
        calls: CallsService,
        every: Duration,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        async move {
            let testing = async {
                loop {
                    // Not held during the call: it must not keep a stopping SIP server open.
                    let max_calls = calls.config().max_calls;
                    let now = calls.running().map(|calls| (has_room(&calls, max_calls), calls.self_test()));
                    let pause = match now {
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
                        // The SIP server is not running: reported elsewhere.
                        _ => AGAIN,
                    };
                    tokio::time::sleep(pause).await;
                }
            };
            let _ = stop.run_until_cancelled(testing).await;
        }
        .boxed()
    }
}

/// A node with many calls works, and has no RTP port to spare for a test.
fn has_room(calls: &Calls, max_calls: usize) -> bool {
    calls.active() < (max_calls * 3).div_ceil(4)
}

async fn test(how: &SelfTestCall) -> Result<Duration, String> {
    let begun = BootInstant::now();
    let call = answered(how).await?;
    if !call.wait_received(ENOUGH, HEARD_WITHIN).await {
        return Err(format!("no tone is received from {}", how.to));
    }
    let time = begun.elapsed();
    let audible = g711::mean_magnitude(call.codec(), &call.received()) >= AUDIBLE;
    match tokio::time::timeout(BYE_WITHIN, call.bye()).await {
        Ok(Ok((200, _))) if audible => Ok(time),
        Ok(Ok((200, _))) => Err(format!("silence is received from {}", how.to)),
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
    // The cancellation of the INVITE may take as long again.
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
    fn only_the_second_consecutive_failure_counts() {
        let tests = SelfTests::default();
        let fault = || Err("udp 127.0.0.1:5060 does not answer".to_owned());
        assert_eq!(tests.verdict(), Ok(()), "not yet tested");
        tests.note(fault());
        assert_eq!(tests.verdict(), Ok(()));
        tests.note(fault());
        assert!(tests.verdict().is_err_and(|why| why.contains("does not answer")));
        assert!(tests.restart_may_help());
        tests.restarted();
        tests.note(fault());
        assert!(tests.verdict().is_err() && !tests.restart_may_help(), "it has not helped so far");
        tests.note(Ok(Duration::from_millis(250)));
        assert_eq!(tests.verdict(), Ok(()));
        tests.note(fault());
        assert_eq!(tests.verdict(), Ok(()), "not in a row");
        assert_eq!((tests.passed.load(Relaxed), tests.failed.load(Relaxed)), (1, 4));
    }
}
