//! Hang-up to readable on the other node.
//!
//! Method: one caller after the other leaves a message on node `a`; node `b` holds a subscription for the mailbox's
//! MWI, which it answers from its own store. The time runs from the caller's BYE to b's NOTIFY that counts the message:
//! it is on b, durable, listed. So it includes b's own sending; nothing is polled.

use std::time::Duration;

use serde_json::json;
use twinbox_testkit::{Cluster, Pbx, leave_message};

use crate::{
    load,
    report::{Report, ms, percentile},
};

/// Measures this many messages.
pub fn run(report: &mut Report, messages: usize) {
    let cluster = load::cluster();
    let mailbox = Cluster::USERS[0].number;
    let pbx = Pbx::open(cluster.phones(), 5071);
    let status = pbx.subscribe(cluster.sip("b"), mailbox, 3600);
    assert!((200..300).contains(&status), "SUBSCRIBE was answered {status}");
    let (mut byes, mut readable) = (Vec::new(), Vec::new());
    for n in 0..messages {
        let deposit = leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2);
        let notify = pbx.wait_for_mwi(mailbox, n as u32 + 1, Duration::from_secs(5));
        let notify = notify.unwrap_or_else(|| panic!("message {n} is not told by b"));
        byes.push(deposit.bye.after);
        // `at` is the time of the answer to the BYE.
        let hung_up = deposit.at - deposit.bye.after;
        readable.push(notify.at.since(hung_up));
    }
    let mut table =
        report.table("hang-up to readable on the other node", &["messages", "what", "p50 ms", "p99 ms", "max ms"]);
    for (what, mut times) in [("BYE to 200", byes), ("BYE to readable", readable)] {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|p| json!(ms(percentile(&mut times, p))));
        table.row(&[json!(messages), json!(what), p50, p99, max]);
    }
}
