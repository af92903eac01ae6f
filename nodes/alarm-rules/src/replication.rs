//! Alarms from the counters and state of replication. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_alarms::{Code, Kind};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_replication_peer::{PeerStatus, PeersCounters};
use twinbox_roles::{MemberKind, RolesView, Status};

use crate::roles::Report;

/// The alarm ends after this time without a write alone, while a peer counts.
const TOGETHER_FOR: Duration = Duration::from_secs(2);
/// Number of missing changes at which a peer is far behind, and number at which it no longer is. `BEHIND_FOR`:
/// minimum duration.
const BEHIND: (u64, u64) = (10_000, 1_000);
const BEHIND_FOR: Duration = Duration::from_secs(30);
/// Minimum time without a stream between two nodes in service.
const APART_FOR: Duration = Duration::from_secs(5);

/// State of the watch.
#[derive(Debug)]
pub struct ReplicationRules {
    node: NodeName,
    alone: u64,
    /// While the alarm is raised: time of the latest write alone, and number of such writes since the raise.
    last_alone: Option<(BootInstant, u64)>,
    behind: BTreeMap<NodeName, BootInstant>,
    apart: BTreeMap<NodeName, BootInstant>,
    /// The peers of the last look.
    peers: BTreeSet<NodeName>,
    /// Number of streams stopped for a reused origin, number of changes set aside, and number of missing pieces of audio.
    damaged: [u64; 3],
    /// Number of fills by the rows of a peer, and number of failed attempts.
    state_fills: (u64, u64),
    /// Members without which the fill of this node goes on.
    stuck: BTreeSet<NodeName>,
}

impl ReplicationRules {
    /// Initial state.
    pub fn new(node: &NodeName) -> Self {
        Self {
            node: node.clone(),
            alone: 0,
            last_alone: None,
            behind: BTreeMap::new(),
            apart: BTreeMap::new(),
            peers: BTreeSet::new(),
            damaged: [0; 3],
            state_fills: (0, 0),
            stuck: BTreeSet::new(),
        }
    }

    /// Polls the state.
    pub fn look(
        &mut self,
        peers: &[PeerStatus],
        counters: &PeersCounters,
        counting: usize,
        set_aside: u64,
        view: &RolesView,
        now: BootInstant,
    ) -> Vec<Report> {
        let mut reports = Vec::new();
        let own = self.node.to_string();
        self.removed(peers, &mut reports);
        self.alone(peers, counters.alone, counting, now, &mut reports);
        self.lag(peers, now, &mut reports);
        self.apart(peers, view, now, &mut reports);
        self.stuck(peers, &mut reports);
        let (reused, lost) = (counters.own_origin_alarms, counters.audio_lost);
        let [reused_before, set_aside_before, lost_before] =
            std::mem::replace(&mut self.damaged, [reused, set_aside, lost]);
        for (code, before, count, what) in [
            (
                Code::OriginReused,
                reused_before,
                reused,
                "streams were stopped: peers have changes of this node that its disk has lost",
            ),
            (Code::ChangeSetAside, set_aside_before, set_aside, "changes are set aside"),
            (Code::AudioLost, lost_before, lost, "recordings are missing and asked for"),
        ] {
            match count {
                0 => reports.push(Report::Clear(code, own.clone())),
                count if count > before => {
                    reports.push(Report::Raise(code, own.clone(), format!("{count} {what}")))
                }
                _ => {}
            }
        }
        let fills = (counters.state_fills, counters.state_fills_failed);
        let (ended_before, failed_before) = std::mem::replace(&mut self.state_fills, fills);
        if fills.0 > ended_before || fills.1 == 0 {
            reports.push(Report::Clear(Code::StateFillFailed, own));
        } else if fills.1 > failed_before {
            let detail = format!("{} attempts failed since the start of this node", fills.1);
            reports.push(Report::Raise(Code::StateFillFailed, own, detail));
        }
        reports
    }

    /// Ends the alarms about peers that were removed.
    fn removed(&mut self, peers: &[PeerStatus], reports: &mut Vec<Report>) {
        let now = peers.iter().map(|peer| peer.name.clone()).collect();
        for name in std::mem::replace(&mut self.peers, now).difference(&self.peers) {
            self.behind.remove(name);
            self.apart.remove(name);
            reports.extend(
                [Code::ReplicationLag, Code::EffectsWait].map(|code| Report::Clear(code, name.to_string())),
            );
        }
    }

    fn stuck(&mut self, peers: &[PeerStatus], reports: &mut Vec<Report>) {
        let is_stuck = |name: &NodeName| peers.iter().any(|peer| peer.name == *name && peer.stuck.is_some());
        self.stuck.retain(|name| {
            let stays = is_stuck(name);
            if !stays {
                reports.push(Report::Clear(Code::FillStuck, name.to_string()));
            }
            stays
        });
        for peer in peers {
            if let Some(reason) = &peer.stuck
                && self.stuck.insert(peer.name.clone())
            {
                reports.push(Report::Raise(Code::FillStuck, peer.name.to_string(), reason.clone()));
            }
        }
    }

