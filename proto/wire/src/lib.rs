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

/// Notification devices, the outbox, and the test of the way of mail.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod delivery {
    tonic::include_proto!("twinbox.delivery.v1");
}

/// Other voicemail systems, and messages that are sent.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod sending {
    tonic::include_proto!("twinbox.sending.v1");
}

/// Users from LDAP directories, and sign-in with the directory's password.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod directory {
    tonic::include_proto!("twinbox.directory.v1");
}

/// Synchronisation of mailboxes with mail accounts.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod mailbox_sync {
    tonic::include_proto!("twinbox.mailbox_sync.v1");
}

/// Jobs that run at set times, and their history.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod timetable {
    tonic::include_proto!("twinbox.timetable.v1");
}

/// Reports made of the records of calls and of events.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod reports {
    tonic::include_proto!("twinbox.reports.v1");
}

/// Backups of the cluster in a folder of a node.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod backup {
    tonic::include_proto!("twinbox.backup.v1");
}

/// Settings that all nodes share, in the replicated data.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod settings {
    tonic::include_proto!("twinbox.settings.v1");
}

/// State of a node's store and of its replication.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in the protobuf file")]
pub mod storage {
    tonic::include_proto!("twinbox.storage.v1");
}
