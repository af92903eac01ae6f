//! Renewal of a member's certificate over its life, its alarms, and the CA key of a node.

use std::{fs, time::Duration};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use twinbox_alarms::{Alarms, Code, State};
use twinbox_clock::BootInstant;
use twinbox_ids::Timestamp;
use twinbox_store_kit::{Node, eventually};

use crate::member::{DAY, Key, Member, START, day};

const YEAR: u64 = 365;
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn certificate_is_renewed_when_two_thirds_of_its_life_are_over() {
    let mut a = Member::node(START);
    let first = a.tls.expires();
    assert_eq!((a.tls.begins(), first), (Timestamp(START.0 - DAY), day(YEAR)));
    // It was valid from a day before.
    let due = day(243);
    assert_eq!(a.tls.renew_at(), due);
    for (ms_before, expected) in [(DAY, 10 * SECOND), (5_000, 5 * SECOND), (1, SECOND)] {
        a.clock.set(Timestamp(due.0 - ms_before));
        assert_eq!((a.poll().await, a.tls.expires()), (expected, first), "{ms_before} ms before it is due");
    }
    a.clock.set(due);
    assert_eq!((a.poll().await, a.tls.expires()), (10 * SECOND, day(243 + YEAR)));
    a.restart();
    assert_eq!(a.tls.expires(), day(243 + YEAR), "it is on disk");
}

#[tokio::test]
async fn member_shows_a_valid_certificate_through_the_years_without_help() {
    let mut a = Member::node(START);
    let (mut shown, mut renewals) = (a.tls.expires(), 0);
    for week in 0..10 * 52 {
        a.clock.set(day(7 * week));
        a.poll().await;
        let (begins, expires, now) = (a.tls.begins(), a.tls.expires(), a.clock.now());
        assert!(begins < now && expires.0 > now.0 + 120 * DAY, "week {week}");
        renewals += u32::from(expires != shown);
        shown = expires;
    }
    assert_eq!(renewals, 14, "one in each 245 days of 3,640");
}

#[tokio::test]
async fn certificate_of_a_clock_that_was_ahead_is_replaced_immediately() {
    let mut a = Member::node(day(100));
    a.clock.set(day(3));
    a.poll().await;
    assert_eq!((a.tls.begins(), a.tls.expires()), (day(2), day(3 + YEAR)));
}

/// The alarm about this subject: whether it is raised, and its detail.
fn alarm(alarms: &Alarms, subject: &str) -> Option<(bool, String)> {
    let all = alarms.list().expect("a list");
    let found =
        all.into_iter().find(|alarm| alarm.code == Some(Code::CertificateExpiry) && alarm.subject == subject)?;
    Some((found.state() == State::Raised, found.detail))
}

/// As [`alarm`], with everything that was reported before this call: alarms are written in the background.
async fn alarm_by_now(alarms: &Alarms, subject: &str) -> Option<(bool, String)> {
    let mark = BootInstant::now().as_nanos().to_string();
    alarms.raise(Code::CertificateExpiry, &mark, "");
    eventually("the mark", async || alarm(alarms, &mark).is_some()).await;
    alarm(alarms, subject)
}

/// Alarms in a store of their own.
async fn alarms(dir: &TempDir) -> (Node, Alarms) {
    let node = Node::alone(dir.path(), "a");
    let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
    let serving = alarms.clone();
    tokio::spawn(async move { serving.serve(None, CancellationToken::new()).await });
    (node, alarms)
}

