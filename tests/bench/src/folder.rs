//! A folder of data: its size on the disk, and plain copies of it for comparison.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    thread,
    time::Duration,
};

use twinbox_clock::BootInstant;

/// Bytes that the files of a folder take on the disk, those of its folders included. A file that is removed meanwhile counts nothing.
pub fn bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
            // The unit of this field is always 512 bytes.
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Copies a folder, each file synced; returns the bytes of the files and the time.
pub fn copy(from: &Path, to: &Path) -> io::Result<(u64, Duration)> {
    let begun = BootInstant::now();
    let bytes = copy_tree(from, to, &|file| File::open(file)?.sync_all())?;
    Ok((bytes, begun.elapsed()))
}

/// Copies a folder from one end of a TCP connection to the other, without encryption, each file synced; returns the time. The kernel
/// moves the bytes (`sendfile`, `splice`).
pub fn copy_over(from: &Path, to: &Path, ends: (TcpStream, TcpStream)) -> io::Result<Duration> {
    let (mut sender, mut receiver) = ends;
    let begun = BootInstant::now();
    // Both ends close before the other is waited for, so that a full disk ends the sender too.
    thread::scope(move |scope| {
        let sending = scope.spawn(move || {
            let sent = send_tree(from, from, &mut sender);
            sender.shutdown(Shutdown::Write).and(sent)
        });
        receive_tree(to, &mut receiver)?;
        sending.join().unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))
    })?;
    Ok(begun.elapsed())
}

/// Sends the files of a folder within `top`, each behind its path and its length.
fn send_tree(top: &Path, dir: &Path, to: &mut TcpStream) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            send_tree(top, &path, to)?;
        } else if kind.is_file() {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            let name = path.strip_prefix(top).map_err(io::Error::other)?.as_os_str().as_bytes();
            to.write_all(&[&(name.len() as u64).to_be_bytes(), &length.to_be_bytes(), name].concat())?;
            io::copy(&mut file.take(length), to)?;
        }
    }
    Ok(())
}

fn receive_tree(to: &Path, from: &mut TcpStream) -> io::Result<()> {
    let mut head = [[0; 8]; 2];
    loop {
        match from.read_exact(head.as_flattened_mut()) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [name, length] = head.map(u64::from_be_bytes);
        let mut path = vec![0; name as usize];
        from.read_exact(&mut path)?;
        let path = to.join(OsStr::from_bytes(&path));
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = File::create(path)?;
        io::copy(&mut from.take(length), &mut file)?;
        file.sync_all()?;
    }
}

/// Bytes of the text beside the audio of a message in a spool: what Asterisk's voicemail writes for one.
const TEXT: usize = 300;

/// Makes a spool in `dir`, with a folder for each mailbox and two files for each message, and copies it; all files are synced
/// together at the end. Returns the time of the copy.
pub fn copy_spool(dir: &Path, mailboxes: usize, messages: usize, audio: usize) -> io::Result<Duration> {
    let (from, to) = (dir.join("spool"), dir.join("copy"));
    for mailbox in 0..mailboxes.max(1) {
        fs::create_dir_all(from.join(mailbox.to_string()))?;
    }
    for message in 0..messages {
        let folder = from.join((message % mailboxes.max(1)).to_string());
        fs::write(folder.join(format!("msg{message}.wav")), vec![b'a'; audio])?;
        fs::write(folder.join(format!("msg{message}.txt")), vec![b't'; TEXT])?;
    }
    rustix::fs::syncfs(File::open(&from)?)?;
    let begun = BootInstant::now();
    copy_tree(&from, &to, &|_| Ok(()))?;
    rustix::fs::syncfs(File::open(&to)?)?;
    Ok(begun.elapsed())
}

/// Copies a folder; calls `copied` with each new file. Returns the bytes of the files.
fn copy_tree(from: &Path, to: &Path, copied: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<u64> {
    fs::create_dir_all(to)?;
    let mut bytes = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()? {
            kind if kind.is_dir() => bytes += copy_tree(&source, &target, copied)?,
            kind if kind.is_file() => {
                bytes += fs::copy(&source, &target)?;
                copied(&target)?;
            }
            // A socket.
            _ => {}
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn copy_has_all_files_and_as_many_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("inner")).unwrap();
        fs::write(from.join("inner/file"), [1; 10_000]).unwrap();
        assert_eq!(copy(&from, &to).unwrap().0, 10_000);
        assert_eq!(fs::read(to.join("inner/file")).unwrap(), [1; 10_000]);
        assert!(bytes(&to) >= 10_000);
    }

    #[test]
    fn copy_over_a_connection_has_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("inner")).unwrap();
        fs::write(from.join("inner/file"), vec![1; 100_000]).unwrap();
        fs::write(from.join("empty"), "").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        copy_over(&from, &to, (sender, listener.accept().unwrap().0)).unwrap();
        assert_eq!(fs::read(to.join("inner/file")).unwrap(), [1; 100_000]);
        assert!(fs::read(to.join("empty")).unwrap().is_empty());
    }

    #[test]
    fn spool_has_two_files_for_each_message_and_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        copy_spool(dir.path(), 2, 6, 1_000).unwrap();
        let files = |folder| fs::read_dir(dir.path().join("copy").join(folder)).unwrap().count();
        assert_eq!([files("0"), files("1")], [6, 6]);
    }
}
