//! Tables of the pure core: trunks of files and of administrators, their checks, and what a split makes of them.

use twinbox_cluster_settings::{Origin, Property, Trunk, TrunkChange, TrunkRows, schema};
use twinbox_ids::{NodeName, Origin as Writer, Stamp};
use twinbox_replication_core::{Edit, Key as RowKey, Record};

fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

fn settings(texts: &[&str]) -> Vec<(Property, Option<String>)> {
    texts.iter().map(|text| Property::setting(text).expect("a setting")).collect()
}

fn trunk(name: &str, texts: &[&str]) -> Trunk {
    let mut trunk = Trunk::new(name).expect("a name");
    settings(texts).into_iter().for_each(|(property, value)| trunk.set(property, value));
    trunk
}

/// The rows of one node's store.
#[derive(Clone, Default)]
struct Store(Vec<(RowKey, Record)>);

impl Store {
    fn rows(&self) -> TrunkRows {
        TrunkRows::of(self.0.iter().map(|(key, record)| (key, record)))
    }

    fn write(&mut self, key: RowKey, edits: Vec<Edit>, at: u64, by: &str) {
        if !self.0.iter().any(|(known, _)| *known == key) {
            self.0.push((key.clone(), Record::new()));
        }
        let row = &mut self.0.iter_mut().find(|(known, _)| *known == key).expect("it was added").1;
        let writer = Writer(by.bytes().map(u128::from).sum());
        for (n, edit) in (0..).zip(edits) {
            let delta = edit.delta(row, Stamp { wall: at, counter: n, origin: writer }, &node(by));
            row.merge(delta);
        }
    }

    fn offer(&mut self, file: &[Trunk], at: u64, by: &str) {
        for (key, edits) in self.rows().offers(file) {
            self.write(key, edits, at, by);
        }
    }

    /// An administrator's change on a node without trunks in its file.
    fn change(&mut self, name: &str, change: TrunkChange, at: u64, by: &str) {
        let (key, edits) = self.rows().change(&[], name, &change).unwrap_or_else(|error| panic!("{error}"));
        self.write(key, edits, at, by);
    }

    fn merge(&mut self, other: &Self) {
        for (key, record) in &other.0 {
            match self.0.iter_mut().find(|(known, _)| known == key) {
                Some((_, own)) => own.merge(record.clone()),
                None => self.0.push((key.clone(), record.clone())),
            }
        }
    }

    /// Name and addresses of the trunks that may call.
    fn may_call(&self) -> Vec<(String, String)> {
        let rows = self.rows();
        let describe = |trunk: &Trunk| {
            (trunk.name().to_owned(), trunk.get(Property::Addresses).unwrap_or_default().to_owned())
        };
        rows.known(&[]).iter().map(|known| describe(known.trunk)).collect()
    }
}

fn named(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, addresses)| ((*name).to_owned(), (*addresses).to_owned())).collect()
}

fn add(texts: &[&str]) -> TrunkChange {
    TrunkChange::Add(settings(texts))
}

fn set(texts: &[&str]) -> TrunkChange {
    TrunkChange::Set(settings(texts))
}

#[test]
fn properties_are_checked_and_an_error_names_the_property_and_the_remedy() {
    for (text, stored) in [
        ("addresses=10.0.1.0/24, 10.0.0.10", "10.0.0.10/32,10.0.1.0/24"),
        ("addresses=10.0.0.10,10.0.0.10/32", "10.0.0.10/32"),
        ("register=yes", "true"),
        (" proxy = pbx.example.com ", "pbx.example.com"),
    ] {
        assert_eq!(Property::setting(text).expect(text).1.as_deref(), Some(stored), "{text}");
    }
    assert_eq!(Property::setting("mwi=-").expect("the default"), (Property::Mwi, None));
    for (text, parts) in [
        ("addresses", ["'addresses' has no value", "write addresses=VALUE"]),
        ("adresses=10.0.0.1", ["no setting 'adresses'", "did you mean 'addresses'?"]),
        ("addresses=pbx", ["'pbx' is not an address", "write for example 192.0.2.7"]),
        ("addresses=10.0.0.1,", ["'' is not an address", "write for example 192.0.2.7"]),
        ("addresses=10.0.0.1/8", ["'10.0.0.1/8' has address bits", "write 10.0.0.0/8"]),
        ("transport=tls", ["transport 'tls'", "one of udp, tcp"]),
        ("register_seconds=5", ["register_seconds is 5", "from 60 to 86400"]),
        ("password=1234", ["password is not shared", "password_file=/PATH"]),
        ("password_file=pbx", ["password_file 'pbx'", "absolute path"]),
    ] {
        let error = Property::setting(text).expect_err(text).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        assert!(!error.contains("1234"), "{error}");
    }
    // A file written for an earlier release keeps its meaning.
    assert_eq!(Property::Addresses.check_in_file("10.0.1.5/24").expect("taken"), "10.0.1.0/24");
    for name in ["", " ", "a\nb", &"x".repeat(65)] {
        assert!(Trunk::new(name).expect_err(name).to_string().contains("write 1 to 64"), "{name}");
    }
}

