//! Checks of a node and of its cluster from the outside: before a start (data folder, ports, open files), and while it
//! runs (comparison with the other members, SIP probes of silent nodes), and whenever an administrator asks (`doctor`).

pub mod comparison;
pub mod doctor;
pub mod folder;
mod open_files;
mod options;
pub mod ports;
mod sip_probe;

pub use open_files::{allow_open_files, open_files_for};
pub use sip_probe::{ProbeCounts, ProbedCluster, ProbedMembers, SipProber};
