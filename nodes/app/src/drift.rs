//! What members compare with each other: settings that should be the same on all, whether the others could carry the
//! calls of one that dies, and what time it is. The judgement is pure; [`Drift::watch`] asks and tells.

mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use twinbox_alarms::Code;
use twinbox_ids::NodeName;
use twinbox_wire::admin::CompareReply;

use crate::{
    health::Verdict,
    members::{Heard, NodeFacts, Others},
    node::Node,
};

pub use settings::fingerprints;

/// How often members are asked.
const EVERY: Duration = Duration::from_secs(5);
/// A difference or a load must have been seen so often in a row: files are changed on one node after the other.
const SEEN: u32 = 2;
/// A load that raised the alarm must have gone below this share of what the others carry, in percent.
const CALM: u64 = 90;
/// A clock further from the members' median than this is wrong …
const FAR_MS: u64 = 2_000;
/// … until it is nearer than this.
const NEAR_MS: u64 = 1_000;

/// A node's calls and how many it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Whose.
    pub name: NodeName,
    /// In progress.
    pub calls: u64,
    /// At most.
    pub max_calls: u64,
}

/// Settings of which another node has another value: the key, and who has it. What only one of the two knows is the
/// business of releases, but for trunks, whose list is a setting too. Of a pair the first by name speaks.
fn differences(
    own: (&NodeName, &BTreeMap<String, u64>),
    others: &[(NodeName, BTreeMap<String, u64>)],
) -> BTreeMap<String, BTreeSet<NodeName>> {
    let mut found: BTreeMap<String, BTreeSet<NodeName>> = BTreeMap::new();
    for (name, settings) in others.iter().filter(|(name, _)| own.0 < name) {
        for (key, hash) in own.1 {
            if settings.get(key).is_some_and(|theirs| theirs != hash) {
                found.entry(key.clone()).or_default().insert(name.clone());
            }
        }
    }
    found
}

/// The node without which the others could not carry all calls, if there is one; the worst. Whoever is alone has nobody
/// who could. `before`: it was so already, and then it has to become clearly better.
fn overload(nodes: &[Load], before: bool) -> Option<(NodeName, u64, u64)> {
    let calls: u64 = nodes.iter().map(|node| node.calls).sum();
    let share = if before { CALM } else { 100 };
    nodes
        .iter()
        .filter(|_| nodes.len() > 1)
        .map(|gone| {
            let left = nodes.iter().filter(|node| node.name != gone.name).map(|node| node.max_calls).sum();
            (gone.name.clone(), calls, left)
        })
        .filter(|(_, calls, left)| calls * 100 > left * share)
        .min_by_key(|(name, _, left)| (*left, name.clone()))
}

