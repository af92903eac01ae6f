//! Opening of the Raft store's disk, and setting aside of one that is damaged.

use twinbox_clock::wall;
use twinbox_disk::{Disk, DiskError, Options, set_aside};

use crate::RolesConfig;

/// Opens the disk of the Raft store, and reads all of it: it is small. A damaged one is set aside, under its name with the
/// time, and an empty one takes its place. An empty store joins under a new Raft id (rule R8): votes and acknowledgements of the
/// old id stay valid, the old id never votes again, and the group replaces it. The member that may found the group is refused
/// instead: it would found a second one beside members that have joined the first.
pub(crate) fn open(config: &RolesConfig) -> Result<Disk, DiskError> {
    let damage = match open_and_read(config) {
        Err(damage) if damage.is_damage() && !config.found => damage,
        opened => return opened,
    };
    let aside = set_aside(&config.dir, wall().0)?;
    tracing::error!(
        %damage, set_aside = %aside.display(),
        "the role manager's store is damaged: this member joins its group again with an empty one"
    );
    Disk::open_with(&config.dir, Options::small())
}

fn open_and_read(config: &RolesConfig) -> Result<Disk, DiskError> {
    let disk = Disk::open_with(&config.dir, Options::small())?;
    disk.scan(b"").try_for_each(|entry| entry.map(drop))?;
    Ok(disk)
}
