//! One cluster from its founding to its end, with all faults in between. Everything follows from the seed.

mod faults;

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
use twinbox_roles::{
    Duty, MemberAddress, MemberKind, OnQuorumLoss, Order, Setting, Status, Timing, simulation::Broken,
};
use twinbox_simulation::Receiver;

use crate::{
    board::{Board, Exited, Violation},
    clocks,
    machine::{self, Machine, PORT, Supervisors},
    pauses::{self, Kind},
};

/// One step of the simulation.
const TICK: Duration = Duration::from_millis(1);
/// Drift of the clocks, just within the limit of the timing.
const DRIFT: i64 = 9_900;
/// Duration of the faults.
const FAULTS_LAST: Duration = Duration::from_secs(10);
/// Machine name of all supervisors.
const SUPERVISORS: &str = "supervisors";
/// Maximum stored disk images, to roll disks back to.
const IMAGES: usize = 8;

/// The content of a disk.
type Image = Vec<(Vec<u8>, Vec<u8>)>;

/// A fault built in on purpose, to check that the simulation notices it (rule P4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// A broken rule of the product.
    Rule(Broken),
    /// Disks report a write as durable before it is.
    LyingDisks,
    /// Clocks drift by more than the timing permits.
    WildClocks,
    /// The clocks of leases stop while their machine is suspended.
    StandingClock,
}

impl Flaw {
    /// All flaws.
    pub const ALL: [(&'static str, Self); 6] = [
        ("NoNewLeaderWait", Self::Rule(Broken::NewLeaderWait)),
        ("NoQuorumNeeded", Self::Rule(Broken::Quorum)),
        ("NoConfirmation", Self::Rule(Broken::Confirmation)),
        ("LyingDisks", Self::LyingDisks),
        ("WildClocks", Self::WildClocks),
        ("StandingClock", Self::StandingClock),
    ];
}

/// Statistics of a run without a violation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    pub effects: u64,
    pub epochs: u64,
    /// Solo epochs in which a node acted.
    pub solo_epochs: u64,
    /// Writes sent after a pause, and recognized by their epoch.
    pub late_writes: u64,
    pub faults: u64,
    /// Digest of all effects and their times.
    pub digest: u64,
    /// The longest time until a node acted after a majority was left undisturbed.
    pub slowest: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effects, epochs, solo_epochs, late_writes, faults, digest, slowest } = self;
        write!(
            f,
            "{effects} effects in {epochs} epochs and {solo_epochs} of solo nodes, {late_writes} late writes, \
             {faults} faults, a majority acted after {} ms at the latest, digest {digest:016x}",
            slowest.as_millis()
        )
    }
}

/// State of the link between two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Packets are held until the link is healed.
    Held,
    /// Packets are lost, in both directions or from the first to the second.
    Cut,
    OneWay,
}

struct Member {
    name: NodeName,
    platter: Platter,
    up: bool,
    images: Vec<Image>,
    /// Its disk is an old copy: it no longer takes part.
    rolled_back: bool,
    /// An administrator's removal of it was requested: it may have left.
    leaving: bool,
}

pub struct World<'a> {
    sim: Sim<'a>,
    rng: StdRng,
    board: Board,
    timing: Timing,
    members: Vec<Member>,
    links: BTreeMap<(usize, usize), Link>,
    /// The member whose disk was lost or rolled back since the last healthy state.
    lost_disk: Option<usize>,
    /// Whether supervisors report exited processes.
    supervised: bool,
    /// Their pending reports, with the times.
    exits: Vec<(Duration, Exited)>,
    /// Whether one of a pair enters solo mode.
    assume: bool,
    report: Report,
}

type StepResult = Result<(), Violation>;

