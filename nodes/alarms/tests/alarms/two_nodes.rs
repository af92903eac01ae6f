//! Alarms and events of nodes that replicate, are separated, reconnect and start again.

use tempfile::TempDir;
use twinbox_alarms::{AckError, Code, FollowError, Item, Kind, Since, State};

use crate::common::{Node, name, wait_for, words};

#[tokio::test]
async fn alarm_is_visible_on_every_node_and_can_be_acknowledged_on_any() {
    let dir = TempDir::new().expect("a folder");
    let (a, b) = (Node::start(dir.path(), "a").await, Node::start(dir.path(), "b").await);
    a.alarms.raise(Code::Space, "a", "5 MB are left");
    a.alarms.raise(Code::RoleMoved, "publisher", "from b to a: exit; 312 ms without");
    let space = a.wait("a", |_| true).await;
    assert_eq!((space.count, space.state(), space.detail.as_str()), (1, State::Raised, "5 MB are left"));
    a.wait("publisher", |_| true).await;
    a.hand_over(&b).await;
    let there = b.wait("a", |_| true).await;
    assert_eq!(there, space);

    // Acknowledge on the other node, by the first digits: all or none.
    let id = |text: &str| text.parse().expect("digits");
    let ids = vec![id(&space.id.to_string()), id("0123456789ab")];
    let error = b.alarms.acknowledge(ids, "eve").await.expect_err("there is no second");
    assert!(matches!(error, AckError::None { .. }), "{error}");
    assert_eq!(b.wait("a", |_| true).await.acknowledged, None);
    let all = b.alarms.list().expect("a list");
    let ids = all.iter().map(|alarm| id(&alarm.id.to_string()[..11])).collect();
    let (acknowledged, _) = b.alarms.acknowledge(ids, "anna").await.expect("acknowledged");
    assert_eq!(acknowledged.len(), 2);
    b.hand_over(&a).await;
    let space = a.wait("a", |alarm| alarm.acknowledged.is_some()).await;
    assert_eq!((space.state(), space.is_open()), (State::Acknowledged, true), "it lasts");
    assert_eq!(space.acknowledged.expect("acknowledged").0, "anna");
    assert!(!a.wait("publisher", |alarm| alarm.acknowledged.is_some()).await.is_open(), "it has happened");

    a.alarms.clear(Code::Space, "a");
    assert!(!a.wait("a", |alarm| alarm.cleared.is_some()).await.is_open());
    // Raised again, it is not acknowledged; the same record counts on.
    a.alarms.raise(Code::Space, "a", "1 MB is left");
    let again = a.wait("a", |alarm| alarm.cleared.is_none()).await;
    assert_eq!((again.id, again.count, again.raises, again.state()), (space.id, 2, 2, State::Raised));
    assert_eq!(a.alarms.list().expect("a list").len(), 2);
}

#[tokio::test]
async fn alarm_survives_a_restart_and_the_next_incarnation_can_clear_it() {
    let dir = TempDir::new().expect("a folder");
    let a = Node::start(dir.path(), "a").await;
    a.alarms.raise(Code::Clock, "a", "an hour ahead");
    // The last report before the stop is written, too.
    a.stop().await;
    let a = Node::start(dir.path(), "a").await;
    let kept = a.wait("a", |_| true).await;
    assert_eq!((kept.state(), kept.detail.as_str()), (State::Raised, "an hour ahead"));
    // This incarnation can clear alarms raised by the previous one.
    a.alarms.clear(Code::Clock, "a");
    a.wait("a", |alarm| alarm.cleared.is_some()).await;
    let (events, _) = wait_for("both", || Some(a.read(&Since::Start)).filter(|(e, _)| e.len() == 2)).await;
    assert_eq!(words(&events), ["a alarm-raised a", "a alarm-cleared a"]);
}

