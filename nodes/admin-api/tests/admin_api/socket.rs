//! The socket of administrators: its user, a second node, and what a killed process leaves.

use std::{fs, os::unix::fs::PermissionsExt};

use tempfile::TempDir;
use twinbox_admin_api::AdminSocket;

use crate::node::AdminNode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_is_for_its_user_alone_is_not_taken_from_a_running_node_and_is_removed_at_the_end() {
    let node = AdminNode::start().await;
    let socket = node.socket.clone();
    assert_eq!(fs::metadata(&socket).expect("it is there").permissions().mode() & 0o777, 0o600);
    let refused = AdminSocket::bind(&socket).err().expect("a node answers there").to_string();
    for part in [socket.display().to_string().as_str(), "give each its own node.admin_socket"] {
        assert!(refused.contains(part), "{refused}");
    }
    node.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn socket_that_a_killed_process_left_is_replaced_and_a_path_that_cannot_be_made_is_named() {
    let dir = TempDir::new().expect("a folder");
    let path = dir.path().join("run").join("admin.sock");
    drop(AdminSocket::bind(&path).expect("the folder is made, too"));
    assert!(path.exists(), "closing does not remove it");
    assert!(AdminSocket::bind(&path).is_ok());
    fs::write(dir.path().join("file"), "").expect("written");
    let under_a_file = dir.path().join("file").join("admin.sock");
    let refused = AdminSocket::bind(&under_a_file).err().expect("no folder").to_string();
    assert!(refused.contains(&under_a_file.display().to_string()), "{refused}");
}