#[test]
fn changes_that_will_not_do_are_refused_with_the_remedy() {
    let mut store = Store::default();
    store.change("pbx", add(&["addresses=10.0.0.10,10.0.1.0/24"]), 1, "a");
    for (name, change, parts) in [
        ("pbx", add(&["addresses=10.0.0.11"]), ["there is a trunk 'pbx'", "'twinbox trunk set pbx …'"]),
        ("pbz", set(&["transport=udp"]), ["no trunk 'pbz'", "did you mean 'pbx'?"]),
        ("other", TrunkChange::Remove, ["no trunk 'other'", "'twinbox trunk list'"]),
        ("new", add(&["transport=udp"]), ["'new' has no addresses", "addresses=10.0.0.10"]),
        ("pbx", set(&["addresses=-"]), ["'pbx' has no addresses", "addresses=10.0.0.10"]),
        ("new", add(&["addresses=10.0.1.0/24"]), ["'pbx' has 10.0.1.0/24 already", "remove it from one"]),
    ] {
        let error = store.rows().change(&[], name, &change).expect_err(name).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{name}: {error}");
    }
    // Of one network, each transport may be a trunk, and a part of a network too.
    store.change("tcp", add(&["addresses=10.0.1.0/24", "transport=tcp"]), 2, "a");
    store.change("part", add(&["addresses=10.0.1.7"]), 3, "a");
    let expected = [("part", "10.0.1.7/32"), ("pbx", "10.0.0.10/32,10.0.1.0/24"), ("tcp", "10.0.1.0/24")];
    assert_eq!(store.may_call(), named(&expected));
}

#[test]
fn the_files_trunks_are_the_first_ones_whichever_offer_arrives_first() {
    let (a, b) = (
        [trunk("pbx", &["addresses=10.0.0.1"])],
        [trunk("pbx", &["addresses=10.0.0.2"]), trunk("sbc", &["addresses=10.0.0.3"])],
    );
    let (mut of_a, mut of_b) = (Store::default(), Store::default());
    of_a.offer(&a, 10, "a");
    of_b.offer(&b, 20, "b");
    for (mut first, second) in [(of_a.clone(), &of_b), (of_b.clone(), &of_a)] {
        first.merge(second);
        assert_eq!(first.may_call(), named(&[("pbx", "10.0.0.1/32"), ("sbc", "10.0.0.3/32")]));
        let rows = first.rows();
        assert_eq!(rows.known(&[])[0].origin, Some(Origin::FirstFile));
        assert!(rows.differences(&a).is_empty());
        let lost = rows.differences(&b);
        assert_eq!(lost.keys().collect::<Vec<_>>(), ["pbx"]);
        assert!(lost["pbx"].contains("delete its [[trunk]]"), "{lost:?}");
        assert!(rows.offers(&a).is_empty() && rows.offers(&b).is_empty());
    }
    // Until it is offered, this node's file counts; the account is each node's own.
    assert_eq!(TrunkRows::default().known(&a)[0].origin, None);
    let own = [trunk("pbx", &["addresses=10.0.0.1", "username=node-b", "password_file=/b"])];
    assert!(of_a.rows().differences(&own).is_empty());
}

#[test]
fn a_removed_trunk_stays_removed_whatever_the_files_say_until_it_is_added_again() {
    let file = [trunk("pbx", &["addresses=10.0.0.1"])];
    let mut store = Store::default();
    store.offer(&file, 10, "a");
    store.change("pbx", TrunkChange::Remove, 20, "a");
    assert!(store.may_call().is_empty() && store.rows().known(&file).is_empty());
    assert!(store.rows().offers(&file).is_empty());
    assert!(store.rows().differences(&file)["pbx"].contains("was removed"));
    store.change("pbx", add(&["addresses=10.0.0.9"]), 30, "b");
    assert_eq!(store.may_call(), named(&[("pbx", "10.0.0.9/32")]));
    // One that is only in the file of the node that is asked.
    let (key, edits) = TrunkRows::default().change(&file, "pbx", &TrunkChange::Remove).expect("removed");
    let mut store = Store::default();
    store.write(key, edits, 1, "a");
    assert!(store.rows().known(&file).is_empty());
}

/// Rule D4: the grant is remove-wins, and what both sides added is there.
#[test]
fn a_removal_beats_a_change_that_did_not_see_it_and_both_sides_trunks_stay() {
    let mut both = Store::default();
    both.change("pbx", add(&["addresses=10.0.0.1"]), 1, "a");
    let (mut left, mut right) = (both.clone(), both);
    left.change("pbx", TrunkChange::Remove, 10, "a");
    left.change("of a", add(&["addresses=10.0.0.2"]), 11, "a");
    right.change("pbx", set(&["addresses=10.0.0.1,10.0.0.5"]), 20, "b");
    right.change("of b", add(&["addresses=10.0.0.3"]), 21, "b");
    for (mut first, second) in [(left.clone(), &right), (right.clone(), &left)] {
        first.merge(second);
        assert_eq!(first.may_call(), named(&[("of a", "10.0.0.2/32"), ("of b", "10.0.0.3/32")]));
        first.change("pbx", add(&["addresses=10.0.0.1"]), 30, "b");
        assert_eq!(first.may_call().len(), 3, "added by one who saw the removal");
    }
}

#[test]
fn property_of_a_later_release_does_not_close_a_trunk_and_a_refused_value_does() {
    for (line, may_call, part) in [
        ("codec=opus", true, "does not know (codec)"),
        ("transport=tls", false, "refuses its transport"),
        ("addresses=nowhere", false, "refuses its addresses"),
    ] {
        let mut store = Store::default();
        let text = format!("addresses=10.0.0.1/32\n{line}\n");
        let edits =
            vec![Edit::Claim(schema::FIRST, text.into()), Edit::Grant(schema::GRANTED, schema::GRANT.to_vec())];
        store.write(schema::trunk_key("pbx"), edits, 1, "a");
        assert_eq!(store.may_call().len(), usize::from(may_call), "{line}");
        let unread = store.rows().unread();
        assert!(unread["pbx"].contains(part) && unread["pbx"].contains("upgrade this node"), "{unread:?}");
        // It is repaired in place.
        store.change("pbx", set(&["addresses=10.0.0.2", "transport=-"]), 2, "a");
        assert_eq!(store.may_call(), named(&[("pbx", "10.0.0.2/32")]), "{line}");
    }
}
