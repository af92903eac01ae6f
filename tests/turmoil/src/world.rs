//! One cluster from its founding to its end, with all that goes wrong in between. Everything follows from the seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use turmoil::Sim;
use twinbox_disk::simulation::{Platter, Sync};
use twinbox_ids::{ClusterId, NodeName};
use twinbox_pki::{CertificateAuthority, NodeIdentity};
use twinbox_roles::{MemberAddress, MemberKind, Timing, simulation::Broken};

use crate::{
    board::{Board, Violation},
    clocks,
    machine::{self, Machine, PORT},
};

/// One step of the simulation.
const TICK: Duration = Duration::from_millis(1);
/// Drift of the clocks, just within what the timing allows for.
const DRIFT: i64 = 9_900;
/// For how long things go wrong.
const TROUBLE: Duration = Duration::from_secs(10);
/// Images of disks that are kept, to set disks back to.
const IMAGES: usize = 8;

/// What is on a disk.
type Image = Vec<(Vec<u8>, Vec<u8>)>;

/// What is wrong on purpose, so that it is seen whether the simulation would notice (rule P4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// A rule of the product that is broken.
    Rule(Broken),
    /// Disks say that a write is on them before it is.
    LyingDisks,
    /// Clocks drift by more than the timing allows for.
    WildClocks,
}

impl Flaw {
    /// All of them.
    pub const ALL: [(&'static str, Self); 5] = [
        ("NoNewLeaderWait", Self::Rule(Broken::NewLeaderWait)),
        ("NoQuorumNeeded", Self::Rule(Broken::Quorum)),
        ("NoConfirmation", Self::Rule(Broken::Confirmation)),
        ("LyingDisks", Self::LyingDisks),
        ("WildClocks", Self::WildClocks),
    ];
}

/// How a run went that kept all rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    pub effects: u64,
    pub epochs: usize,
    pub faults: u64,
    /// Of all effects and their times.
    pub digest: u64,
    /// The longest time until somebody acted after a majority was left alone.
    pub slowest: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effects, epochs, faults, digest, slowest } = self;
        write!(
            f,
            "{effects} effects in {epochs} epochs, {faults} faults, a majority acted after {} ms at the latest, \
             digest {digest:016x}",
            slowest.as_millis()
        )
    }
}

/// How two machines reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// What is sent arrives when the link is whole again.
    Held,
    /// What is sent is lost, in both directions or from the first to the second.
    Cut,
    OneWay,
}

struct Member {
    name: NodeName,
    platter: Platter,
    up: bool,
    images: Vec<Image>,
    /// Its disk is an old copy: it takes no part any more.
    set_back: bool,
}

pub struct World<'a> {
    sim: Sim<'a>,
    rng: StdRng,
    board: Board,
    timing: Timing,
    members: Vec<Member>,
    links: BTreeMap<(usize, usize), Link>,
    /// Whose disk was lost or set back since all was well.
    spoiled: Option<usize>,
    report: Report,
}

type Played = Result<(), Violation>;

