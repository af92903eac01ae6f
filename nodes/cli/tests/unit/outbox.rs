//! The output of `outbox`.

use twinbox_wire::delivery::FollowingEffect;

use super::*;

#[test]
fn removed_mailbox_and_device_are_dashes_and_the_time_follows_the_state() {
    let waiting = Effect { id: "3fa9".repeat(8), state: "pending".into(), due_ms: 1, ..Effect::default() };
    let cells = row(&waiting);
    assert_eq!((cells[0].as_str(), cells[3].as_str(), cells[4].as_str()), ("3fa93fa93fa9", "-", "-"));
    assert!(time(&waiting).starts_with("due "));
    assert_eq!(time(&Effect { under_way: true, ..waiting.clone() }), "under way");
    assert!(!time(&Effect { ended_ms: 1, ..waiting.clone() }).starts_with("due "));
    let bounced = Effect { bounced_ms: 1, bounce: "550 no such user".into(), ..waiting.clone() };
    assert_eq!(row(&bounced)[7], "came back: 550 no such user");
    let text = describe(&Effect { message: "m".into(), repeat: 2, ..waiting });
    assert!(text.contains("message m, reminder 2"), "{text}");
}

#[test]
fn history_has_a_row_for_each_event_and_none_for_others() {
    assert!(history(&Effect { reason: "taken".into(), ..Effect::default() }).is_empty());
    let follows = FollowingEffect {
        id: "3fa9".repeat(8),
        relation: "fallback".into(),
        state: "pending".into(),
        device: "pager".into(),
        due_ms: 1,
    };
    let eventful = Effect {
        reason: "refused".into(),
        attempts: 3,
        attempted_ms: 1,
        epoch: "1.7@b".into(),
        failed_attempt: 2,
        failure: "no answer".into(),
        deaths: 1,
        death_attempt: 1,
        bounced_ms: 1,
        bounce: "550 no such user".into(),
        follows: vec![follows],
        ..Effect::default()
    };
    let rows = history(&eventful);
    let words: Vec<_> = rows.iter().map(|(word, _)| *word).collect();
    assert_eq!(words, ["latest attempt", "latest failure", "deaths", "came back", "followed by"]);
    let text: String = rows.into_iter().map(|(_, text)| text + "\n").collect();
    for part in ["epoch 1.7@b", "attempt 2: no answer", "550 no such", "fallback 3fa93fa93fa9 at pager: pend"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn held_notification_names_the_destination_and_a_flush_tells_what_another_hold_keeps() {
    let held = Effect { state: "held".into(), held_by: "example.com".into(), due_ms: 1, ..Effect::default() };
    assert_eq!(time(&held), "after example.com is flushed");
    let reply = FlushReply { released: true, waiting: 5, held: 2, acknowledged: "on two".into() };
    let text = flushed("example.com", &reply);
    assert!(text.starts_with("example.com: hold ended, 3 due now; 2 stay on hold"), "{text}");
    let text = flushed("mail", &FlushReply { released: false, held: 0, ..reply });
    assert!(text.starts_with("mail: was not on hold, 5 due now ("), "{text}");
}
