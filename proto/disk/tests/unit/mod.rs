//! Journal, layers and index together on simulated disks.

mod blocks;
mod commits;
mod gates;
mod power_cuts;
mod runs;
mod world;
