//! Lists that a node sends in parts, because a reply is limited to 4 MiB.

use tonic::{Response, Status};
use twinbox_wire::{
    admin::{Class, ClassListReply, Message, MessageListReply, User, UserListReply},
    delivery::{Device, DeviceListReply, Effect, OutboxListReply},
    events::{Alarm, AlarmListReply},
    mailbox_sync::{Account, AccountListReply},
};

/// A reply that is a part of a list.
pub trait Part {
    /// Item of the list.
    type Item;

    /// Items of the part, and the cursor of the next part; empty: there is none.
    fn open(self) -> (Vec<Self::Item>, String);
}

macro_rules! part {
    ($reply:ident, $items:ident, $item:ident) => {
        impl Part for $reply {
            type Item = $item;

            fn open(self) -> (Vec<$item>, String) {
                (self.$items, self.next)
            }
        }
    };
}

part!(UserListReply, users, User);
part!(MessageListReply, messages, Message);
part!(ClassListReply, classes, Class);
part!(AlarmListReply, alarms, Alarm);
part!(DeviceListReply, devices, Device);
part!(OutboxListReply, effects, Effect);
part!(AccountListReply, accounts, Account);

/// The whole list; `ask` requests the part after a cursor. A node of a release before parts sends all items in the
/// first one.
pub async fn all<P: Part>(
    mut ask: impl AsyncFnMut(String) -> Result<Response<P>, Status>,
) -> Result<Vec<P::Item>, Status> {
    let (mut all, mut next) = ask(String::new()).await?.into_inner().open();
    while !next.is_empty() {
        let (items, behind) = ask(next).await?.into_inner().open();
        all.extend(items);
        next = behind;
    }
    Ok(all)
}

/// Limit of a part: as many items as fit into a reply.
pub const AS_FIT: Option<u32> = Some(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_are_asked_for_until_the_last() {
        let mut asked = Vec::new();
        let users = all(async |after| {
            let n = asked.len();
            asked.push(after);
            let next = if n < 2 { format!("cursor {n}") } else { String::new() };
            let user = User { number: n.to_string(), ..User::default() };
            Ok(Response::new(UserListReply { users: vec![user], next }))
        });
        let numbers: Vec<_> = users.await.unwrap().into_iter().map(|user| user.number).collect();
        assert_eq!(numbers, ["0", "1", "2"]);
        assert_eq!(asked, ["", "cursor 0", "cursor 1"]);
    }
}
