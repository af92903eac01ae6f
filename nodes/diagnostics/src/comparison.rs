//! Comparison between members: settings that must be equal, capacity of the others for the calls of a failed node,
//! calls that a node carries, and time of day. The judgement is pure; [`Comparison::watch`] polls the members and raises
//! alarms.

mod carried;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use twinbox_alarms::{Alarms, Code};
use twinbox_calls::CallsService;
use twinbox_clock::wall;
use twinbox_config::NodeConfig;
use twinbox_ids::NodeName;
use twinbox_members::{CompareResult, MemberClients};
use twinbox_wire::admin::CompareReply;

use carried::Carried;
use settings::fingerprints;

/// Poll interval.
const EVERY: Duration = Duration::from_secs(5);
/// Maximum wait for the first poll.
const COMPARED_WITHIN: Duration = Duration::from_secs(30);
/// Number of consecutive polls that must show a difference or overload: an administrator changes files node by
/// node.
const SEEN: u32 = 2;
/// A raised overload ends below this share of the other nodes' capacity, in percent.
const CALM: u64 = 90;
/// Distance from the members' median above which a clock is wrong.
const FAR_MS: u64 = 2_000;
/// Distance below which such a clock is right again.
const NEAR_MS: u64 = 1_000;

/// Values of this node that members compare with each other.
pub fn own_values(config: &NodeConfig, calls: &CallsService) -> CompareReply {
    CompareReply {
        now_ms: wall().0,
        calls: u32::try_from(calls.active()).unwrap_or(u32::MAX),
        max_calls: u32::try_from(config.calls.max_calls).unwrap_or(u32::MAX),
        settings: fingerprints(config).into_iter().collect(),
        carried_per_minute: calls.running().map_or(0, |calls| carried::per_minute(calls.overload().sustained)),
    }
}

/// Calls and capacity of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Name of the node.
    pub name: NodeName,
    /// Number of calls in progress.
    pub calls: u64,
    /// Maximum number of calls.
    pub max_calls: u64,
}

/// Settings with different values on another node: the key, and the nodes with another value. A key that only one
/// node knows is a matter of releases. Of each pair, the node that is first by name reports.
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

/// Node whose calls the other nodes could not carry, if any; the worst case. `None` for a single node. `before`:
/// the overload is already raised, so the load must fall clearly before it ends.
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

/// Offset of this clock from the median of all clocks, its own included: positive when it is ahead. `others` are
/// the other clocks minus this one, in milliseconds. `None` without another member.
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

/// Verdict on a clock with this offset; `before`: it was wrong already.
fn clock(offset: Option<i64>, before: bool) -> Result<(), String> {
    let Some(offset) = offset else { return Ok(()) };
    let bound = if before { NEAR_MS } else { FAR_MS };
    if offset.unsigned_abs() <= bound {
        return Ok(());
    }
    let way = if offset > 0 { "ahead of" } else { "behind" };
    Err(format!("is {} s {way} the median of all members' clocks: synchronise it", offset.unsigned_abs() / 1_000))
}

/// Milliseconds that a clock with this offset and verdict is to be taken as behind. A wrong clock among three or more is the
/// one that differs from the median; of two, either may be it.
fn correction(offset: Option<i64>, others: usize, verdict: &Result<(), String>) -> i64 {
    match (offset, verdict) {
        (Some(offset), Err(_)) if others >= 2 => offset.saturating_neg(),
        _ => 0,
    }
}

/// Results of the comparisons.
#[derive(Debug, Default)]
pub struct Comparison {
    clock: Mutex<ClockState>,
    /// A poll of the others has ended since the start.
    compared: watch::Sender<bool>,
}

/// State of this node's clock, as far as the other members told it.
#[derive(Debug)]
struct ClockState {
    verdict: Result<(), String>,
    /// Milliseconds that the clock is taken as behind.
    correction: i64,
}

impl Default for ClockState {
    fn default() -> Self {
        Self { verdict: Ok(()), correction: 0 }
    }
}

impl ClockState {
    /// Takes the result of a poll: the other clocks minus this one, in milliseconds. A wrong clock stays wrong while no other
    /// member answers, and corrected while fewer than two do: one write with a wrong time is a stamp for hours (rule D5).
    fn note(&mut self, others: &[i64]) {
        let found = offset(others);
        if found.is_none() {
            return;
        }
        let now = clock(found, self.verdict.is_err());
        if others.len() >= 2 || now.is_ok() {
            self.correction = correction(found, others.len(), &now);
        }
        // The text stays the same while the clock is wrong, although the offset changes.
        if now.is_ok() || self.verdict.is_ok() {
            self.verdict = now;
        }
    }
}

/// Findings so far.
#[derive(Default)]
struct RaisedAlarms {
    /// Settings and overloads that were found, with the number of consecutive polls.
    seen: BTreeMap<(Code, String), u32>,
    raised: BTreeMap<(Code, String), String>,
    /// Raised ones that were not found, with the number of consecutive polls: a member may have missed one.
    gone: BTreeMap<(Code, String), u32>,
}

