//! Tests of the public interface: requests of administrators over the socket of a node that is its cluster's only member.

mod alarms;
mod node;
mod refusals;
mod socket;
mod users;
