//! Who acted, in which epoch, as a receiver saw it (rule P3): what message lights say of themselves, and when they came.

use twinbox_testkit::{Cluster, Light};

/// An epoch as a light names it; later ones are greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    /// Goes up when what was done without a majority is healed.
    pub generation: u64,
    /// Goes up at every move.
    pub number: u64,
    /// Who acts.
    pub node: String,
}

/// The epoch under which a light was sent.
pub fn epoch(light: &Light) -> Epoch {
    let text = light.message.header("x-twinbox-epoch").unwrap_or_else(|| panic!("no epoch in {light:#?}"));
    let parts = || {
        let (numbers, node) = text.split_once('@')?;
        let (generation, number) = numbers.split_once('.')?;
        Some(Epoch { generation: generation.parse().ok()?, number: number.parse().ok()?, node: node.to_owned() })
    };
    parts().unwrap_or_else(|| panic!("no epoch: {text}"))
}

/// Judges all that came: each epoch is one node's, sent by that node, and once a later one has acted no earlier one
/// does. Returns how many epochs acted.
pub fn judge(cluster: &Cluster, lights: &[Light]) -> usize {
    let mut epochs: Vec<Epoch> = Vec::new();
    for light in lights {
        let now = epoch(light);
        assert_eq!(light.source.ip(), cluster.sip(&now.node).ip(), "{light:#?}");
        match epochs.last() {
            Some(last) if *last == now => continue,
            Some(last) => assert!(*last < now, "{now:?} acts after {last:?}: {lights:#?}"),
            None => {}
        }
        epochs.push(now);
    }
    println!("{} acts in epochs {epochs:?}", lights.len());
    epochs.len()
}
