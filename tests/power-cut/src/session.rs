//! A mounted FUSE file system of one file, and the thread that answers the kernel for it.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    drive::{Cut, Drive},
    protocol::{self, Request},
};

/// Mounts a file system of one file over the file `at`; requests for it come from the returned descriptor.
pub fn mount(at: &Path, source: &str) -> io::Result<File> {
    let kernel = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!("fd={},rootmode=100600,user_id=0,group_id=0", kernel.as_raw_fd());
    let [source, at, kind, options] =
        [source.as_bytes(), at.as_os_str().as_bytes(), b"fuse.twinbox-power-cut", options.as_bytes()]
            .map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: all four are texts that end with a zero and live until mount returns.
    let result = unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        libc::mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    };
    if result == 0 { Ok(kernel) } else { Err(io::Error::last_os_error()) }
}

/// Answers the kernel until the file system is unmounted. `on_cut` is called when the power fails by the count of
/// operations.
pub fn serve(kernel: &File, drive: &Mutex<Drive>, on_cut: impl Fn(&Cut)) -> io::Result<()> {
    let (mut from, mut to) = (kernel, kernel);
    let mut buffer = vec![0; protocol::BUFFER];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(length) => length,
            Err(error) => match error.raw_os_error() {
                // The request was interrupted before it was read, or this thread was.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => continue,
                // Unmounted.
                Some(libc::ENODEV) => return Ok(()),
                _ => return Err(error),
            },
        };
        let Some((unique, request)) = buffer.get(..length).and_then(protocol::parse) else { continue };
        if request == Request::Silent {
            continue;
        }
        let result = perform(&request, &mut lock(drive), &on_cut);
        match to.write(&protocol::answer(unique, result)) {
            Ok(_) => {}
            // The process that asked was killed.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn perform(request: &Request<'_>, drive: &mut Drive, on_cut: impl Fn(&Cut)) -> io::Result<Vec<u8>> {
    if matches!(request, Request::Write { .. } | Request::Flush)
        && let Some(cut) = drive.count()?
    {
        on_cut(&cut);
    }
    match request {
        Request::Init { major: 7 } => Ok(protocol::init()),
        Request::Init { .. } => Err(io::Error::from_raw_os_error(libc::EPROTO)),
        Request::Attributes => Ok(protocol::attributes(drive.length())),
        Request::Open => Ok(protocol::opened()),
        Request::Read { offset, length } => drive.read(*offset, *length),
        Request::Write { offset, bytes } => drive.write(*offset, bytes).map(|()| protocol::written(bytes.len())),
        Request::Flush => drive.flush().map(|()| Vec::new()),
        Request::Space => Ok(protocol::space(drive.length())),
        Request::Close => Ok(Vec::new()),
        Request::Silent | Request::Unknown => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    }
}

/// The drive; a panic of another thread leaves it as it is.
pub fn lock(drive: &Mutex<Drive>) -> MutexGuard<'_, Drive> {
    drive.lock().unwrap_or_else(PoisonError::into_inner)
}
