//! The end of a fill (rule D13).

/// State of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillStep {
    /// A source may have more.
    Wait,
    /// All changes of the sources are here.
    Filled,
    /// No peer is a source, and all changes of the peers are here.
    NoSource,
}

impl FillStep {
    /// `peers` are all other nodes: `None` for a node that is not followed, or that sends no data, else whether it is a source,
    /// and whether all changes that it had are here.
    pub fn of(peers: &[Option<(bool, bool)>]) -> Self {
        let followed = || peers.iter().flatten();
        let all_given =
            |by_sources: bool| followed().filter(|(source, _)| *source == by_sources).all(|(_, given)| *given);
        if followed().any(|(source, _)| *source) {
            return if all_given(true) { Self::Filled } else { Self::Wait };
        }
        // A node that is not followed may be a source; a removed one is no peer any more. Without peers, another decision ends
        // the fill.
        let all_followed = !peers.is_empty() && peers.iter().all(Option::is_some);
        if all_followed && all_given(false) { Self::NoSource } else { Self::Wait }
    }
}
