//! UIDs on nodes that are split and meet again (rule D10): what mail programs could see on any node at any time, and what
//! it says in the end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use twinbox_ids::{MailboxId, MessageId, NodeName, Origin, Stamp, Timestamp};
use twinbox_mailbox::{
    Codec, Filing, Mark, Message, NewMessage, Numbers, Rules, has_uid, is_purge_due, is_purged, purge, schema,
    uids::{self, MailboxUids, UidWatch, give_again},
};
use twinbox_replication_core::{Change, Edit, Record};

use crate::common::{MAILBOX, blob};

/// One mailbox as a node has it.
#[derive(Clone, Default)]
struct Copy {
    counters: Record,
    messages: BTreeMap<MessageId, Record>,
}

/// Everything that mail programs saw on one node.
#[derive(Default)]
struct Shown {
    /// The messages that had each UID.
    named: BTreeMap<u64, BTreeSet<MessageId>>,
    /// By message the highest UID that was in use when it was not here.
    before: BTreeMap<MessageId, u64>,
}

struct Node {
    name: NodeName,
    origin: u128,
    copy: Copy,
    shown: Shown,
    /// Everything that they saw in earlier lives of the disk.
    old: Vec<Shown>,
    watch: UidWatch,
}

struct World {
    nodes: Vec<Node>,
    wall: u64,
    filed: u128,
}

fn merge(record: &mut Record, stamp: Stamp, node: &NodeName, edits: Vec<Edit>) -> Record {
    let mut all = Record::new();
    for edit in edits {
        let delta = edit.delta(record, stamp, node);
        record.merge(delta.clone());
        all.merge(delta);
    }
    all
}

impl World {
    fn new(nodes: usize) -> Self {
        let node = |i: usize| Node {
            name: ["a", "b", "c"][i].parse().expect("a name"),
            origin: i as u128,
            copy: Copy::default(),
            shown: Shown::default(),
            old: Vec::new(),
            watch: UidWatch::default(),
        };
        Self { nodes: (0..nodes).map(node).collect(), wall: 1, filed: 0 }
    }

    fn numbers(&self, at: usize) -> Numbers {
        Numbers::after(&self.nodes[at].copy.counters)
    }

    fn edit(&mut self, at: usize, id: MessageId, edits: Vec<Edit>, taken: Vec<Edit>) {
        self.wall += 1;
        let node = &mut self.nodes[at];
        let stamp = Stamp { wall: self.wall, counter: 0, origin: Origin(node.origin) };
        let record = node.copy.messages.entry(id).or_default();
        let delta = merge(record, stamp, &node.name, edits);
        merge(&mut node.copy.counters, stamp, &node.name, taken);
        node.hear(id, delta);
        self.show(at);
    }

    fn file(&mut self, at: usize, id: MessageId, filing: Filing) {
        let new = NewMessage {
            received: Timestamp(1),
            caller: None,
            caller_name: None,
            codec: Codec::Pcma,
            urgent: false,
            private: false,
            mail: None,
        };
        let (numbers, record) = (self.numbers(at), self.record(at, id));
        let taken = if has_uid(&record) { Numbers::take_modseq() } else { numbers.take_both() };
        self.edit(at, id, new.edits(&record, filing, blob(1, 1), numbers), taken);
    }

    fn record(&self, at: usize, id: MessageId) -> Record {
        self.nodes[at].copy.messages.get(&id).cloned().unwrap_or_default()
    }

    /// Everything that `from` has comes to `to`.
    fn sync(&mut self, from: usize, to: usize) {
        let copy = self.nodes[from].copy.clone();
        let node = &mut self.nodes[to];
        node.copy.counters.merge(copy.counters);
        for (id, record) in copy.messages {
            let known = node.copy.messages.entry(id).or_default();
            let before = known.clone();
            known.merge(record.clone());
            if *known != before {
                node.hear(id, record);
            }
        }
        self.show(to);
    }

