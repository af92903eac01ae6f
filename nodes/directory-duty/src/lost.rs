//! The end of an epoch.

use twinbox_gate::Gate;
use twinbox_ids::Epoch;

/// Resolves when this node does not hold the duty in this epoch any more.
pub(crate) async fn lost(gate: &Gate, epoch: &Epoch) {
    let mut holding = gate.holding();
    // The gate lives as long as this future: there is always a sender.
    let _ = holding.wait_for(|held| held.as_ref() != Some(epoch)).await;
}
