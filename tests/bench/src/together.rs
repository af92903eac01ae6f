//! Callers who hang up at one moment: their commits wait together, so that they share syncs.
//!
//! Method: the callers come at a steady rate, speak, and all send BYE within 5 ms. Syncs are those of the node's
//! process from right before that moment until the last answer, by its own count; it has some without callers, too.

use std::time::Duration;

use serde_json::json;
use twinbox_clock::BootInstant;

use crate::{
    load::Loaded,
    report::{Report, ms, percentile},
    setup::metric_of,
};

/// Times that each number of callers hangs up.
const ROUNDS: usize = 3;
/// Callers that come in a second.
const RATE: f64 = 40.0;
/// The last caller has come this long before the callers hang up: it skips the greeting and speaks for two seconds.
const SPEAKS: Duration = Duration::from_secs(3);
/// Syncs are counted from this long before the callers hang up.
const BEFORE: Duration = Duration::from_millis(50);
/// Limit of the answers.
const ANSWERED: Duration = Duration::from_secs(10);

/// Runs the steps: this many callers at once.
pub fn run(report: &mut Report, loaded: &mut Loaded, steps: &[usize]) {
    let columns = &[
        "callers at once",
        "times",
        "refused",
        "BYE p50 ms",
        "BYE p99 ms",
        "BYE max ms",
        "syncs/deposit",
        "BYE not 200",
    ];
    let mut table = report.table("callers who hang up at one moment", columns);
    for &callers in steps {
        let (mut byes, mut syncs, mut broken, mut refused) = (Vec::new(), 0.0, 0, 0);
        for _ in 0..ROUNDS {
            loaded.forget_callers();
            hang_up_together(loaded, callers, &mut syncs);
            let arrived = loaded.driver.outcome(0..callers);
            byes.extend(arrived.byes);
            broken += arrived.broken.len();
            refused += arrived.refusals.len() + arrived.unanswered;
        }
        table.row(&[
            json!(callers),
            json!(ROUNDS),
            json!(refused),
            json!(ms(percentile(&mut byes, 0.5))),
            json!(ms(percentile(&mut byes, 0.99))),
            json!(ms(percentile(&mut byes, 1.0))),
            json!(syncs / byes.len().max(1) as f64),
            json!(broken),
        ]);
    }
}

/// One round; adds the node's syncs.
fn hang_up_together(loaded: &mut Loaded, callers: usize, syncs: &mut f64) {
    let node = loaded.cluster.sip("a");
    let mailboxes = loaded.mailboxes.clone();
    let begun = BootInstant::now();
    let end = begun + Duration::from_secs_f64(callers as f64 / RATE) + SPEAKS;
    let (mut placed, mut ringing) = (0, Vec::new());
    loaded.driver.resume();
    loaded.driver.drive(end.since(begun).saturating_sub(BEFORE), |driver| {
        while placed < callers && placed as f64 <= begun.elapsed().as_secs_f64() * RATE {
            ringing.push(driver.crowd.call(node, &mailboxes[placed % mailboxes.len()], "2001"));
            placed += 1;
        }
        ringing.retain(|&caller| match driver.crowd.callers[caller].answer {
            Some((200, _)) => {
                driver.speak(caller, Some(end.since(BootInstant::now())));
                false
            }
            answer => answer.is_none(),
        });
    });
    let count = |loaded: &Loaded| metric_of(&loaded.cluster, "a", "twinbox_syncs_total", "");
    let before = count(loaded);
    // The moment itself, then the answers.
    loaded.driver.drive(BEFORE * 2, |_| {});
    loaded.driver.finish(ANSWERED);
    *syncs += count(loaded) - before;
}