    /// The publisher's round; whether anything was to do.
    fn renumber(&mut self, at: usize) -> bool {
        if self.nodes[at].watch.take(usize::MAX).is_empty() {
            return false;
        }
        let mut found = MailboxUids::default();
        self.nodes[at].copy.messages.iter().for_each(|(id, record)| found.add(*id, record));
        for (uid, id) in found.clashing() {
            let numbers = self.numbers(at);
            let edits = give_again(&self.record(at, id), uid, numbers);
            self.edit(at, id, edits, numbers.take_both());
        }
        self.nodes[at].watch.checked(MAILBOX, found.highest());
        true
    }

    /// Mail programs look at each node after each step.
    fn show(&mut self, at: usize) {
        let everything: Vec<MessageId> = (1..=self.filed).map(MessageId).collect();
        let node = &mut self.nodes[at];
        let highest = highest(&node.copy);
        for id in everything {
            match node.copy.messages.get(&id).and_then(|record| uids::of(record).max()) {
                Some(uid) => drop(node.shown.named.entry(uid).or_default().insert(id)),
                None => drop(node.shown.before.insert(id, highest)),
            }
        }
    }

    /// A disk from before: the node has what it had then, and its next incarnation goes on from there.
    fn set_back(&mut self, at: usize, copy: Copy) {
        let node = &mut self.nodes[at];
        node.old.push(std::mem::take(&mut node.shown));
        (node.copy, node.watch) = (copy, UidWatch::default());
        node.origin += 100;
        node.watch.suspect([MAILBOX]);
        self.show(at);
    }
}

fn highest(copy: &Copy) -> u64 {
    Numbers::after(&copy.counters).uid - 1
}

impl Node {
    fn hear(&self, id: MessageId, delta: Record) {
        let key = schema::message_key(MAILBOX, id);
        self.watch.changed(&Change { origin: Origin(1), seq: 1, key, delta, part: Default::default() });
    }
}

#[derive(Debug, Clone)]
enum UidStep {
    File(usize),
    /// A second node files a recording, too.
    FileAgain(usize, prop::sample::Index),
    Delete(usize, prop::sample::Index),
    Sync(usize, usize),
    Renumber(usize),
    SetBack(usize),
}

fn any_step(nodes: usize) -> impl Strategy<Value = UidStep> {
    let node = move || 0..nodes;
    let any = any::<prop::sample::Index>;
    prop_oneof![
        6 => node().prop_map(UidStep::File),
        1 => (node(), any()).prop_map(|(at, index)| UidStep::FileAgain(at, index)),
        1 => (node(), any()).prop_map(|(at, index)| UidStep::Delete(at, index)),
        4 => (node(), node()).prop_map(|(from, to)| UidStep::Sync(from, to)),
        2 => node().prop_map(UidStep::Renumber),
        1 => node().prop_map(UidStep::SetBack),
    ]
}