/// How far this clock is from the median of all, its own included: positive when it is ahead. `others` are theirs minus
/// this one, in milliseconds. `None` without another.
fn offset(others: &[i64]) -> Option<i64> {
    let mut all: Vec<i64> = others.iter().copied().chain([0]).collect();
    all.sort_unstable();
    let middle = all.len() / 2;
    let median = match (all.get(middle), all.get(middle.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if all.len().is_multiple_of(2) => lower.midpoint(*upper),
        (Some(upper), _) => *upper,
        _ => 0,
    };
    (!others.is_empty()).then(|| median.saturating_neg())
}

/// What is to be thought of a clock that is so far off, and was wrong before or was not.
fn clock(offset: Option<i64>, before: bool) -> Verdict {
    let Some(offset) = offset else { return Ok(()) };
    let bound = if before { NEAR_MS } else { FAR_MS };
    if offset.unsigned_abs() <= bound {
        return Ok(());
    }
    let way = if offset > 0 { "ahead of" } else { "behind" };
    Err(format!("is {} s {way} the median of all members' clocks: synchronise it", offset.unsigned_abs() / 1_000))
}

/// What was compared last.
#[derive(Debug)]
pub struct Drift {
    clock: Mutex<Verdict>,
}

impl Default for Drift {
    fn default() -> Self {
        Self { clock: Mutex::new(Ok(())) }
    }
}

/// What stands so far.
#[derive(Default)]
struct Told {
    /// Settings and loads that were seen, how often in a row.
    seen: BTreeMap<(Code, String), u32>,
    raised: BTreeMap<(Code, String), String>,
}

impl Told {
    /// What is the case now: raises what has been for long enough, clears what is no more.
    fn settle(&mut self, node: &Node, now: BTreeMap<(Code, String), String>) {
        self.seen.retain(|what, _| now.contains_key(what));
        self.raised.retain(|what, _| {
            let stays = now.contains_key(what);
            if !stays {
                node.alarms.clear(what.0, &what.1);
            }
            stays
        });
        for (what, detail) in now {
            let seen = self.seen.entry(what.clone()).or_default();
            *seen = seen.saturating_add(1);
            if *seen >= SEEN && self.raised.get(&what) != Some(&detail) {
                tracing::warn!(alarm = what.0.word(), subject = what.1, detail, "members differ");
                node.alarms.raise(what.0, &what.1, &detail);
                self.raised.insert(what, detail);
            }
        }
    }
}

impl Drift {
    /// How this node's clock does, by the others'.
    pub fn clock(&self) -> Verdict {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the others every so often, until stopped.
    pub async fn watch(
        self: Arc<Self>,
        node: Arc<Node>,
        facts: Arc<NodeFacts>,
        others: Arc<Others>,
        stop: CancellationToken,
    ) {
        let mut told = Told::default();
        let comparing = async {
            loop {
                tokio::time::sleep(EVERY).await;
                let heard = others.compare().await;
                self.note_clock(&heard);
                told.settle(&node, findings(&node.name, &facts.compare(), &heard, &told));
            }
        };
        let _ = stop.run_until_cancelled(comparing).await;
    }

    fn note_clock(&self, heard: &BTreeMap<NodeName, Heard>) {
        let offsets: Vec<i64> = heard.values().map(|heard| heard.ahead_ms).collect();
        let mut last = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock(offset(&offsets), last.is_err());
        // The same words while it stays wrong, though it drifts on.
        if now.is_ok() || last.is_ok() {
            *last = now;
        }
    }
}

/// All that is to be told.
fn findings(
    own: &NodeName,
    facts: &CompareReply,
    heard: &BTreeMap<NodeName, Heard>,
    told: &Told,
) -> BTreeMap<(Code, String), String> {
    let settings = |reply: &CompareReply| reply.settings.iter().map(|(key, hash)| (key.clone(), *hash)).collect();
    let nodes: Vec<_> = heard.iter().filter(|(_, heard)| heard.reply.max_calls > 0).collect();
    let theirs: Vec<_> = nodes.iter().map(|(name, heard)| ((*name).clone(), settings(&heard.reply))).collect();
    let differing = differences((own, &settings(facts)), &theirs);
    let mut found: BTreeMap<_, _> = differing
        .into_iter()
        .map(|(key, names)| {
            let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
            let detail = format!("{key} is not the same in the files of {own} and {}", names.join(", "));
            ((Code::ConfigDrift, key), detail)
        })
        .collect();
    let load = |name: &NodeName, reply: &CompareReply| Load {
        name: name.clone(),
        calls: reply.calls.into(),
        max_calls: reply.max_calls.into(),
    };
    let loads: Vec<Load> =
        nodes.iter().map(|(name, heard)| load(name, &heard.reply)).chain([load(own, facts)]).collect();
    let subject = (Code::Overload, CLUSTER.to_owned());
    // All see the same: the first by name speaks.
    if nodes.iter().all(|(name, _)| own < name)
        && let Some((gone, calls, left)) = overload(&loads, told.raised.contains_key(&subject))
    {
        let before = told.raised.get(&subject).filter(|detail| detail.starts_with(&format!("without {gone} ")));
        let detail = format!("without {gone} the others take {left} calls, and there are {calls}");
        found.insert(subject, before.cloned().unwrap_or(detail));
    }
    found
}

const CLUSTER: &str = "cluster";

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    fn settings(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(key, hash)| ((*key).to_owned(), *hash)).collect()
    }

    #[test]
    fn differing_settings_are_told_once_with_their_key_and_both_nodes() {
        let a = settings(&[("sip.pilot", 1), ("cluster.timing", 7), ("new.in-this-release", 3)]);
        let others = [
            (name("b"), settings(&[("sip.pilot", 2), ("cluster.timing", 7)])),
            (name("c"), settings(&[("sip.pilot", 2), ("cluster.timing", 8)])),
        ];
        let found = differences((&name("a"), &a), &others);
        let told: Vec<_> = found.iter().map(|(key, names)| (key.as_str(), names.len())).collect();
        assert_eq!(told, [("cluster.timing", 1), ("sip.pilot", 2)]);
        assert!(differences((&name("d"), &a), &others).is_empty(), "the others speak");
        assert!(differences((&name("a"), &a), &[(name("b"), a.clone())]).is_empty());
    }

    #[test]
    fn a_load_that_the_survivors_could_not_carry_is_found_and_does_not_flutter() {
        for (what, nodes, before, expected) in [
            ("half full", &[(50, 100), (50, 100)][..], false, None),
            ("just too much", &[(60, 100), (41, 100)], false, Some(("a", 101, 100))),
            ("a little less", &[(50, 100), (45, 100)], true, Some(("a", 95, 100))),
            ("clearly less", &[(50, 100), (40, 100)], true, None),
            ("the large one would be missed", &[(0, 300), (150, 100)], false, Some(("a", 150, 100))),
            ("three", &[(90, 100), (90, 100), (20, 100)], false, None),
            ("three, full", &[(90, 100), (90, 100), (21, 100)], false, Some(("a", 201, 200))),
            ("alone", &[(90, 100)], false, None),
        ] {
            let loads: Vec<Load> = nodes
                .iter()
                .zip(["a", "b", "c"])
                .map(|((calls, max_calls), n)| Load { name: name(n), calls: *calls, max_calls: *max_calls })
                .collect();
            let found = overload(&loads, before);
            assert_eq!(found, expected.map(|(n, calls, left)| (name(n), calls, left)), "{what}");
        }
    }

    #[test]
    fn a_clock_is_judged_by_the_median_of_all() {
        const HOUR: i64 = 3_600_000;
        for (others, expected) in [
            (&[][..], None),
            (&[5, -3], Some(0)),
            (&[-HOUR, -HOUR + 4], Some(HOUR - 4)),
            (&[HOUR, 2], Some(-2)),
            (&[HOUR], Some(-HOUR / 2)),
            (&[HOUR, HOUR, HOUR, 1], Some(-HOUR)),
        ] {
            let found = offset(others);
            assert!(
                found.zip(expected).is_some_and(|(a, b)| a.abs_diff(b) < 10) || found == expected,
                "{others:?}: {found:?}"
            );
        }
        assert_eq!(clock(None, true), Ok(()));
        assert_eq!(clock(Some(1_999), false), Ok(()));
        assert!(clock(Some(HOUR), false).is_err_and(|why| why.starts_with("is 3600 s ahead of")));
        assert!(clock(Some(-1_500), true).is_err_and(|why| why.contains("behind")));
        assert_eq!(clock(Some(-1_500), false), Ok(()));
    }

    #[test]
    fn the_words_of_an_alarm_stay_the_same_while_its_figures_move() {
        let reply = |calls| CompareReply { calls, max_calls: 100, ..Default::default() };
        let heard = |calls| BTreeMap::from([(name("b"), Heard { reply: reply(calls), ahead_ms: 0 })]);
        let mut told = Told::default();
        let first = findings(&name("a"), &reply(60), &heard(60), &told);
        let (what, detail) = first.into_iter().next().expect("too many calls");
        assert_eq!(
            (what.0, detail.as_str()),
            (Code::Overload, "without a the others take 100 calls, and there are 120")
        );
        told.raised.insert(what.clone(), detail.clone());
        assert_eq!(findings(&name("a"), &reply(60), &heard(50), &told).get(&what), Some(&detail));
        assert!(
            findings(&name("b"), &reply(60), &BTreeMap::from([(name("a"), heard(60)[&name("b")].clone())]), &told)
                .is_empty()
        );
    }
}