impl RaisedAlarms {
    /// Applies the present findings: raises those that lasted long enough, clears those that ended.
    fn settle(&mut self, alarms: &Alarms, now: BTreeMap<(Code, String), String>) {
        self.seen.retain(|what, _| now.contains_key(what));
        self.gone.retain(|what, _| !now.contains_key(what));
        self.raised.retain(|what, _| {
            if now.contains_key(what) {
                return true;
            }
            let gone = self.gone.entry(what.clone()).or_default();
            *gone += 1;
            let stays = *gone < SEEN;
            if !stays {
                alarms.clear(what.0, &what.1);
            }
            stays
        });
        self.gone.retain(|what, _| self.raised.contains_key(what));
        for (what, detail) in now {
            let seen = self.seen.entry(what.clone()).or_default();
            *seen = seen.saturating_add(1);
            if *seen >= SEEN && self.raised.get(&what) != Some(&detail) {
                tracing::warn!(alarm = what.0.word(), subject = what.1, detail, "members differ");
                alarms.raise(what.0, &what.1, &detail);
                self.raised.insert(what, detail);
            }
        }
    }
}

impl Comparison {
    /// State of this node's clock, compared with the others.
    pub fn clock(&self) -> Result<(), String> {
        self.state().verdict.clone()
    }

    /// As [`Self::clock`], once the others were asked for their time: soon after the start.
    pub async fn compared_clock(&self) -> Result<(), String> {
        let mut compared = self.compared.subscribe();
        match timeout(COMPARED_WITHIN, compared.wait_for(|compared| *compared)).await {
            Ok(_) => self.clock(),
            Err(_) => Err("is not compared with those of the others yet".to_owned()),
        }
    }

    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the other members until stopped. After each poll the SIP server gets the rate of calls that a node has carried,
    /// and `correct` the milliseconds that this node's clock is behind the median of three or more members; 0 while it is
    /// right.
    pub fn watch(
        self: Arc<Self>,
        config: Arc<NodeConfig>,
        calls: CallsService,
        members: Arc<MemberClients>,
        alarms: Alarms,
        correct: Box<dyn Fn(i64) + Send + Sync>,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        async move {
            let mut raised = RaisedAlarms::default();
            let comparing = async {
                let mut carried = Carried::open(&config.data_dir);
                let most = config.calls.max_calls_per_second.saturating_mul(60);
                let expect =
                    |rate: u32| calls.running().inspect(|calls| calls.expect(f64::from(rate.min(most)) / 60.0));
                expect(carried.by_node());
                loop {
                    tokio::time::sleep(EVERY).await;
                    let results = members.compare().await;
                    correct(self.note_clock(&results));
                    let own = own_values(&config, &calls);
                    carried.note(own.carried_per_minute);
                    expect(carried.by_any(results.values().map(|result| &result.reply)));
                    raised.settle(&alarms, findings(&config.name, &own, &results, &raised));
                }
            };
            let _ = stop.run_until_cancelled(comparing).await;
        }
        .boxed()
    }

    /// Returns the correction of this node's clock.
    fn note_clock(&self, heard: &BTreeMap<NodeName, CompareResult>) -> i64 {
        let offsets: Vec<i64> = heard.values().map(|heard| heard.ahead_ms).collect();
        let mut state = self.state();
        state.note(&offsets);
        self.compared.send_replace(true);
        state.correction
    }
}

/// All present findings.
fn findings(
    own: &NodeName,
    facts: &CompareReply,
    heard: &BTreeMap<NodeName, CompareResult>,
    before: &RaisedAlarms,
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
    // All nodes find the same: the first by name reports.
    if nodes.iter().all(|(name, _)| own < name)
        && let Some((gone, calls, left)) = overload(&loads, before.raised.contains_key(&subject))
    {
        let former = before.raised.get(&subject).filter(|detail| detail.starts_with(&format!("without {gone} ")));
        let detail = format!("without {gone} the others take {left} calls, and there are {calls}");
        found.insert(subject, former.cloned().unwrap_or(detail));
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
        for (others, expected) in
            [(&[][..], 0), (&[HOUR], 0), (&[HOUR, HOUR], HOUR), (&[-HOUR, -HOUR, 0], -HOUR / 2), (&[HOUR, 3], 0)]
        {
            let found = offset(others);
            assert_eq!(correction(found, others.len(), &clock(found, false)), expected, "{others:?}");
        }
    }

    #[test]
    fn a_correction_stays_while_the_others_are_silent() {
        const HOUR: i64 = 3_600_000;
        let mut state = ClockState::default();
        for (others, correction, wrong) in [
            (&[][..], 0, false),
            (&[-HOUR], 0, true),
            (&[-HOUR, -HOUR], -HOUR, true),
            (&[-HOUR], -HOUR, true),
            (&[], -HOUR, true),
            (&[5], 0, false),
            (&[5, 4], 0, false),
        ] {
            state.note(others);
            assert_eq!((state.correction, state.verdict.is_err()), (correction, wrong), "{others:?}");
        }
    }

    #[test]
    fn the_words_of_an_alarm_stay_the_same_while_its_figures_move() {
        let reply = |calls| CompareReply { calls, max_calls: 100, ..Default::default() };
        let heard = |calls| BTreeMap::from([(name("b"), CompareResult { reply: reply(calls), ahead_ms: 0 })]);
        let mut told = RaisedAlarms::default();
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