#[tokio::test]
async fn conditions_of_a_removed_member_are_cleared_by_another_and_what_happened_stays() {
    let dir = TempDir::new().expect("a folder");
    let (a, b) = (Node::start(dir.path(), "a").await, Node::start(dir.path(), "b").await);
    b.alarms.raise(Code::Space, "b", "5 MB are left");
    b.alarms.raise(Code::RoleMoved, "publisher", "from a to b: exit; 312 ms without");
    b.wait("b", |_| true).await;
    b.wait("publisher", |_| true).await;
    b.hand_over(&a).await;
    a.alarms.raise(Code::Space, "a", "4 MB are left");
    a.wait("a", |_| true).await;

    a.alarms.end_of(name("b"));
    let ended = a.wait("b", |alarm| alarm.cleared.is_some()).await;
    assert_eq!((ended.state(), ended.node), (State::Cleared, name("b")));
    assert!(a.wait("publisher", |_| true).await.is_open(), "somebody should read that");
    assert!(a.wait("a", |_| true).await.is_open());
    let cleared =
        || Some(a.read(&Since::Start).0).filter(|events| words(events).contains(&"a alarm-cleared b".to_owned()));
    wait_for("the event", cleared).await;
}

#[tokio::test]
async fn cursor_continues_on_another_node() {
    let dir = TempDir::new().expect("a folder");
    let (a, b) = (Node::start(dir.path(), "a").await, Node::start(dir.path(), "b").await);
    let written = |node: &Node, n: usize| {
        let alarms = node.alarms.clone();
        async move {
            wait_for("events", || (alarms.counters().events.values().sum::<u64>() as usize >= n).then_some(()))
                .await
        }
    };
    a.alarms.event(Kind::NodeStarted, "a", "");
    b.alarms.event(Kind::NodeStarted, "b", "");
    written(&a, 1).await;
    written(&b, 1).await;
    b.hand_over(&a).await;
    let (events, cursor) = wait_for("both", || Some(a.read(&Since::Start)).filter(|(e, _)| e.len() == 2)).await;
    assert_eq!(words(&events), ["a node-started a", "b node-started b"]);

    // The other node has not received the first node's event yet: no duplicate and no gap.
    b.alarms.event(Kind::SettingChanged, "failback", "manual");
    written(&b, 2).await;
    let since = Since::Cursor(cursor);
    let next = wait_for("the next", || Some(b.read(&since)).filter(|(e, _)| !e.is_empty())).await;
    assert_eq!(words(&next.0), ["b setting-changed failback"]);
    a.alarms.event(Kind::SettingChanged, "mode", "active-passive");
    written(&a, 2).await;
    a.hand_over(&b).await;
    let since = Since::Cursor(next.1);
    let next = wait_for("what came", || Some(b.read(&since)).filter(|(e, _)| !e.is_empty())).await;
    assert_eq!(words(&next.0), ["a setting-changed mode"]);

    // A new origin of a node, read at the position of the previous one.
    a.stop().await;
    let a = Node::start(dir.path(), "a").await;
    a.alarms.event(Kind::NodeStarted, "a", "again");
    written(&a, 1).await;
    a.hand_over(&b).await;
    let since = Since::Cursor(next.1);
    let (events, _) =
        wait_for("the event of the new origin", || Some(b.read(&since)).filter(|(e, _)| !e.is_empty())).await;
    assert_eq!(words(&events), ["a node-started a"]);
    // A reader that begins now gets none of the events.
    assert_eq!(b.read(&Since::Now).0, []);
    let error = b.alarms.follow(&Since::Cursor("nonsense".to_owned())).err().expect("no cursor");
    assert!(matches!(error, FollowError::Cursor(_)) && error.to_string().contains("'nonsense'"), "{error}");
}

