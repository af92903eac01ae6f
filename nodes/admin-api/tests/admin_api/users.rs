//! Users and their messages, as an administrator adds, shows, changes and removes them.

use std::collections::BTreeMap;

use tonic::{Code, transport::Channel};
use twinbox_directory_store::DirectoryStore;
use twinbox_ids::{DirectoryId, Pii, Timestamp};
use twinbox_mailbox::{EntryId, StoredDirectory};
use twinbox_store_kit::audio;
use twinbox_wire::admin::{
    ClusterStatusRequest, MessageListRequest, MessageRequest, UserAddRequest, UserListRequest, UserRenumberRequest,
    UserRequest, UserSetPinRequest, admin_client::AdminClient,
};

use crate::node::AdminNode;

fn user(number: &str) -> UserRequest {
    UserRequest { number: number.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_is_added_shown_renumbered_and_removed_and_a_reply_has_only_a_pin_that_the_node_chose() {
    let node = AdminNode::formed().await;
    let mut admin = AdminClient::new(node.channel.clone());
    let new = UserAddRequest { number: "1001".to_owned(), name: "Anna".to_owned(), ..Default::default() };
    let added = admin.user_add(new).await.expect("added").into_inner();
    assert_eq!((added.acknowledged.as_str(), added.pin.len() >= 4), ("alone", true), "no other node has it");
    let pin = UserSetPinRequest { number: "1001".to_owned(), pin: "2580".to_owned(), must_change: true };
    let set = admin.user_set_pin(pin).await.expect("set").into_inner();
    assert_eq!((set.id.as_str(), set.pin.as_str()), (added.id.as_str(), ""));

    let renumber = UserRenumberRequest { number: "1001".to_owned(), to: "1002".to_owned() };
    admin.user_renumber(renumber).await.expect("renumbered");
    let by_id = added.id.clone();
    for key in ["1002", by_id.as_str()] {
        let shown = admin.user_show(user(key)).await.expect("shown").into_inner();
        let found = (shown.id, shown.number, shown.name, shown.must_change_pin);
        assert_eq!(found, (by_id.clone(), "1002".to_owned(), "Anna".to_owned(), true), "{key}");
    }
    admin.user_remove(user("1002")).await.expect("removed");
    assert_eq!(admin.user_show(user("1002")).await.expect_err("it is gone").code(), Code::NotFound);
    let status = admin.cluster_status(ClusterStatusRequest {}).await.expect("the status").into_inner();
    let members: Vec<_> = status.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!((status.cluster.as_str(), status.answered_by.as_str(), members), ("example", "a", vec!["a"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_in_parts_has_each_user_once() {
    let node = AdminNode::formed().await;
    let mut admin = AdminClient::new(node.channel.clone());
    let numbers = ["7", "12", "100", "1001", "1002"];
    for number in ["1002", "7", "100", "1001", "12"] {
        let new = UserAddRequest { number: number.to_owned(), ..Default::default() };
        admin.user_add(new).await.expect("added");
    }
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let part = admin.user_list(UserListRequest { limit: Some(2), after }).await.expect("a part").into_inner();
        assert!(part.users.len() <= 2);
        found.extend(part.users.into_iter().map(|user| user.number));
        after = part.next;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(found, numbers, "short numbers first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_is_exported_whole_deleted_and_undeleted() {
    let node = AdminNode::formed().await;
    let mut admin = AdminClient::new(node.channel.clone());
    let mailbox = node.node.mailbox().await.id;
    // More than one part of an export.
    let filed = node.node.leave(mailbox, &audio(20_000)).await;
    let request = || MessageRequest { number: "1001".to_owned(), id: filed.message.to_string() };
    let state = async |admin: &mut AdminClient<Channel>| {
        let list = MessageListRequest { number: "1001".to_owned(), ..Default::default() };
        let messages = admin.message_list(list).await.expect("a list").into_inner().messages;
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        (message.state.clone(), message.length_ms)
    };
    assert_eq!(state(&mut admin).await, ("new".to_owned(), 20_000));
    let (mut wav, mut parts) = (Vec::new(), admin.message_export(request()).await.expect("a file").into_inner());
    while let Some(part) = parts.message().await.expect("a part") {
        wav.extend_from_slice(&part.data);
    }
    assert!(wav.starts_with(b"RIFF") && wav.len() > 20_000 * 8, "{} bytes", wav.len());
    admin.message_delete(request()).await.expect("deleted");
    assert_eq!(state(&mut admin).await.0, "deleted");
    admin.message_undelete(request()).await.expect("undeleted");
    assert_eq!(state(&mut admin).await.0, "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_of_a_directory_is_shown_with_its_name() {
    let node = AdminNode::formed().await;
    let mailbox = node.node.mailbox().await;
    let directories = DirectoryStore::of(&node.node.mailstore);
    let (id, name) = (DirectoryId(1), "corp".to_owned());
    let directory = StoredDirectory { id, name, created: Timestamp(1), settings: BTreeMap::new() };
    directories.add_directory(directory).await.expect("added");
    let mut admin = AdminClient::new(node.channel.clone());
    let local = admin.user_show(user("1001")).await.expect("shown").into_inner();
    assert_eq!((local.directory.as_str(), local.disabled), ("", false));
    let private = |text: &str| Pii::new(text.to_owned());
    let bound = directories.bind_user(mailbox.id, id, EntryId(2), private("uid=a"), private("a")).await;
    bound.expect("bound");
    let shown = admin.user_show(user("1001")).await.expect("shown").into_inner();
    let listed = admin.user_list(UserListRequest::default()).await.expect("a list").into_inner().users;
    assert_eq!((shown.directory.as_str(), shown.disabled), ("corp", false));
    assert_eq!(listed, [shown]);
}
