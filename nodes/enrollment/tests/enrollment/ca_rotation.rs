//! A member's part in a CA rotation: each step is done once, reported, and goes on after a restart or an obstacle.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use twinbox_roles::{
    Certificates,
    RotationStep::{self, CalledOff, Drop, Over, Show, Trust},
};
use twinbox_store_kit::eventually;

use crate::member::{Key, Member, START, name};

/// Wait after a step that failed, or that waits for its confirmation.
const AGAIN: Duration = Duration::from_secs(1);

/// The CAs that a member trusts, shows and can sign with: F for the former one, N for the next.
fn state(member: &Member, next: &Key) -> String {
    let letter = |fingerprint: [u8; 32]| match fingerprint {
        known if known == member.authority.fingerprint => 'F',
        known if known == next.fingerprint => 'N',
        _ => '?',
    };
    let sorted = |mut letters: Vec<char>| {
        letters.sort_unstable();
        String::from_iter(letters)
    };
    let trusts = sorted(member.tls.authorities().iter().map(|trusted| letter(trusted.fingerprint)).collect());
    let link = if member.tls.is_linked() { "+link" } else { "" };
    let keys = sorted(member.seal().holds().into_iter().map(letter).collect());
    format!("trusts {trusts}, shows {}{link}, keys {keys}", letter(member.tls.issuer()))
}

#[tokio::test]
async fn each_step_is_done_and_reported_also_when_the_process_ends_after_any_of_them() {
    let node: [(RotationStep, &str); 4] = [
        (Trust, "trusts FN, shows F, keys FN"),
        (Show, "trusts FN, shows N+link, keys FN"),
        (Drop, "trusts N, shows N, keys N"),
        (Over, "trusts N, shows N, keys N"),
    ];
    let witness = [
        (Trust, "trusts FN, shows F, keys "),
        (Show, "trusts FN, shows N+link, keys "),
        (Drop, "trusts N, shows N, keys "),
        (Over, "trusts N, shows N, keys "),
    ];
    for (mut member, steps) in [(Member::node(START), node), (Member::witness(START), witness)] {
        let made = member.authority.open().create_next(START).expect("the next authority");
        let next = Key::of(&made.authority);
        member.cluster.set_node("b", Ok(vec![member.authority.clone(), next.clone()]));
        member.cluster.begin(&member.authority, &made);
        for (step, expected) in steps {
            member.cluster.step(step);
            member.restart();
            member.poll().await;
            assert_eq!(state(&member, &next), expected, "{} after {step:?}", member.tls.kind);
            assert_eq!(member.cluster.reported(), Some(step.min(Drop)), "{} after {step:?}", member.tls.kind);
            member.restart();
            assert_eq!(state(&member, &next), expected, "{} after {step:?}, in the next process", member.tls.kind);
        }
        assert!(member.poll().await > AGAIN, "nothing is left to do");
    }
}

#[tokio::test]
async fn step_that_fails_is_not_reported_and_is_tried_again_every_second() {
    let mut a = Member::node(START);
    let made = a.authority.open().create_next(START).expect("the next authority");
    let next = Key::of(&made.authority);
    a.cluster.begin(&a.authority, &made);
    // The node that made the next CA is away, and the other one does not have its key.
    a.cluster.set_node("b", Err("no answer within 5s"));
    a.cluster.set_node("c", Ok(vec![a.authority.clone()]));
    for _ in 0..2 {
        assert_eq!((a.poll().await, a.cluster.reported()), (AGAIN, None));
        assert_eq!(state(&a, &next), "trusts FN, shows F, keys F");
        a.restart();
    }
    a.cluster.set_node("b", Ok(vec![next.clone()]));
    a.cluster.set_obstacle(Some("no majority"));
    assert_eq!((a.poll().await, a.cluster.reported()), (AGAIN, None));
    assert_eq!(state(&a, &next), "trusts FN, shows F, keys FN");
    a.cluster.set_obstacle(None);
    assert_eq!((a.poll().await, a.cluster.reported()), (AGAIN, Some(Trust)), "it waits for the confirmation");
    assert!(a.poll().await > AGAIN, "and then for the others");
}

#[tokio::test]
async fn authority_that_the_present_one_has_not_signed_is_never_trusted() {
    let mut a = Member::node(START);
    let stranger = Member::node(START).authority.open();
    let made = stranger.create_next(START).expect("an authority");
    let next = Key::of(&made.authority);
    a.cluster.set_node("b", Ok(vec![next.clone()]));
    a.cluster.begin(&a.authority, &made);
    assert_eq!((a.poll().await, a.cluster.reported()), (AGAIN, None));
    assert_eq!(state(&a, &next), "trusts F, shows F, keys F");
}

#[tokio::test]
async fn rotation_that_is_called_off_leaves_the_former_authority_alone() {
    let mut a = Member::node(START);
    let made = a.authority.open().create_next(START).expect("the next authority");
    let next = Key::of(&made.authority);
    a.cluster.set_node("b", Ok(vec![next.clone()]));
    a.cluster.begin(&a.authority, &made);
    a.poll().await;
    a.cluster.step(CalledOff);
    a.poll().await;
    assert_eq!(state(&a, &next), "trusts F, shows F, keys F");
    assert_eq!(a.cluster.reported(), Some(Trust), "nothing is reported of it");
}

#[tokio::test]
async fn change_of_the_agreed_state_is_followed_before_the_next_poll_is_due() {
    let a = Member::node(START);
    let made = a.authority.open().create_next(START).expect("the next authority");
    let next = Key::of(&made.authority);
    let (cluster, stop) = (a.cluster.clone(), CancellationToken::new());
    cluster.set_node("b", Ok(vec![next]));
    let running = tokio::spawn(a.renewer.watch(stop.clone()));
    // The first poll is over, and found nothing to do.
    eventually("the renewer to wait", async || cluster.agreed.receiver_count() > 0).await;
    cluster.begin(&a.authority, &made);
    let is_reported = |agreed: &Certificates| {
        agreed.rotation.as_ref().is_some_and(|rotation| rotation.done.get(&name("a")) == Some(&Trust))
    };
    // Polls without anything to do are ten seconds apart.
    let mut agreed = cluster.agreed.subscribe();
    let reported = timeout(Duration::from_secs(8), agreed.wait_for(is_reported)).await;
    assert!(matches!(reported, Ok(Ok(_))));
    drop(reported);
    stop.cancel();
    running.await.expect("it ends");
}