    /// A cluster of one node has no second disk: no alarm.
    fn alone(
        &mut self,
        peers: &[PeerStatus],
        alone: u64,
        counting: usize,
        now: BootInstant,
        reports: &mut Vec<Report>,
    ) {
        let more = alone.saturating_sub(std::mem::replace(&mut self.alone, alone));
        let own = self.node.to_string();
        if more > 0 && !peers.is_empty() {
            if self.last_alone.is_none() {
                reports.push(Report::Event(
                    Kind::AcknowledgedAlone,
                    own.clone(),
                    "the first since a peer answered in time".to_owned(),
                ));
            }
            let all = self.last_alone.map_or(0, |(_, before)| before) + more;
            self.last_alone = Some((now, all));
            let detail = format!("{all} writes so far are on this node's disk only");
            reports.push(Report::Raise(Code::AcknowledgedAlone, own, detail));
        } else if peers.is_empty()
            || counting > 0 && self.last_alone.is_none_or(|(at, _)| now.since(at) >= TOGETHER_FOR)
        {
            self.last_alone = None;
            reports.push(Report::Clear(Code::AcknowledgedAlone, own));
        }
    }

    fn lag(&mut self, peers: &[PeerStatus], now: BootInstant, reports: &mut Vec<Report>) {
        for peer in peers.iter().filter(|peer| peer.connected) {
            if peer.lag_changes >= BEHIND.0 {
                let since = *self.behind.entry(peer.name.clone()).or_insert(now);
                if now.since(since) >= BEHIND_FOR {
                    // Reported again after each further period.
                    self.behind.insert(peer.name.clone(), now);
                    let detail = format!("{} lacks {} changes that are here", peer.name, peer.lag_changes);
                    reports.push(Report::Raise(Code::ReplicationLag, peer.name.to_string(), detail));
                }
            } else if peer.lag_changes <= BEHIND.1 {
                self.behind.remove(&peer.name);
                reports.push(Report::Clear(Code::ReplicationLag, peer.name.to_string()));
            }
        }
    }

