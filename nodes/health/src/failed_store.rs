//! The end of a process one of whose stores, that of the data or Raft's, takes no more writes after one that failed (rule A4).
//! Its supervisor, or systemd for a witness, starts the next one, which reads from the disk what memory may show wrongly, and
//! gets from the other members what is missing.

use std::time::Duration;

use twinbox_calls::CallsService;
use twinbox_clock::BootInstant;
use twinbox_replication_store::Store;
use twinbox_roles::Roles;

/// Interval at which the stores are asked.
const LOOK: Duration = Duration::from_millis(500);
/// From the failure to the end of the process, at least: the other members learn why from its reports, and systemd counts no
/// burst of starts.
const TOLD: Duration = Duration::from_secs(5);

/// Waits until a store of this node takes no more writes, then for the calls in progress, up to `drain`: the other nodes get
/// what is recorded. Returns the reason. Meanwhile health refuses new calls if another node is in service.
pub async fn of_node(store: &Store, roles: &Roles, calls: &CallsService, drain: Duration) -> String {
    ended(|| failure(store.health().broken, [roles.broken()]), || calls.active(), drain).await
}

/// Waits until Raft's store of one of these clusters takes no more writes, and until the other members are notified. Returns
/// the reason. A witness votes in its other clusters again as soon as it has started.
pub async fn of_witness(roles: &[Roles]) -> String {
    ended(|| failure(None, roles.iter().map(Roles::broken)), || 0, Duration::ZERO).await
}

async fn ended(failure: impl Fn() -> Option<String>, calls: impl Fn() -> usize, drain: Duration) -> String {
    let mut looks = twinbox_runtime::every(LOOK);
    let reason = loop {
        looks.tick().await;
        if let Some(reason) = failure() {
            break reason;
        }
    };
    let failed = BootInstant::now();
    while !ends(failed.elapsed(), calls(), drain) {
        looks.tick().await;
    }
    reason
}

/// The failure for which the process ends, given those of the data's store and of Raft's stores.
fn failure(data: Option<String>, raft: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let raft = || raft.into_iter().flatten().next().map(|reason| format!("the role manager's store: {reason}"));
    data.or_else(raft)
}

/// Whether the process ends, this long after the failure and with this many calls in progress.
fn ends(since: Duration, calls: usize, drain: Duration) -> bool {
    since >= TOLD && (calls == 0 || since >= TOLD + drain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_ends_for_a_failure_of_either_store() {
        let failed = |store: &str| Some(format!("{store}: EIO"));
        let raft = Some("the role manager's store: raft: EIO".to_owned());
        for (data, of_raft, expected) in [
            (None, vec![], None),
            (None, vec![None], None),
            (failed("data"), vec![None], failed("data")),
            (None, vec![failed("raft")], raft.clone()),
            (None, vec![None, failed("raft")], raft),
            (failed("data"), vec![failed("raft")], failed("data")),
        ] {
            assert_eq!(failure(data.clone(), of_raft.clone()), expected, "{data:?}, {of_raft:?}");
        }
    }

    #[test]
    fn process_ends_when_the_others_know_and_its_calls_have_ended_or_the_drain_is_over() {
        let drain = Duration::from_secs(30);
        for (seconds, calls, expected) in [
            (0, 0, false),
            (4, 0, false),
            (5, 0, true),
            (5, 1, false),
            (34, 1, false),
            (35, 1, true),
            (34, 0, true),
        ] {
            assert_eq!(ends(Duration::from_secs(seconds), calls, drain), expected, "{seconds} s, {calls} calls");
        }
        assert!(ends(TOLD, 1, Duration::ZERO), "no drain");
    }
}