#[tokio::test]
async fn events_are_delivered_in_order_whatever_the_order_of_changes() {
    let dir = TempDir::new().expect("a folder");
    let (a, b) = (Node::start(dir.path(), "a").await, Node::start(dir.path(), "b").await);
    for n in 0..20_u64 {
        a.alarms.event(Kind::SettingChanged, &n.to_string(), "");
        let written = || a.alarms.counters().events.get("setting-changed").is_some_and(|count| *count > n);
        wait_for("one", || written().then_some(())).await;
    }
    let mut follower = b.alarms.follow(&Since::Start).expect("a reader");
    let mut changes = a.store.changes_after(&b.store.vector(), 1_000).expect("changes");
    // The announcement of the origin arrives first, then the rest in reverse order.
    changes[1..].reverse();
    let mut got = Vec::new();
    for change in changes {
        b.store.apply(vec![change]).await.expect("applied");
        got.extend(std::iter::from_fn(|| follower.try_next()));
    }
    let began = twinbox_clock::BootInstant::now();
    while got.len() < 20 && began.elapsed().as_secs() < 20 {
        got.extend(follower.next().await);
    }
    let expected: Vec<String> = (0..20).map(|n| format!("a setting-changed {n}")).collect();
    assert_eq!(words(&got), expected);
}

#[tokio::test]
async fn reader_gets_a_gap_item_for_events_that_were_lost() {
    let dir = TempDir::new().expect("a folder");
    let a = Node::start(dir.path(), "a").await;
    let (_, cursor) = {
        a.alarms.event(Kind::NodeStarted, "a", "");
        wait_for("one", || Some(a.read(&Since::Start)).filter(|(e, _)| e.len() == 1)).await
    };
    // An emptied disk: a new store of the same node reports other events, and the old ones are lost.
    let b = Node::start(dir.path(), "b").await;
    a.hand_over(&b).await;
    a.stop().await;
    std::fs::remove_dir_all(dir.path().join("a")).expect("emptied");
    let a = Node::start(dir.path(), "a").await;
    a.alarms.event(Kind::NodeStarted, "a", "after the loss");
    wait_for("one", || Some(a.read(&Since::Start)).filter(|(e, _)| e.len() == 1)).await;
    b.hand_over(&a).await;
    a.hand_over(&b).await;
    for node in [&a, &b] {
        let since = Since::Cursor(cursor.clone());
        let (events, _) = wait_for("the new", || Some(node.read(&since)).filter(|(e, _)| e.len() > 1)).await;
        assert_eq!(words(&events), ["a gap None", "a node-started a"]);
        assert!(matches!(&events[0], Item::Gap { node, .. } if *node == name("a")));
    }
}

#[tokio::test]
async fn flood_is_bounded_and_does_not_hide_other_alarms() {
    let dir = TempDir::new().expect("a folder");
    let a = Node::start(dir.path(), "a").await;
    let before = a.store.vector().total();
    for n in 0..100_000_u32 {
        a.alarms.raise(Code::DeadLetter, &format!("receiver {n}"), "it does not answer");
        a.alarms.raise(Code::ConfigDrift, "sip.pilot", format!("{n} differ"));
        a.alarms.event(Kind::SettingChanged, "x", "y");
        if n % 10_000 == 0 {
            // Lets the writer run.
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
    }
    a.alarms.raise(Code::Space, "a", "5 MB are left");
    a.wait("a", |alarm| alarm.code == Some(Code::Space)).await;
    let drift = a.wait("sip.pilot", |_| true).await;
    assert_eq!(drift.raises, 1);
    a.wait("a", |alarm| alarm.code == Some(Code::TooManyAlarms)).await;
    let counters = a.alarms.counters();
    assert!(counters.dropped_alarms > 90_000 && counters.dropped_events > 90_000, "{counters:?}");
    let written = a.store.vector().total() - before;
    assert!(written < 1_000, "{written} changes for 300,000 reports");
    let alarms = a.alarms.list().expect("a list");
    assert!(alarms.len() <= 60, "{} alarms", alarms.len());
    a.stop().await;
}
