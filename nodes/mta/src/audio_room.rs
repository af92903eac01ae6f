//! Memory for the audio of mails under way. A server that never answers keeps a mail for minutes, and many mails at a time
//! may wait for such servers: without a limit their recordings would fill the memory of the node.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for all mails under way, in MiB.
pub(crate) const ROOM_MIB: u32 = 128;
/// Memory of one mail, in lengths of its audio: the recording itself, base64 of it, and the mail with its signature.
const COPIES: u64 = 3;
/// Pause of a mail without room, in milliseconds.
pub(crate) const ROOM_PAUSE_MS: u64 = 2_000;

/// The memory that all mails under way share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AudioRoom {
    free: Arc<Semaphore>,
    all_mib: u32,
}

/// Memory of one mail, until it is dropped.
#[derive(Debug)]
pub struct RoomTaken {
    _permit: OwnedSemaphorePermit,
}

impl AudioRoom {
    /// Room for this many MiB.
    pub(crate) fn new(mib: u32) -> Self {
        let all_mib = mib.max(1);
        Self { free: Arc::new(Semaphore::new(all_mib as usize)), all_mib }
    }

    /// Room for a mail with that many bytes of audio; `None`: others have it. A mail that needs more than half of
    /// all takes half: it would hardly ever find all of it free.
    pub(crate) fn take(&self, audio_bytes: u64) -> Option<RoomTaken> {
        let mib = audio_bytes.saturating_mul(COPIES).div_ceil(1 << 20);
        let mib = u32::try_from(mib).unwrap_or(u32::MAX).clamp(1, (self.all_mib / 2).max(1));
        let permit = self.free.clone().try_acquire_many_owned(mib).ok()?;
        Some(RoomTaken { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mails_share_the_room_and_one_always_fits() {
        let room = AudioRoom::new(8);
        let first = room.take(700_000).expect("3 MiB of 8");
        let huge = room.take(1 << 40).expect("sent beside others");
        assert!(room.take(1 << 40).is_none(), "1 MiB is left");
        drop((first, huge));
        let kept: Vec<RoomTaken> = std::iter::from_fn(|| room.take(1 << 20)).collect();
        assert_eq!(kept.len(), 2, "3 MiB each, of 8");
        assert!(room.take(1 << 40).is_none() && room.take(700_000).is_none());
        assert!(room.take(600_000).is_some(), "2 MiB are left");
    }
}
