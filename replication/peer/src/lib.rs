//! Replication between nodes: changes, audio and acknowledgements over one long-lived stream each way.
//!
//! Each node follows every other. New changes go to the followers immediately (`source`); the changes that they lack
//! from before (`history`) and the audio of recordings in progress (`tails`) go over separate lanes. The follower
//! applies the changes, blobs first (`applier`, `fetch`), and acknowledges durable ones; `acks` lets the writer
//! continue. Changes of all origins are passed on, so that two nodes without a direct link still converge through a
//! third (rule D11). Every queue is bounded; a follower that is too slow gets the changes from the log.

mod acks;
mod applier;
mod attempts;
mod comparison;
mod config;
mod error;
mod fill;
mod follower;
mod frames;
mod history;
mod link;
mod log_cut;
mod lost_audio;
mod peers;
mod progress;
mod service;
mod set_aside;
mod source;
mod stability;
mod state_fill;
mod state_scan;
mod stream_prober;

pub use comparison::{AudioCheck, ComparisonCounts, ComparisonReport, Difference, DifferenceOutcome, Subject};
pub use config::{PeerAddress, PeerConfig};
pub use log_cut::LogStatus;
pub use peers::{PeerStatus, Peers, PeersCounters};
pub use progress::{FillProgress, PeerProgress, ScanProgress};
pub use service::ReplicationService;
pub use stability::StabilityMark;
pub use twinbox_replication_core::{ack::Acknowledgement, state_fill::LogPolicy};