    /// With a third node in service, changes pass through that node.
    fn apart(&mut self, peers: &[PeerStatus], view: &RolesView, now: BootInstant, reports: &mut Vec<Report>) {
        let in_service =
            |m: &&twinbox_roles::MemberView| m.kind == MemberKind::Node && m.status == Status::InService;
        let nodes: Vec<&NodeName> = view.members.iter().filter(in_service).map(|m| &m.name).collect();
        for peer in peers {
            let both = nodes.len() == 2 && nodes.contains(&&peer.name) && nodes.contains(&&self.node);
            if both && view.quorum && !peer.connected && !peer.following {
                let since = *self.apart.entry(peer.name.clone()).or_insert(now);
                if now.since(since) >= APART_FOR {
                    self.apart.insert(peer.name.clone(), now);
                    let detail = format!(
                        "{} and {} are in service and not in touch: what one takes in waits for the other",
                        self.node, peer.name
                    );
                    reports.push(Report::Raise(Code::EffectsWait, peer.name.to_string(), detail));
                }
            } else {
                self.apart.remove(&peer.name);
                reports.push(Report::Clear(Code::EffectsWait, peer.name.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(alone: u64) -> PeersCounters {
        PeersCounters { alone, ..PeersCounters::default() }
    }

    fn peer(lag: u64, connected: bool) -> PeerStatus {
        PeerStatus {
            name: "b".parse().expect("a name"),
            connected,
            following: connected,
            counts: connected,
            lag_changes: lag,
            last_contact_ms: None,
            sent_bytes: 0,
            received_bytes: 0,
            stuck: None,
        }
    }

    /// Raised codes.
    fn raised(reports: &[Report]) -> Vec<Code> {
        reports
            .iter()
            .filter_map(|say| if let Report::Raise(code, ..) = say { Some(*code) } else { None })
            .collect()
    }

    #[test]
    fn writes_alone_are_an_alarm_until_a_peer_counts_again() {
        let mut copies = ReplicationRules::new(&"a".parse().expect("a name"));
        let view = crate::roles::tests::view(&[]);
        let at = |ms: u64| BootInstant::from_nanos(ms * 1_000_000);
        let over = Report::Clear(Code::AcknowledgedAlone, "a".to_owned());
        for (ms, alone, counting, is_raised, is_over) in [
            (0, 0, 1, false, true),
            (250, 3, 0, true, false),
            (500, 3, 0, false, false),
            (750, 4, 0, true, false),
            (1_000, 4, 1, false, false),
            (2_750, 4, 1, false, true),
            (3_000, 5, 1, true, false),
        ] {
            let reports = copies.look(&[peer(0, true)], &counted(alone), counting, 0, &view, at(ms));
            let seen = (raised(&reports) == [Code::AcknowledgedAlone], reports.contains(&over));
            assert_eq!(seen, (is_raised, is_over), "{ms}: {reports:?}");
        }
        assert!(copies.look(&[], &counted(5), 0, 0, &view, at(3_100)).contains(&over), "its peer was removed");
        let mut single = ReplicationRules::new(&"a".parse().expect("a name"));
        assert_eq!(raised(&single.look(&[], &counted(9), 0, 0, &view, at(0))), [], "one node is no pair");
    }

    #[test]
    fn a_peer_that_stays_behind_is_an_alarm() {
        let mut copies = ReplicationRules::new(&"a".parse().expect("a name"));
        let view = crate::roles::tests::view(&[]);
        let mut look = |seconds: u64, lag: u64| {
            let now = BootInstant::from_nanos(seconds * 1_000_000_000);
            raised(&copies.look(&[peer(lag, true)], &counted(0), 1, 0, &view, now))
        };
        assert_eq!(look(0, 20_000), []);
        assert_eq!(look(29, 20_000), []);
        assert_eq!(look(31, 15_000), [Code::ReplicationLag]);
        assert_eq!(look(32, 900), []);
        assert_eq!(look(33, 20_000), []);
        assert_eq!(look(64, 20_000), [Code::ReplicationLag]);
        let gone = copies.look(&[], &counted(0), 0, 0, &view, BootInstant::from_nanos(65_000_000_000));
        for code in [Code::ReplicationLag, Code::EffectsWait] {
            assert!(gone.contains(&Report::Clear(code, "b".to_owned())), "{code:?}: {gone:?}");
        }
    }

    #[test]
    fn failed_fill_is_an_alarm_until_one_succeeds() {
        let mut copies = ReplicationRules::new(&"a".parse().expect("a name"));
        let view = crate::roles::tests::view(&[]);
        let over = Report::Clear(Code::StateFillFailed, "a".to_owned());
        for (ms, failed, ended, is_raised, is_over) in [
            (0, 0, 0, false, true),
            (1, 2, 0, true, false),
            (2, 2, 0, false, false),
            (3, 2, 1, false, true),
            (4, 3, 1, true, false),
        ] {
            let counters =
                PeersCounters { state_fills: ended, state_fills_failed: failed, ..PeersCounters::default() };
            let reports = copies.look(&[], &counters, 0, 0, &view, BootInstant::from_nanos(ms));
            let seen = (raised(&reports) == [Code::StateFillFailed], reports.contains(&over));
            assert_eq!(seen, (is_raised, is_over), "{ms}: {reports:?}");
        }
    }

    #[test]
    fn member_that_brings_nothing_is_an_alarm_until_it_does_or_is_removed() {
        let mut copies = ReplicationRules::new(&"a".parse().expect("a name"));
        let view = crate::roles::tests::view(&[]);
        let over = Report::Clear(Code::FillStuck, "b".to_owned());
        let stuck = PeerStatus { stuck: Some("nothing came".to_owned()), ..peer(0, true) };
        for (ms, peers, is_raised, is_over) in [
            (0, vec![peer(0, true)], false, false),
            (1, vec![stuck.clone()], true, false),
            (2, vec![stuck.clone()], false, false),
            (3, vec![peer(0, true)], false, true),
            (4, vec![stuck], true, false),
            (5, vec![], false, true),
        ] {
            let reports = copies.look(&peers, &counted(0), 1, 0, &view, BootInstant::from_nanos(ms));
            let seen = (raised(&reports) == [Code::FillStuck], reports.contains(&over));
            assert_eq!(seen, (is_raised, is_over), "{ms}: {reports:?}");
        }
    }

    #[test]
    fn damage_raises_an_alarm_immediately() {
        let mut copies = ReplicationRules::new(&"a".parse().expect("a name"));
        let view = crate::roles::tests::view(&[]);
        let counters = PeersCounters { own_origin_alarms: 1, ..PeersCounters::default() };
        let reports = copies.look(&[], &counters, 0, 2, &view, BootInstant::from_nanos(0));
        assert_eq!(raised(&reports), [Code::OriginReused, Code::ChangeSetAside]);
        let reports = copies.look(&[], &counters, 0, 3, &view, BootInstant::from_nanos(1));
        assert_eq!(raised(&reports), [Code::ChangeSetAside], "what is known is not reports again");
    }

    #[test]
    fn missing_audio_is_an_alarm_until_all_has_come() {
        let mut copies = ReplicationRules::new(&"a".parse().expect("a name"));
        let view = crate::roles::tests::view(&[]);
        let over = Report::Clear(Code::AudioLost, "a".to_owned());
        for (ms, audio_lost, is_raised, is_over) in [
            (0, 0, false, true),
            (1, 2, true, false),
            (2, 1, false, false),
            (3, 2, true, false),
            (4, 0, false, true),
        ] {
            let counters = PeersCounters { audio_lost, ..PeersCounters::default() };
            let reports = copies.look(&[], &counters, 0, 0, &view, BootInstant::from_nanos(ms));
            let seen = (raised(&reports) == [Code::AudioLost], reports.contains(&over));
            assert_eq!(seen, (is_raised, is_over), "{ms}: {reports:?}");
        }
    }
}
