//! Acts by node and epoch, as a receiver saw them (rule P3): the epochs in MWI NOTIFYs, and the times of arrival.

use twinbox_testkit::{Cluster, MwiNotify};

/// An epoch as a NOTIFY names it; later ones are greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    /// Raised when a split without a majority is healed.
    pub generation: u64,
    /// Raised at every move.
    pub number: u64,
    /// The acting node.
    pub node: String,
}

/// The epoch under which a NOTIFY was sent.
pub fn epoch(light: &MwiNotify) -> Epoch {
    let text = light.message.header("x-twinbox-epoch").unwrap_or_else(|| panic!("no epoch in {light:#?}"));
    let parts = || {
        let (numbers, node) = text.split_once('@')?;
        let (generation, number) = numbers.split_once('.')?;
        Some(Epoch { generation: generation.parse().ok()?, number: number.parse().ok()?, node: node.to_owned() })
    };
    parts().unwrap_or_else(|| panic!("no epoch: {text}"))
}

/// Judges all NOTIFYs: each epoch belongs to one node, was sent by that node, and no earlier epoch acts after a later
/// one. Returns the number of epochs that acted.
pub fn judge(cluster: &Cluster, lights: &[MwiNotify]) -> usize {
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
