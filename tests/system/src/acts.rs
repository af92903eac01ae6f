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
pub fn epoch(notify: &MwiNotify) -> Epoch {
    let text = notify.message.header("x-twinbox-epoch").unwrap_or_else(|| panic!("no epoch in {notify:#?}"));
    let parts = || {
        let (numbers, node) = text.split_once('@')?;
        let (generation, number) = numbers.split_once('.')?;
        Some(Epoch { generation: generation.parse().ok()?, number: number.parse().ok()?, node: node.to_owned() })
    };
    parts().unwrap_or_else(|| panic!("no epoch: {text}"))
}

/// Judges all NOTIFYs: each epoch belongs to one node, was sent by that node, and no earlier epoch acts after a later
/// one. Returns the number of epochs that acted.
pub fn judge(cluster: &Cluster, notifies: &[MwiNotify]) -> usize {
    let mut epochs: Vec<Epoch> = Vec::new();
    for notify in notifies {
        let now = epoch(notify);
        assert_eq!(notify.source.ip(), cluster.sip(&now.node).ip(), "{notify:#?}");
        match epochs.last() {
            Some(last) if *last == now => continue,
            Some(last) => assert!(*last < now, "{now:?} acts after {last:?}: {notifies:#?}"),
            None => {}
        }
        epochs.push(now);
    }
    println!("{} acts in epochs {epochs:?}", notifies.len());
    epochs.len()
}
