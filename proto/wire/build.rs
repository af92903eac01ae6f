//! Compiles the protobuf files to tonic and prost code. protox parses them, so that no `protoc` is needed.

use std::{error::Error, path::Path};

/// One file per Rust module of `src/lib.rs`.
const FILES: [&str; 15] = [
    "replication.proto",
    "roles.proto",
    "admin.proto",
    "join.proto",
    "events.proto",
    "steering.proto",
    "delivery.proto",
    "sending.proto",
    "directory.proto",
    "mailbox_sync.proto",
    "timetable.proto",
    "reports.proto",
    "storage.proto",
    "backup.proto",
    "settings.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("proto");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    for file in FILES {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(FILES.map(|file| folder.join(file)), [folder])?;
    // Replies to administrators are also printed as JSON; there a list is complete.
    let cursors = [
        "admin.v1.UserListReply",
        "admin.v1.MessageListReply",
        "admin.v1.ClassListReply",
        "events.v1.AlarmListReply",
        "delivery.v1.DeviceListReply",
        "delivery.v1.OutboxListReply",
        "mailbox_sync.v1.AccountListReply",
    ];
    let build = cursors.iter().fold(tonic_prost_build::configure(), |build, reply| {
        build.field_attribute(format!(".twinbox.{reply}.next"), "#[serde(skip)]")
    });
    build
        .bytes(".twinbox")
        .type_attribute(".twinbox.admin.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.events.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.steering.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.delivery.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.sending.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.directory.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.mailbox_sync.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.timetable.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.reports.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.storage.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.backup.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.settings.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.join.v1.Token", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.join.v1.AuthorityStatus", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.join.v1.RotationStatus", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.join.v1.MemberProgress", "#[derive(serde::Serialize)]")
        .type_attribute(".twinbox.join.v1.OperatorStatus", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
