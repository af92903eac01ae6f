//! Tasks on one message, one after the other.

use super::*;

#[tokio::test]
async fn second_turn_waits_for_the_first_and_no_entry_stays() {
    let turns = Arc::new(Turns::default());
    let first = turns.turn(MessageId(1)).await;
    let waiting = |id| {
        let turns = turns.clone();
        tokio::spawn(async move { turns.turn(MessageId(id)).await })
    };
    let (second, given_up) = (waiting(1), waiting(1));
    // Another message has its own turn, and the tasks above have run meanwhile.
    drop(waiting(2).await.expect("a turn"));
    assert!(!second.is_finished() && !given_up.is_finished());
    given_up.abort();
    assert!(given_up.await.is_err());
    assert_eq!(turns.lock().values().map(|entry| entry.tasks).collect::<Vec<_>>(), [2]);
    drop(first);
    drop(second.await.expect("a turn"));
    assert!(turns.lock().is_empty());
}
