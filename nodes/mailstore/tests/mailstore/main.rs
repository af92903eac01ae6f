//! Tests of the public interface.

mod by_number;
mod call_records;
mod counts;
mod devices;
mod forgotten;
mod holds;
mod messages;
mod orphans;
mod outbox;
mod pins;
mod sending;
mod two_nodes;
mod used_share;
mod users;