fn run(nodes: usize, steps: Vec<UidStep>) -> Result<(), TestCaseError> {
    let mut world = World::new(nodes);
    let mut kept: Vec<Copy> = vec![Copy::default(); nodes];
    for step in steps {
        match step {
            UidStep::File(at) => {
                world.filed += 1;
                world.file(at, MessageId(world.filed), Filing::Complete);
            }
            UidStep::FileAgain(at, index) if world.filed > 0 => {
                let id = MessageId(index.index(world.filed as usize) as u128 + 1);
                world.file(at, id, Filing::Partial { take: 1 });
            }
            UidStep::Delete(at, index) if !world.nodes[at].copy.messages.is_empty() => {
                let messages = &world.nodes[at].copy.messages;
                let (id, record) = messages.iter().nth(index.index(messages.len())).expect("one");
                let (id, edits) = (*id, Mark::Deleted.edits(record, world.numbers(at)));
                world.edit(at, id, edits, Numbers::take_modseq());
            }
            UidStep::Sync(from, to) if from != to => {
                world.sync(from, to);
                kept[to] = world.nodes[to].copy.clone();
            }
            UidStep::Renumber(at) => drop(world.renumber(at)),
            // UIDs that only this disk had are lost, and mail programs have seen them: another node has all of them.
            UidStep::SetBack(at) => {
                world.sync(at, (at + 1) % nodes);
                world.set_back(at, kept[at].clone());
            }
            _ => {}
        }
    }
    // The split ends. One node is the publisher.
    for _round in 0..4 {
        for (from, to) in (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to))).filter(|(a, b)| a != b) {
            world.sync(from, to);
        }
        world.renumber(0);
    }
    prop_assert!(!world.renumber(0), "it comes to an end");
    let last = &world.nodes[0].copy;
    for node in &world.nodes {
        prop_assert_eq!(&node.copy.messages, &last.messages);
        prop_assert_eq!(&node.copy.counters, &last.counters);
    }
    for (id, record) in &last.messages {
        let uid = uids::of(record).max().expect("it has a UID");
        for shown in world.nodes.iter().flat_map(|node| node.old.iter().chain([&node.shown])) {
            let named = shown.named.get(&uid).into_iter().flatten().filter(|named| *named != id);
            prop_assert_eq!(named.count(), 0, "{} had named another message", uid);
            // A program asks for what is above the highest that it knows.
            let before = shown.before.get(id).copied().unwrap_or_default();
            prop_assert!(uid > before, "{} came behind {}", uid, before);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_uid_names_two_messages_and_none_comes_below_those_seen_on_two_nodes(
        steps in proptest::collection::vec(any_step(2), 0..40)
    ) {
        run(2, steps)?;
    }

    #[test]
    fn no_uid_names_two_messages_and_none_comes_below_those_seen_on_three_nodes(
        steps in proptest::collection::vec(any_step(3), 0..40)
    ) {
        run(3, steps)?;
    }
}

#[test]
fn both_messages_of_a_clash_get_new_uids_in_their_order() {
    let mut world = World::new(2);
    for (at, count) in [(0, 2), (1, 3)] {
        for _ in 0..count {
            world.filed += 1;
            world.file(at, MessageId(world.filed), Filing::Complete);
        }
    }
    world.sync(1, 0);
    assert!(world.renumber(0));
    let uid = |id| uids::of(&world.record(0, MessageId(id))).max();
    // 1 and 2 on the one side, 3 to 5 on the other. The last clashed with none.
    assert_eq!([1, 2, 3, 4, 5].map(uid), [4, 6, 5, 7, 3].map(Some));
    assert_eq!(world.numbers(0).uid, 8);
}

#[test]
fn messages_filed_in_turn_and_their_deletions_cost_one_check() {
    let mut world = World::new(2);
    for turn in 0..10 {
        let at = turn % 2;
        world.filed += 1;
        let id = MessageId(world.filed);
        world.file(at, id, Filing::Complete);
        let edits = Mark::Deleted.edits(&world.record(at, id), world.numbers(at));
        world.edit(at, id, edits, Numbers::take_modseq());
        world.sync(at, 1 - at);
        assert_eq!(world.renumber(0), turn == 0, "{turn}");
    }
}

#[test]
fn numbers_of_the_release_before_are_respected() {
    let node: NodeName = "a".parse().expect("a name");
    let stamp = Stamp { wall: 1, counter: 0, origin: Origin(1) };
    let (mut counters, mut message) = (Record::new(), Record::new());
    merge(&mut counters, stamp, &node, vec![Edit::Count(schema::counters::UIDS, 9)]);
    let register = twinbox_replication_core::Value::Bytes(7_u64.to_be_bytes().to_vec());
    merge(&mut message, stamp, &node, vec![Edit::Set(schema::message::UID, register)]);
    assert_eq!(Numbers::after(&counters).uid, 10);
    assert!(has_uid(&message));
    let mut both = MailboxUids::default();
    [1, 2].into_iter().for_each(|id| both.add(MessageId(id), &message));
    assert_eq!((both.clashing(), both.highest()), (vec![(7, MessageId(1)), (7, MessageId(2))], 7));
}

#[test]
fn each_suspect_mailbox_has_its_turn_and_repaired_counters_make_one_suspect() {
    let watch = UidWatch::default();
    let all: Vec<MailboxId> = (1..=5).map(MailboxId).collect();
    watch.suspect(all.clone());
    assert_eq!(watch.take(3), all[..3]);
    watch.suspect(all[..3].to_vec());
    assert_eq!(watch.take(4), [&all[3..], &all[..2]].concat());
    assert_eq!((watch.take(9), watch.take(9)), (vec![all[2]], vec![]));
    let counters = |seq| {
        let key = schema::counters_key(all[4]);
        watch.changed(&Change { origin: Origin(1), seq, key, delta: Record::new(), part: Default::default() });
        watch.take(9)
    };
    assert_eq!((counters(7), counters(0)), (vec![], vec![all[4]]));
}

/// A row of a repair has all UIDs of its message; one of another message with the highest of them comes next.
#[test]
fn highest_uid_of_a_repaired_row_counts_although_another_one_is_old() {
    let world = World::new(2);
    let node = &world.nodes[0];
    node.watch.checked(MAILBOX, 40);
    let uids = |uids: &[u64]| {
        let stamp = Stamp { wall: 1, counter: 0, origin: Origin(1) };
        let edits = uids.iter().map(|uid| Edit::Add(schema::message::UIDS, uid.to_be_bytes().to_vec()));
        merge(&mut Record::new(), stamp, &node.name, edits.collect())
    };
    for (given, is_suspect) in
        [(&[41][..], false), (&[3, 50], true), (&[50], true), (&[51, 52], false), (&[52], true)]
    {
        node.hear(MessageId(1), uids(given));
        assert_eq!(!node.watch.take(1).is_empty(), is_suspect, "{given:?}");
    }
}

/// Rows of messages may come before those of their counters, and a lie may use up the numbers.
#[test]
fn new_uid_is_above_all_messages_whatever_the_counters_say() {
    let numbers = Numbers { uid: 11, modseq: 1 };
    assert_eq!([3, 10, 11, 60].map(|highest| numbers.above(highest).uid), [11, 11, 12, 61]);
    let mut world = World::new(2);
    world.filed = 1;
    world.file(0, MessageId(1), Filing::Complete);
    let record = world.record(0, MessageId(1));
    let given = |uid| give_again(&record, 1, Numbers { uid, modseq: 1 }).len();
    assert_eq!([0, 1, 2].map(given), [0, 0, 2]);
    assert_eq!(numbers.above(u64::MAX).uid, u64::MAX);
}

/// The publisher and a node that purges do not wait for each other.
#[test]
fn message_that_is_purged_while_it_gets_a_new_uid_is_purged_again() {
    let mut world = World::new(2);
    world.filed = 1;
    let id = MessageId(1);
    world.file(0, id, Filing::Complete);
    world.edit(0, id, Mark::Deleted.edits(&world.record(0, id), world.numbers(0)), vec![]);
    world.sync(0, 1);
    let numbers = world.numbers(1).above(1);
    world.edit(1, id, give_again(&world.record(1, id), 1, numbers), numbers.take_both());
    world.edit(0, id, purge(&world.record(0, id)), vec![]);
    world.sync(1, 0);
    let due = |record: &Record| {
        let message = Message::read(&schema::message_key(MAILBOX, id), record, |_| None).expect("a message");
        is_purge_due(&message, record, &Rules::default(), Timestamp(0), Timestamp(u64::MAX), 0)
    };
    let record = world.record(0, id);
    assert!(is_purged(&record) && !record.is_deleted() && due(&record), "the row would stay for ever");
    world.edit(0, id, purge(&record), vec![]);
    let record = world.record(0, id);
    assert!(is_purged(&record) && record.is_deleted() && !due(&record));
}
