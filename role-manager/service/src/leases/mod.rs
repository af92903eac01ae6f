//! This node's leases and solo work: the task that carries out the turns of `NodeStep`, and what it needs.

pub(crate) mod arbiter;
pub(crate) mod gap;
pub(crate) mod lease_agent;
