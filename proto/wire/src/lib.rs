//! The messages between Twinbox's processes, as generated from the protobuf files in `proto/`.
//!
//! A number in those files is never reused and never changes its meaning: nodes one release apart work together, and
//! the messages of [`replication`] are also the disk format.

/// Records, changes and the streams between nodes that carry them.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod replication {
    tonic::include_proto!("twinbox.replication.v1");
}

/// The role manager: Raft between members, keep-alives and leases.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod roles {
    tonic::include_proto!("twinbox.roles.v1");
}

/// The command line's requests to a node.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod admin {
    tonic::include_proto!("twinbox.admin.v1");
}

/// Joining of members, and renewal of their certificates.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod join {
    tonic::include_proto!("twinbox.join.v1");
}

/// Alarms and the event stream: queries of administrators, and the content of replicated records.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod events {
    tonic::include_proto!("twinbox.events.v1");
}

/// Orders of administrators to the role manager, and queries.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod steering {
    tonic::include_proto!("twinbox.steering.v1");
}
