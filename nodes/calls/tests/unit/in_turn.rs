//! Order and rate of NOTIFYs, on tokio's clock, which the tests advance.

use std::sync::Mutex;

use tokio::time::sleep;

use super::*;
use crate::lock;

#[tokio::test(start_paused = true)]
async fn work_begins_in_its_order_with_a_batch_in_each_tick_and_does_not_wait_for_what_is_slow() {
    let begun = Mutex::new(Vec::new());
    let work = (0..3 * BATCH).map(|n| {
        let begun = &begun;
        async move {
            lock(begun).push(n);
            if n % 2 == 0 {
                sleep(Duration::from_secs(32)).await;
            }
            n
        }
    });
    let begins = async {
        sleep(TICK / 2).await;
        for batches in 1..=3 {
            assert_eq!(*lock(&begun), (0..batches * BATCH).collect::<Vec<_>>(), "{batches} batches");
            sleep(TICK).await;
        }
    };
    let (sum, ()) = tokio::join!(in_turn(work, 0_usize, |sum, n| sum + n), begins);
    assert_eq!(sum, (0..3 * BATCH).sum::<usize>());
}

#[tokio::test]
async fn no_work_has_the_outcome_that_it_began_with() {
    let work: Vec<std::future::Ready<u32>> = Vec::new();
    assert_eq!(in_turn(work, 7_u32, |sum, n| sum + n).await, 7);
}
