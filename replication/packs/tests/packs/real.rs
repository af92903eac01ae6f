//! Packs in a folder of a real disk.

use std::os::unix::fs::MetadataExt;

use twinbox_disk::{Disk, Folder};
use twinbox_journal::{Blocks, Medium, MediumFile};
use twinbox_packs::{Kind, Packs};

use crate::{CONFIG, chunk, file};

#[test]
fn packs_of_a_real_folder_come_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let audio = dir.path().join("audio");
    let open = || Packs::open(Folder::open(&audio).expect("the folder"), CONFIG, 0).expect("the packs");
    // More parts than one vectored write takes.
    let payloads: Vec<Vec<u8>> = (0..2_000_u16).map(|number| number.to_le_bytes().repeat(80)).collect();
    let frames: Vec<_> = payloads.iter().zip(0..).map(|(payload, number)| chunk(number, payload)).collect();
    let packs = open();
    let extents = packs.append(&frames).expect("an append");
    let before = Disk::fsync_count();
    packs.sync().expect("a sync");
    assert!(Disk::fsync_count() > before, "its syncs are counted");
    drop(packs);

    let packs = open();
    let found = packs.scan(1).expect("a scan");
    assert_eq!(found.len(), 2_000);
    for ((found, extent), payload) in found.iter().zip(&extents).zip(&payloads) {
        assert_eq!((found.kind, found.extent), (Kind::Chunk, *extent));
        assert_eq!(packs.read(*extent, 0..extent.length).as_ref(), Ok(payload));
    }
    packs.append(&[chunk(1, b"more")]).expect("an append");
    packs.remove(1).expect("a removal");
    // A pack that was made ahead and never used has left its number behind.
    let [active] = packs.list()[..] else { panic!("one pack: {:?}", packs.list()) };
    assert!(active > 1 && !audio.join(file(1)).exists());
    assert_eq!(audio.join(file(active)).metadata().expect("the pack").len(), CONFIG.pack_bytes);
}

#[test]
fn new_file_reads_as_zeros_and_has_its_space_whatever_it_is_made_of() {
    const LENGTH: usize = 3 * 256 * 1024 + 4_096;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::open(dir.path()).expect("the folder");
    for (name, blocks) in [("zeroed", Blocks::Zeroed), ("reserved", Blocks::Reserved)] {
        let file = folder.create(name, LENGTH as u64, blocks).expect("a file");
        assert_eq!(file.length().expect("a length"), LENGTH as u64);
        let metadata = dir.path().join(name).metadata().expect("the file");
        assert!(metadata.blocks() * 512 >= LENGTH as u64, "{name}: {} blocks", metadata.blocks());
        file.write_at(&[b"audio"], 5_000).expect("a write");
        file.sync().expect("a sync");
        let mut bytes = vec![1; LENGTH];
        assert_eq!(file.read_at(&mut bytes, 0).expect("a read"), LENGTH);
        assert_eq!(bytes[5_000..5_005], *b"audio");
        assert!(bytes[..5_000].iter().chain(&bytes[5_005..]).all(|byte| *byte == 0), "{name}");
        assert!(folder.create(name, 1, blocks).is_err(), "the name is in use");
    }
}

#[test]
fn newest_pack_that_cannot_be_read_stays_and_the_others_are_used() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let audio = dir.path().join("audio");
    let open = || Packs::open(Folder::open(&audio).expect("the folder"), CONFIG, 0);
    let packs = open().expect("the packs");
    let [extent] = packs.append(&[chunk(1, b"one")]).expect("an append")[..] else { panic!("one frame") };
    packs.sync().expect("a sync");
    drop(packs);
    // Each reading of it fails.
    let unreadable = audio.join(file(90));
    std::fs::create_dir(&unreadable).expect("a folder");
    let packs = open().expect("the packs");
    assert_eq!(packs.read(extent, 0..extent.length).as_deref(), Ok(&b"one"[..]));
    assert!(unreadable.exists() && packs.append(&[chunk(2, b"two")]).expect("an append")[0].pack > 90);
}
