//! Calls that reach a passive node: the alarm for each, and requests for the role.

use std::time::Duration;

use twinbox_calls::Passive;
use twinbox_clock::BootInstant;
use twinbox_reconciler::{PassiveCall, PassiveWatch};
use twinbox_roles::CallPolicy;

fn at(ms: u64) -> BootInstant {
    BootInstant::from_nanos(ms * 1_000_000)
}

fn refuse(retry_ms: u64) -> CallPolicy {
    CallPolicy::Refuse { retry_after: Duration::from_millis(retry_ms), reason: "b answers calls".to_owned() }
}

fn on_call() -> CallPolicy {
    CallPolicy::OnCall { retry_after: Duration::from_secs(3), reason: "b answers calls".to_owned() }
}

#[test]
fn retry_after_has_whole_seconds_and_at_least_one() {
    for (policy, expected) in [
        (CallPolicy::Answer, None),
        (refuse(200), Some(Passive { retry_after: 1, on_call: false })),
        (refuse(4_900), Some(Passive { retry_after: 4, on_call: false })),
        (on_call(), Some(Passive { retry_after: 3, on_call: true })),
    ] {
        assert_eq!(PassiveWatch::default().set(policy.clone()), expected, "{policy:?}");
    }
}

#[test]
fn each_further_call_is_an_alarm_and_only_a_node_on_call_requests_the_role() {
    let refused = Some(PassiveCall { detail: "refused with 503", requests_role: false });
    let mut watch = PassiveWatch::default();
    watch.set(refuse(3_000));
    let found = [0, 1, 1, 4].map(|calls| watch.reached(calls, false, at(calls)));
    assert_eq!(found, [None, refused, None, refused]);
    // It answers again; a call that came before is reported nevertheless.
    watch.set(CallPolicy::Answer);
    assert_eq!(watch.reached(5, false, at(10)), refused);
    watch.set(on_call());
    let taken = Some(PassiveCall { detail: "taken; the role is requested", requests_role: true });
    assert_eq!(watch.reached(5, false, at(20)), None, "no further call");
    assert_eq!(watch.reached(6, false, at(30)), taken);
}

#[test]
fn role_is_requested_again_after_two_seconds_and_not_while_a_request_waits() {
    let mut watch = PassiveWatch::default();
    watch.set(on_call());
    for (calls, ms, is_asking, requests) in [
        (1, 0, false, true),
        (2, 100, true, false),
        (3, 1_999, false, false),
        (4, 2_000, true, false),
        (5, 2_100, false, true),
        (6, 4_099, false, false),
        (7, 4_100, false, true),
    ] {
        let call = watch.reached(calls, is_asking, at(ms)).expect("a further call");
        assert_eq!(call.requests_role, requests, "call {calls}, at {ms} ms");
    }
}