#[tokio::test]
async fn renewal_that_no_node_signs_is_retried_and_is_an_alarm_from_thirty_days_before_the_end_until_it_succeeds() {
    let dir = TempDir::new().expect("a folder");
    let (_store, alarms) = alarms(&dir).await;
    let mut a = Member::without_key(START, Some(alarms.clone()));
    a.cluster.set_node("b", Err("no answer within 5s"));
    a.cluster.set_node("c", Ok(Vec::new()));
    let ends = a.tls.expires();
    for before_end in [122 * DAY, 31 * DAY, 29 * DAY + DAY / 2] {
        assert_eq!(alarm_by_now(&alarms, "node").await, None, "there is time left");
        a.clock.set(Timestamp(ends.0 - before_end));
        assert_eq!((a.poll().await, a.tls.expires()), (10 * SECOND, ends), "{before_end} ms before the end");
    }
    let raised = Some((true, "it ends in 29 days and could not be renewed".to_owned()));
    eventually("the alarm", async || alarm(&alarms, "node") == raised).await;
    // Near the end, an attempt comes after a tenth of what is left.
    for (before_end, expected) in [(50_000, 5 * SECOND), (5_000, SECOND)] {
        a.clock.set(Timestamp(ends.0 - before_end));
        assert_eq!((a.poll().await, a.tls.expires()), (expected, ends), "{before_end} ms before the end");
    }
    // It has ended meanwhile, and another node can sign again.
    a.clock.set(Timestamp(ends.0 + DAY));
    assert_eq!(a.poll().await, SECOND);
    a.cluster.set_node("c", Ok(vec![a.authority.clone()]));
    assert_eq!(a.poll().await, 10 * SECOND);
    assert_eq!(a.tls.expires(), Timestamp(ends.0 + (1 + YEAR) * DAY));
    eventually("its end", async || alarm(&alarms, "node").is_some_and(|(is_raised, _)| !is_raised)).await;
}

#[tokio::test]
async fn witness_is_signed_for_by_the_first_node_that_can() {
    let mut w = Member::witness(START);
    w.clock.set(w.tls.renew_at());
    w.cluster.set_node("b", Err("no answer within 5s"));
    w.cluster.set_node("c", Ok(vec![w.authority.clone()]));
    let expected = Timestamp(w.clock.now().0 + YEAR * DAY);
    w.poll().await;
    assert_eq!(w.tls.expires(), expected);
    assert!(w.seal().holds().is_empty(), "it stores no key");
}

#[tokio::test]
async fn end_of_the_authority_itself_is_an_alarm_in_its_last_thirty_days() {
    let dir = TempDir::new().expect("a folder");
    let (_store, alarms) = alarms(&dir).await;
    let end = 20 * YEAR;
    let mut a = Member::without_key(day(end - 40), Some(alarms.clone()));
    a.cluster.set_node("b", Ok(vec![a.authority.clone()]));
    a.poll().await;
    assert_eq!(alarm_by_now(&alarms, "authority").await, None);
    a.clock.set(day(end - 20));
    a.poll().await;
    let raised = Some((true, "it ends in 20 days".to_owned()));
    eventually("the alarm", async || alarm(&alarms, "authority") == raised).await;
    assert_eq!(alarm_by_now(&alarms, "node").await, None, "its own certificate is fresh");
}

#[tokio::test]
async fn node_without_the_ca_key_seals_the_one_beside_its_certificate_else_that_of_another_node() {
    let mut a = Member::without_key(START, None);
    let own = a.authority.fingerprint;
    a.poll().await;
    assert!(a.seal().holds().is_empty(), "no node has it");
    // An administrator copies both files of the authority.
    fs::write(a.file("ca.key"), a.authority.open().key_pem()).expect("written");
    a.poll().await;
    assert_eq!((a.seal().holds(), a.file("ca.key").exists()), (vec![own], false));

    let mut a = Member::without_key(START, None);
    let own = a.authority.fingerprint;
    // Node b has another key than it says.
    let wrong = Key { fingerprint: own, ..Member::witness(START).authority };
    a.cluster.set_node("b", Ok(vec![wrong]));
    a.cluster.set_node("c", Ok(vec![a.authority.clone()]));
    a.poll().await;
    assert_eq!(a.seal().holds(), [own]);
}
