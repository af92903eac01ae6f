//! A cluster that was restored from a backup, whose mails have the name of the cluster that was backed up.

use super::*;

#[tokio::test]
async fn restored_cluster_appends_no_mail_again_and_removes_that_of_a_message_deleted_here() {
    let rewriting = MemoryFolder { rewrites: true, ..MemoryFolder::default() };
    for folder in folders().into_iter().chain([rewriting]) {
        let mut world = World::with(&[], folder).await;
        let (deleted, kept) = (world.leave().await, world.leave().await);
        world.settle().await;
        // After the backup came a mail of others, and that of a message which had none yet. The rows were restored.
        let late = world.leave().await;
        world.folder.add(Some("<other@mail.example>".to_owned()), ImapFlags::default());
        world.folder.add(Some(message_id(late, Extent::Whole, CLUSTER)), ImapFlags::default());
        world.cluster = ClusterId(8);
        world.settle().await;
        assert_eq!(world.folder.mails.len(), 4, "nothing is appended again: {:?}", world.folder);
        world.mark(deleted, Mark::Deleted).await;
        assert_eq!(world.round().await.removed_there, 1);
        // A full look finds the others, with their rows and without.
        world.folder.renumber();
        world.settle().await;
        world.store.remove_account(world.mailbox).await.expect("removed");
        world.store.set_account(world.mailbox, Some(SERVER), BTreeMap::new()).await.expect("an account");
        world.settle().await;
        assert_eq!(world.folder.mails.len(), 3, "{:?}", world.folder);
        for id in [deleted, kept, late] {
            world.agree(id).await;
        }
    }
}
