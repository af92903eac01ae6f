//! Tests of the public interface: how a node follows the agreed and replicated state of its cluster.

mod fill_watch;
mod hand_over;
mod members;
mod only_node;
mod passive_watch;
mod uids;
mod unfiled;
