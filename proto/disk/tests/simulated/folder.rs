//! Folders of preallocated files: of this machine, or of a simulated node.

use std::{io, path::Path};

use twinbox_journal::{Blocks, Medium, MediumFile};

use super::{
    node_files::{NodeFile, NodeFolder},
    node_platter::{AUDIO, mounted},
};
use crate::{DiskError, medium};

/// A folder of a caller, of this machine or of a simulated node; for the guarantees see the real one.
pub struct Folder(FolderKind);

enum FolderKind {
    Real(medium::Folder),
    Node(NodeFolder),
}

/// An open file of a [`Folder`].
pub struct OpenFile(FileKind);

enum FileKind {
    Real(medium::OpenFile),
    Node(NodeFile),
}

impl Folder {
    /// The folder `dir` of a caller: that of a simulated node if its disk is mounted there. A node has one such folder.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        match mounted(dir) {
            Some(platter) => Ok(Self(FolderKind::Node(NodeFolder::new(&platter, platter.process(), AUDIO)))),
            None => medium::Folder::open(dir).map(|folder| Self(FolderKind::Real(folder))),
        }
    }
}

impl OpenFile {
    fn real(file: medium::OpenFile) -> Self {
        Self(FileKind::Real(file))
    }

    fn node(file: NodeFile) -> Self {
        Self(FileKind::Node(file))
    }
}

impl Medium for Folder {
    type File = OpenFile;

    fn list(&self) -> io::Result<Vec<String>> {
        match &self.0 {
            FolderKind::Real(folder) => folder.list(),
            FolderKind::Node(folder) => folder.list(),
        }
    }

    fn open(&self, name: &str) -> io::Result<OpenFile> {
        match &self.0 {
            FolderKind::Real(folder) => Medium::open(folder, name).map(OpenFile::real),
            FolderKind::Node(folder) => folder.open(name).map(OpenFile::node),
        }
    }

    fn create(&self, name: &str, length: u64, blocks: Blocks) -> io::Result<OpenFile> {
        match &self.0 {
            FolderKind::Real(folder) => folder.create(name, length, blocks).map(OpenFile::real),
            FolderKind::Node(folder) => folder.create(name, length, blocks).map(OpenFile::node),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match &self.0 {
            FolderKind::Real(folder) => folder.remove(name),
            FolderKind::Node(folder) => folder.remove(name),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        match &self.0 {
            FolderKind::Real(folder) => folder.rename(from, to),
            FolderKind::Node(folder) => folder.rename(from, to),
        }
    }
}

impl MediumFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        match &self.0 {
            FileKind::Real(file) => file.length(),
            FileKind::Node(file) => file.length(),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.0 {
            FileKind::Real(file) => file.read_at(buffer, offset),
            FileKind::Node(file) => file.read_at(buffer, offset),
        }
    }

    fn read_new(&self, length: usize, offset: u64) -> io::Result<Vec<u8>> {
        match &self.0 {
            FileKind::Real(file) => file.read_new(length, offset),
            FileKind::Node(file) => file.read_new(length, offset),
        }
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        match &self.0 {
            FileKind::Real(file) => file.write_at(parts, offset),
            FileKind::Node(file) => file.write_at(parts, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match &self.0 {
            FileKind::Real(file) => file.sync(),
            FileKind::Node(file) => file.sync(),
        }
    }
}
