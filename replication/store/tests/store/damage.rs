//! The files of the packs, as a disk that fails changes them.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Bytes of a frame before its payload.
const HEADER: usize = 48;

/// The packs of a store, oldest first.
pub fn packs(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("audio")).expect("the folder of the packs").flatten();
    let mut packs: Vec<_> = files.map(|file| file.path()).collect();
    packs.sort();
    packs
}

/// The places of frames with exactly this payload: the pack, and the offset of the payload in it.
pub fn places(dir: &Path, payload: &[u8]) -> Vec<(PathBuf, u64)> {
    let mut places = Vec::new();
    for path in packs(dir) {
        let bytes = fs::read(&path).expect("a pack");
        for at in (HEADER..bytes.len().saturating_sub(payload.len())).step_by(16) {
            let length = bytes[at - HEADER + 12..][..4].try_into().map(u32::from_le_bytes).expect("4 bytes");
            if length as usize == payload.len() && bytes[at..].starts_with(payload) {
                places.push((path.clone(), at as u64));
            }
        }
    }
    places
}

/// Flips a bit in the middle of every frame with this payload.
pub fn spoil(dir: &Path, payload: &[u8]) {
    let places = places(dir, payload);
    assert!(!places.is_empty(), "no pack has it");
    for (path, at) in places {
        let middle = payload.len() / 2;
        let file = File::options().write(true).open(path).expect("a pack");
        file.write_all_at(&[payload[middle] ^ 1], at + middle as u64).expect("a write");
    }
}