impl<'a> World<'a> {
    /// Machines, their certificates, and nothing on their disks.
    pub fn new(seed: u64, flaw: Option<Flaw>, certificates: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let names: &[&str] = match rng.random_range(0..10) {
            0..6 => &["a", "b", "c"],
            6..8 => &["a", "b", "w"],
            8 => &["a", "b", "c", "w"],
            _ => &["a", "b", "c", "d", "e"],
        };
        let cluster: ClusterId = CLUSTER.parse()?;
        // By the true time, as TLS asks for it.
        let mut identities = Vec::new();
        for name in names {
            identities.push(Arc::new(NodeIdentity::load(&certificates.join(name))?));
        }
        let drift = if flaw == Some(Flaw::WildClocks) { 40 * DRIFT } else { DRIFT };
        let drifts: Vec<i64> = names.iter().map(|_| [-drift, 0, drift][rng.random_range(0..3)]).collect();
        clocks::install(drifts.clone());
        twinbox_pki::simulation::install(machine::connect);
        if let Some(Flaw::Rule(rule)) = flaw {
            twinbox_roles::simulation::break_rule(rule);
        }
        let latency = [2, 5, 20][rng.random_range(0..3)];
        let mut sim = turmoil::Builder::new()
            .rng_seed(rng.random())
            .enable_random_order()
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(latency))
            .tcp_capacity(100_000)
            .build();
        let board = Board::default();
        let timing = Timing::lan();
        let kind = |name: &str| if name.starts_with('w') { MemberKind::Witness } else { MemberKind::Node };
        let mut addresses = Vec::new();
        for name in names {
            let address = format!("{name}:{PORT}");
            addresses.push(MemberAddress { name: name.parse()?, kind: kind(name), address });
        }
        let mut members = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let mut syncs = StdRng::seed_from_u64(rng.random());
            let lies = flaw == Some(Flaw::LyingDisks);
            let platter = Platter::new(move || {
                let takes = Duration::from_micros(syncs.random_range(100..3_000));
                let (kept_if_killed, lies) = (syncs.random_bool(0.5), lies && syncs.random_bool(0.9));
                Sync { takes, kept_if_killed, lies }
            });
            let machine = Machine {
                name: name.parse()?,
                kind: kind(name),
                cluster,
                members: addresses.clone(),
                timing,
                identity: identities[index].clone(),
                platter: platter.clone(),
                board: board.clone(),
                found: Arc::new(AtomicBool::new(index == 0)),
            };
            sim.host(*name, move || machine.clone().run());
            // By the moment at which it was added each machine is told apart.
            sim.step()?;
            let name: NodeName = name.parse()?;
            members.push(Member { name, platter, up: true, images: Vec::new(), set_back: false });
        }
        let links = BTreeMap::new();
        board.note(format!("members {names:?}, clocks wrong by {drifts:?} ppm, latency up to {latency} ms"));
        Ok(Self { sim, rng, board, timing, members, links, spoiled: None, report: Report::default() })
    }

    /// The board, with the trace.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// From the founding to the end.
    pub fn play(&mut self) -> Result<Report, Violation> {
        self.until_well("the cluster is formed")?;
        let end = self.sim.elapsed() + TROUBLE;
        while self.sim.elapsed() < end {
            self.trouble()?;
            let pause = self.rng.random_range(5..400);
            self.pass(Duration::from_millis(pause))?;
        }
        self.heal()?;
        let (effects, epochs, digest) = self.board.summary();
        self.report = Report { effects, epochs, digest, ..self.report };
        Ok(self.report)
    }

    /// After this long with a majority that is well and reachable, somebody acts. That is the bound of a node lost together
    /// with Raft's leader; before it a voter's silence after its start and its question for its age, and connections that
    /// have to be found dead and made anew; two votes that split; and the time that a node must be well for.
    fn patience(&self) -> Duration {
        let Timing { election_max, settle, .. } = self.timing;
        let reconnect = election_max * 5;
        let confirm = Duration::from_millis(200) * 2;
        let found = election_max * 2 + self.timing.new_leader_wait() + Duration::from_millis(100);
        self.timing.silence_after_start() + confirm + reconnect + election_max * 4 + found + settle
    }

    fn step(&mut self) -> Played {
        clocks::set_global(self.sim.elapsed());
        let stepped = self.sim.step().map(drop).map_err(|error| error.to_string());
        clocks::set_global(self.sim.elapsed());
        if let Err(error) = stepped {
            self.board.violate(false, format!("a process ended: {error}"));
        }
        self.board.violation().map_or(Ok(()), Err)
    }

    fn pass(&mut self, time: Duration) -> Played {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step()?;
        }
        Ok(())
    }

    fn until(&mut self, limit: Duration, what: &str, mut missing: impl FnMut(&Self) -> Option<String>) -> Played {
        let end = self.sim.elapsed() + limit;
        loop {
            let Some(why) = missing(self) else { return Ok(()) };
            if self.sim.elapsed() >= end {
                self.board.violate(false, format!("after {limit:?} still not: {what}: {why}"));
            }
            self.step()?;
        }
    }

    fn until_well(&mut self, what: &str) -> Played {
        let names: Vec<NodeName> = self.members.iter().map(|m| m.name.clone()).collect();
        // Newcomers are let in one after the other, and nodes settle.
        let limit = self.patience() * 3;
        self.until(limit, what, |world| world.board.not_well(&names))?;
        let begun = self.sim.elapsed();
        self.until(limit, "somebody acts", |world| {
            let acted = world.board.last_effect().is_some_and(|(at, _)| at >= begun);
            (!acted).then(|| "nobody does".to_owned())
        })
    }

    // --- what goes wrong ------------------------------------------------------------------------------------------

    fn trouble(&mut self) -> Played {
        self.report.faults += 1;
        let any = self.rng.random_range(0..self.members.len());
        let victim = self.victim();
        match self.rng.random_range(0..26) {
            0..3 => self.crash(victim),
            3..6 => {
                self.crash(victim);
                let pause = self.rng.random_range(1..200);
                self.pass(Duration::from_millis(pause))?;
                self.bounce(victim);
            }
            6..8 => (0..self.members.len()).for_each(|member| self.bounce(member)),
            8..11 => {
                self.isolate(victim);
                if self.rng.random_bool(0.5) {
                    self.pass(self.timing.new_leader_wait())?;
                }
            }
            11 => self.link(victim, any, Link::Cut),
            12 | 13 => self.link(victim, any, Link::OneWay),
            14 => self.link(victim, any, Link::Held),
            15 | 16 => self.mend(),
            17 => self.slow(victim, any),
            18 | 19 => {
                let (at, publisher) = (self.members[any].name.clone(), self.members[victim].name.clone());
                self.board.note(format!("an administrator asks {at} to make {publisher} the publisher"));
                self.board.order(&at, publisher);
            }
            20 => self.spoil(victim),
            21..24 => self.behead()?,
            24 => self.forget()?,
            _ => self.rest()?,
        }
        for member in &mut self.members {
            if self.rng.random_bool(0.1) {
                member.images.push(member.platter.image());
                if member.images.len() > IMAGES {
                    let old = self.rng.random_range(0..IMAGES);
                    member.images.remove(old);
                }
            }
        }
        Ok(())
    }

    /// Anybody, and more often than not one who leads or acts: that is where it hurts.
    fn victim(&mut self) -> usize {
        let any = self.rng.random_range(0..self.members.len());
        match self.rng.random_range(0..3) {
            0 => any,
            1 => self.actor().unwrap_or(any),
            _ => self.leader().unwrap_or(any),
        }
    }

    fn index(&self, name: &NodeName) -> Option<usize> {
        self.members.iter().position(|member| member.name == *name)
    }

    fn leader(&self) -> Option<usize> {
        self.index(&self.board.leader()?)
    }

    fn actor(&self) -> Option<usize> {
        self.index(&self.board.last_effect()?.1)
    }

    fn crash(&mut self, member: usize) {
        if std::mem::replace(&mut self.members[member].up, false) {
            let name = self.members[member].name.clone();
            self.board.note(format!("{name} crashes"));
            self.sim.crash(name.as_str());
            self.members[member].platter.crash();
            self.board.gone(&name);
        }
    }

    fn bounce(&mut self, member: usize) {
        if !std::mem::replace(&mut self.members[member].up, true) {
            let name = self.members[member].name.clone();
            self.board.note(format!("{name} is started again"));
            self.sim.bounce(name.as_str());
        }
    }

    fn link(&mut self, from: usize, to: usize, state: Link) {
        let pair = (from.min(to), from.max(to));
        if from == to || self.links.contains_key(&pair) {
            return;
        }
        let (a, b) = (self.members[from].name.clone(), self.members[to].name.clone());
        self.board.note(format!("between {a} and {b}: {state:?}"));
        match state {
            Link::Held => self.sim.hold(a.as_str(), b.as_str()),
            Link::Cut => self.sim.partition(a.as_str(), b.as_str()),
            Link::OneWay => self.sim.partition_oneway(a.as_str(), b.as_str()),
        }
        self.links.insert(pair, state);
    }

    fn isolate(&mut self, member: usize) {
        let state = [Link::Cut, Link::Held, Link::OneWay][self.rng.random_range(0..3)];
        (0..self.members.len()).for_each(|other| self.link(member, other, state));
    }

    fn mend(&mut self) {
        for ((a, b), state) in std::mem::take(&mut self.links) {
            let (a, b) = (self.members[a].name.as_str(), self.members[b].name.as_str());
            match state {
                Link::Held => self.sim.release(a, b),
                _ => self.sim.repair(a, b),
            }
        }
        self.board.note("all links are whole");
    }

    fn slow(&mut self, a: usize, b: usize) {
        if a != b {
            let latency = Duration::from_millis([1, 10, 30][self.rng.random_range(0..3)]);
            let (a, b) = (self.members[a].name.as_str(), self.members[b].name.as_str());
            self.board.note(format!("between {a} and {b} it takes up to {latency:?}"));
            self.sim.set_link_max_message_latency(a, b, latency);
        }
    }

    /// A disk is lost, or is an old copy. One at a time: two of three lost are a cluster lost.
    fn spoil(&mut self, member: usize) {
        if self.spoiled.is_some_and(|spoiled| spoiled != member) {
            return;
        }
        self.spoiled = Some(member);
        self.crash(member);
        let old: Vec<Image> =
            self.members[member].images.iter().filter(|i| self.is_known_old(member, i)).cloned().collect();
        let back = !old.is_empty() && self.rng.random_bool(0.7);
        let image = back.then(|| old[self.rng.random_range(0..old.len())].clone());
        let known = &mut self.members[member];
        let name = known.name.clone();
        match image {
            Some(image) => {
                known.set_back = true;
                known.platter.restore(image);
                self.board.note(format!("the disk of {name} is set back to an old copy"));
            }
            None => {
                known.set_back = false;
                known.images.clear();
                known.platter.restore(Vec::new());
                self.board.note(format!("the disk of {name} is empty"));
            }
        }
        self.bounce(member);
    }

    /// Whether every other has heard of a later start of the store than that in this copy: then, and only then, rule R8
    /// sees to it that the copy takes no part.
    fn is_known_old(&self, member: usize, image: &Image) -> bool {
        let value =
            |image: &Image, key: &[u8]| image.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        let Some(id) = value(image, b"member/raft-id") else { return false };
        let Some(run) = value(image, b"member/run") else { return false };
        let seen = [b"seen/".as_slice(), &id].concat();
        (0..self.members.len()).filter(|other| *other != member).all(|other| {
            // What begins with this copy counts itself one higher.
            let next = u64::from_be_bytes(run.clone().try_into().unwrap_or_default()) + 1;
            let known = value(&self.members[other].platter.image(), &seen);
            known.is_some_and(|told| told[..8] >= next.to_be_bytes()[..])
        })
    }

    /// Who acts is cut off, and who leads dies.
    fn behead(&mut self) -> Played {
        let (Some(actor), Some(leader)) = (self.actor(), self.leader()) else { return Ok(()) };
        self.mend();
        (0..self.members.len()).for_each(|member| self.bounce(member));
        self.pass(self.timing.lease)?;
        if actor != leader {
            (0..self.members.len()).for_each(|other| self.link(actor, other, Link::Cut));
            let pause = self.rng.random_range(0..100);
            self.pass(Duration::from_millis(pause))?;
            self.crash(leader);
            if self.members.len() == 3 {
                // Two are left of whom one is cut off: nobody could take over.
                self.bounce(leader);
            }
        } else {
            (0..self.members.len()).for_each(|other| self.link(actor, other, Link::Cut));
        }
        self.pass(self.timing.new_leader_wait() + self.timing.lease)
    }

    /// One is away while something is agreed, another forgets it, and the two find each other without the third.
    fn forget(&mut self) -> Played {
        if self.members.len() != 3 || self.spoiled.is_some() {
            return Ok(());
        }
        self.mend();
        (0..3).for_each(|member| self.bounce(member));
        self.until_well("all is well after everything was started")?;
        let Some(actor) = self.actor() else { return Ok(()) };
        let (away, forgets) = ((actor + 1) % 3, (actor + 2) % 3);
        let image = self.members[forgets].platter.image();
        self.crash(forgets);
        self.bounce(forgets);
        let known = self.patience();
        self.until(known, "the others know of a start", |world| {
            (!world.is_known_old(forgets, &image)).then(|| "they do not".to_owned())
        })?;
        let agree = self.timing.election_max * 6 + self.timing.new_leader_wait();
        (0..3).for_each(|other| self.link(away, other, Link::Cut));
        self.crash(actor);
        self.bounce(actor);
        self.pass(agree)?;
        self.crash(actor);
        self.crash(forgets);
        self.spoiled = Some(forgets);
        let known = &mut self.members[forgets];
        known.set_back = true;
        known.platter.restore(image);
        let name = known.name.clone();
        self.board.note(format!("the disk of {name} is set back to the copy from before"));
        self.mend();
        self.bounce(forgets);
        self.pass(agree)?;
        self.bounce(actor);
        Ok(())
    }

    // --- what must be right then ----------------------------------------------------------------------------------

    /// A minority stays as it is, the rest is healed and left alone: then somebody acts.
    fn rest(&mut self) -> Played {
        let spoiled: BTreeSet<usize> = self.spoiled.into_iter().collect();
        let spare = (self.members.len() - 1) / 2;
        let mut out = spoiled;
        while out.len() < spare {
            out.insert(self.rng.random_range(0..self.members.len()));
        }
        self.mend();
        for member in 0..self.members.len() {
            if out.contains(&member) {
                match self.rng.random_bool(0.5) {
                    true => self.crash(member),
                    false => (0..self.members.len()).for_each(|other| self.link(member, other, Link::Cut)),
                }
            } else {
                self.bounce(member);
            }
        }
        self.board.note(format!("a majority is left alone, without {out:?}"));
        self.somebody_acts(&out)
    }

    fn somebody_acts(&mut self, out: &BTreeSet<usize>) -> Played {
        let begun = self.sim.elapsed();
        // What an act before proves is over by then.
        let lease = self.timing.lease_at_leader();
        let patience = self.patience();
        let inside = |world: &Self| {
            let acted = world.board.last_effect().filter(|(at, _)| *at > begun + lease);
            acted.and_then(|(_, name)| world.index(&name)).is_some_and(|member| !out.contains(&member))
        };
        self.until(lease + patience, "somebody of a majority acts", |world| {
            (!inside(world)).then(|| "nobody does".to_owned())
        })?;
        let took = self.sim.elapsed() - begun;
        self.report.slowest = self.report.slowest.max(took.saturating_sub(lease));
        Ok(())
    }

    /// Everything is right again: so are all members, within their time.
    fn heal(&mut self) -> Played {
        self.mend();
        for member in 0..self.members.len() {
            if std::mem::take(&mut self.members[member].set_back) {
                // What an administrator is told to do with a store that was set back.
                self.crash(member);
                self.members[member].platter.restore(Vec::new());
                self.board.note(format!("{} is to join anew", self.members[member].name));
            }
            self.bounce(member);
        }
        self.board.note("everything is healed");
        self.somebody_acts(&BTreeSet::new())?;
        self.until_well("all is well after everything was healed")
    }
}

/// The cluster of all runs.
pub const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

/// Certificates for the members of all runs.
pub fn certify(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let authority = CertificateAuthority::create(CLUSTER.parse()?, "simulated")?;
    for name in ["a", "b", "c", "d", "e", "w"] {
        let kind = if name == "w" { twinbox_pki::MemberKind::Witness } else { twinbox_pki::MemberKind::Node };
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir)?;
        authority.issue(&name.parse()?, kind)?.save(&dir)?;
    }
    Ok(())
}
