//! Replication between nodes: changes, audio and acknowledgements over one long-lived stream each way.
//!
//! Each node follows every other. What is committed goes to the followers at once (`source`), beside it what
//! they lack from before (`history`) and the audio of recordings as it is spoken (`tails`). The follower
//! applies what comes, blobs first (`applier`, `fetch`), and acknowledges what is durable; `acks` lets the
//! writer go on. Changes of all origins are passed on, so that two nodes without a direct link still converge
//! through a third (rule D11). Everything that waits is bounded; who is too slow reads the log.

mod acks;
mod applier;
mod config;
mod error;
mod fetch;
mod fill;
mod follower;
mod frames;
mod history;
mod holdings;
mod link;
mod peers;
mod pulse;
mod service;
mod source;
mod tails;

pub use config::{PeerAddress, PeerConfig};
pub use peers::{PeerStatus, Peers, PeersCounters};
pub use service::ReplicationService;
pub use twinbox_replication_core::ack::Acknowledgement;