impl<'a> World<'a> {
    /// Machines with certificates and empty disks.
    pub fn new(seed: u64, flaw: Option<Flaw>, certificates: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let names: &[&str] = match rng.random_range(0..14) {
            0..6 => &["a", "b", "c"],
            6..8 => &["a", "b", "w"],
            8 => &["a", "b", "c", "w"],
            9 => &["a", "b", "c", "d", "e"],
            _ => &["a", "b"],
        };
        let cluster: ClusterId = CLUSTER.parse()?;
        // By the true time, which TLS uses too.
        let mut identities = Vec::new();
        for name in names {
            identities.push(Arc::new(NodeIdentity::load(&certificates.join(name))?));
        }
        let drift = if flaw == Some(Flaw::WildClocks) { 40 * DRIFT } else { DRIFT };
        let drifts: Vec<i64> = names.iter().map(|_| [-drift, 0, drift][rng.random_range(0..3)]).collect();
        clocks::install(drifts.clone());
        if flaw == Some(Flaw::StandingClock) {
            clocks::stop_in_suspend();
        }
        pauses::install();
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
                index,
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
            // The time of its addition identifies each machine.
            sim.step()?;
            let name: NodeName = name.parse()?;
            members.push(Member {
                name,
                platter,
                up: true,
                images: Vec::new(),
                rolled_back: false,
                leaving: false,
            });
        }
        let supervised = rng.random_bool(0.5);
        if supervised {
            let known = members.iter().map(|member| member.name.clone()).zip(identities);
            let supervisors = Supervisors { identities: known.collect(), board: board.clone() };
            sim.host(SUPERVISORS, move || supervisors.clone().run());
        }
        let assume = names.len() == 2 && rng.random_bool(0.7);
        board.note(format!(
            "members {names:?}, clock drifts {drifts:?} ppm, latency up to {latency} ms, supervisors: {supervised}, \
             solo permitted: {assume}"
        ));
        let (links, exits, report) = (BTreeMap::new(), Vec::new(), Report::default());
        Ok(Self { sim, rng, board, timing, members, links, lost_disk: None, supervised, exits, assume, report })
    }

    /// The board, with the trace.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Plays from the founding to the end.
    pub fn play(&mut self) -> Result<Report, Violation> {
        self.until_healthy("the cluster is formed")?;
        if self.assume {
            self.set_assume()?;
        }
        let end = self.sim.elapsed() + FAULTS_LAST;
        while self.sim.elapsed() < end {
            self.inject_fault()?;
            let pause = self.rng.random_range(5..400);
            self.pass(Duration::from_millis(pause))?;
        }
        self.heal()?;
        let (Receiver { effects, epochs, solo_epochs, late_writes, .. }, digest) = self.board.summary();
        self.report = Report { effects, epochs, solo_epochs, late_writes, digest, ..self.report };
        Ok(self.report)
    }

    /// Maximum time until a node acts, with a majority that is well and reachable. The sum of: the bound for a node
    /// lost together with Raft's leader; before it a voter's silence after its start, its query of its run number, and
    /// the replacement of dead connections; two split votes; and the time for which a node must be well.
    fn patience(&self) -> Duration {
        let Timing { election_max, settle, .. } = self.timing;
        let reconnect = election_max * 5;
        let confirm = Duration::from_millis(200) * 2;
        let found = election_max * 2 + self.timing.new_leader_wait() + Duration::from_millis(100);
        self.timing.silence_after_start() + confirm + reconnect + election_max * 4 + found + settle
    }

    /// The pair agrees that one continues without the other.
    fn set_assume(&mut self) -> StepResult {
        let settings = vec![Setting::OnQuorumLoss(OnQuorumLoss::Assume)];
        let names = self.present();
        let Some(leader) = self.board.leader() else { return Ok(()) };
        self.board.order(&leader, Order::Set(settings));
        let limit = self.patience();
        self.until(limit, "both know that one goes solo", |world| {
            let knows = |name: &&NodeName| {
                let view = world.board.view(name);
                view.is_some_and(|view| view.settings.on_quorum_loss == OnQuorumLoss::Assume)
            };
            names.iter().find(|name| !knows(name)).map(|name| format!("{name} does not"))
        })
    }

    fn step(&mut self) -> StepResult {
        clocks::set_global(self.sim.elapsed());
        pauses::wake();
        let now = self.sim.elapsed();
        for (_, exited) in self.exits.extract_if(.., |(at, _)| *at <= now) {
            self.board.queue_exit(exited);
        }
        let stepped = self.sim.step().map(drop).map_err(|error| error.to_string());
        clocks::set_global(self.sim.elapsed());
        if let Err(error) = stepped {
            self.board.violate(false, format!("a process ended: {error}"));
        }
        self.board.violation().map_or(Ok(()), Err)
    }

    fn pass(&mut self, time: Duration) -> StepResult {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step()?;
        }
        Ok(())
    }

    fn until(
        &mut self,
        limit: Duration,
        what: &str,
        mut missing: impl FnMut(&Self) -> Option<String>,
    ) -> StepResult {
        let end = self.sim.elapsed() + limit;
        loop {
            let Some(reason) = missing(self) else { return Ok(()) };
            if self.sim.elapsed() >= end {
                self.board.violate(false, format!("after {limit:?} still not: {what}: {reason}"));
            }
            self.step()?;
        }
    }

    fn until_healthy(&mut self, what: &str) -> StepResult {
        let names = self.present();
        // Members join one after the other, and nodes settle.
        let limit = self.patience() * 3;
        self.until(limit, what, |world| world.board.unhealthy_reason(&names))?;
        let begun = self.sim.elapsed();
        // All members support the same feature level, so all duties are assigned.
        self.until(limit, "a node acts under each duty", |world| {
            let acted = |duty: &Duty| world.board.last_effect(*duty).is_some_and(|(at, _)| at >= begun);
            Duty::ALL.into_iter().find(|duty| !acted(duty)).map(|duty| format!("no node acts under {duty}"))
        })
    }

    /// Members that have not been removed, by the views of most.
    fn present(&self) -> Vec<NodeName> {
        let all = self.members.iter().enumerate();
        all.filter(|(member, _)| !self.is_removed(*member)).map(|(_, member)| member.name.clone()).collect()
    }

    /// Whether its requested removal is complete.
    fn is_removed(&self, member: usize) -> bool {
        let Member { name, leaving, .. } = &self.members[member];
        let views: Vec<_> = self.members.iter().filter_map(|other| self.board.view(&other.name)).collect();
        *leaving && views.iter().any(|view| view.quorum && view.member(name).is_none())
    }

    // --- required behaviour without faults --------------------------------------------------------------------------

    /// A minority stays as it is, the rest is healed and left undisturbed: then some node of it acts under each duty.
    fn check_majority_acts(&mut self) -> StepResult {
        let lost_disk: BTreeSet<usize> = self.lost_disk.into_iter().collect();
        // It is unknown whether a leaving member still votes: it stays.
        let stays = self.members.iter().position(|member| member.leaving);
        // Of four, three vote. Without one of these, the fourth becomes a voter, but not while it is away.
        let voters = match (self.members.len(), stays) {
            (4, Some(_)) => 2,
            (members, stays) => members - stays.iter().len(),
        };
        let spare = if self.assume { usize::from(self.rng.random_bool(0.7)) } else { (voters - 1) / 2 };
        let mut out = lost_disk;
        while out.len() < spare {
            out.insert(self.rng.random_range(0..self.members.len()));
            out.retain(|member| Some(*member) != stays);
        }
        self.heal_links();
        for member in 0..self.members.len() {
            if out.contains(&member) {
                match self.rng.random_range(0..3) {
                    0 => self.crash(member),
                    1 => (0..self.members.len()).for_each(|other| self.link(member, other, Link::Cut)),
                    _ => pauses::begin(member, self.timing.lease + self.patience(), Kind::Stopped),
                }
            } else {
                pauses::resume(member);
                self.bounce(member);
            }
        }
        self.board.note(format!("a majority, or one of a pair, is left undisturbed, without {out:?}"));
        self.some_node_acts(&out)
    }

    fn some_node_acts(&mut self, out: &BTreeSet<usize>) -> StepResult {
        let begun = self.sim.elapsed();
        // Leases of earlier acts have expired by then.
        let lease = self.timing.lease_at_leader();
        let patience = self.patience();
        let inside = |world: &Self, duty: Duty| {
            let acted = world.board.last_effect(duty).filter(|(at, _)| *at > begun + lease);
            acted.and_then(|(_, name)| world.index(&name)).is_some_and(|member| !out.contains(&member))
        };
        // A node of a pair that restarted before it knew the setting as agreed waits for the other.
        let waits = |world: &Self| {
            let alone = |member: &usize| world.assume && !out.is_empty() && !out.contains(member);
            let mut alone = (0..world.members.len()).filter(alone);
            alone.any(|member| {
                let view = world.board.view(&world.members[member].name);
                view.is_some_and(|view| view.settings.on_quorum_loss == OnQuorumLoss::Hold)
            })
        };
        self.until(lease + patience, "a node of the majority acts under each duty", |world| {
            let idle = Duty::ALL.into_iter().find(|duty| !inside(world, *duty));
            idle.filter(|_| !waits(world)).map(|duty| format!("no node acts under {duty}"))
        })?;
        let took = self.sim.elapsed() - begun;
        self.report.slowest = self.report.slowest.max(took.saturating_sub(lease));
        Ok(())
    }

    /// All faults are repaired: all members are well within their time.
    fn heal(&mut self) -> StepResult {
        self.heal_links();
        for member in 0..self.members.len() {
            pauses::resume(member);
            clocks::set_wall_error(member, 0);
            if std::mem::take(&mut self.members[member].rolled_back) {
                // The administrator's instruction for a rolled-back store.
                self.crash(member);
                self.members[member].platter.restore(Vec::new());
                self.board.note(format!("{} is to join again", self.members[member].name));
            }
            self.bounce(member);
        }
        self.board.note("everything is healed");
        self.some_node_acts(&BTreeSet::new())?;
        self.until_removed()?;
        self.until_healthy("all is well after everything was healed")
    }
}

impl World<'_> {
    /// Waits until no member with a majority reports the leaving member any more.
    fn until_removed(&mut self) -> StepResult {
        let Some(member) = self.members.iter().position(|member| member.leaving) else { return Ok(()) };
        let name = self.members[member].name.clone();
        self.until(self.patience() * 3, "the removed member has left", |world| {
            let views = world.members.iter().filter_map(|other| world.board.view(&other.name));
            let says = |view: &twinbox_roles::RolesView| view.member(&name).map(|member| member.status);
            let leaves = views.filter(|view| view.quorum).any(|view| says(&view) == Some(Status::Leaving));
            leaves.then(|| format!("{name} is still there"))
        })
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
