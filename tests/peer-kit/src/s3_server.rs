//! An S3-compatible store (s3s-fs) of this process on loopback, with the folder of its objects. It can die.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

/// Folder of [`S3Server::DESTINATION`] in the bucket.
const PREFIX: &str = "of/twinbox";

/// A server with one bucket. Dropping it ends it.
pub struct S3Server {
    root: TempDir,
    address: SocketAddr,
    /// Bytes that it still takes; below zero it is dead.
    budget: Arc<AtomicI64>,
    is_tls: bool,
    runtime: Option<Runtime>,
}

impl S3Server {
    /// The bucket.
    pub const BUCKET: &str = "voicemail";
    /// A destination below a prefix in the bucket.
    pub const DESTINATION: &str = "s3://voicemail/of/twinbox";
    /// Id of the one key that it accepts.
    pub const ACCESS_KEY: &str = "AKIATEST";
    /// Secret of that key.
    pub const SECRET: &str = "a-secret-of-the-test";

    /// Starts it without TLS.
    pub fn start() -> Self {
        Self::begin(None)
    }

    /// Starts it with TLS.
    pub fn start_tls(tls: TlsAcceptor) -> Self {
        Self::begin(Some(tls))
    }

    fn begin(tls: Option<TlsAcceptor>) -> Self {
        let root = TempDir::new().expect("a directory");
        fs::create_dir(root.path().join(Self::BUCKET)).expect("a bucket");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).expect("a server"));
        builder.set_auth(SimpleAuth::from_single(Self::ACCESS_KEY, Self::SECRET));
        let service = builder.build();
        // On threads of its own: tests block theirs.
        let runtime = Runtime::new().expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("set");
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener).expect("a listener")
        };
        let budget = Arc::new(AtomicI64::new(i64::MAX));
        let is_tls = tls.is_some();
        runtime.spawn(accept(listener, service, tls, budget.clone()));
        Self { root, address, budget, is_tls, runtime: Some(runtime) }
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        let scheme = if self.is_tls { "https://localhost" } else { "http://127.0.0.1" };
        format!("{scheme}:{}", self.address.port())
    }

    /// Folder with the files of the objects of [`Self::DESTINATION`].
    pub fn objects(&self) -> PathBuf {
        self.root.path().join(Self::BUCKET).join(PREFIX)
    }

    /// Paths of the objects below a folder of that destination.
    pub fn below(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.objects().join(folder), &mut found);
        found
    }

    /// Number of parts that belong to no object, and of begun uploads.
    pub fn upload_files(&self) -> usize {
        let entries = fs::read_dir(self.root.path()).expect("a folder");
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| is_upload(&entry.file_name()))).count()
    }

    /// Dies after this many further bytes from its clients.
    pub fn die_after(&self, bytes: i64) {
        self.budget.store(bytes, SeqCst);
    }

    /// Has died.
    pub fn is_dead(&self) -> bool {
        self.budget.load(SeqCst) < 0
    }

    /// Answers again.
    pub fn revive(&self) {
        self.budget.store(i64::MAX, SeqCst);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.runtime.take().expect("it runs until now").shutdown_background();
    }
}

fn is_upload(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with(".upload")
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

async fn accept(listener: TcpListener, service: S3Service, tls: Option<TlsAcceptor>, budget: Arc<AtomicI64>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let stream = Mortal { stream, budget: budget.clone() };
        let (service, tls) = (service.clone(), tls.clone());
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            match tls {
                None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                }
            }
        });
    }
}

/// A connection that breaks when the server is dead.
struct Mortal<S> {
    stream: S,
    budget: Arc<AtomicI64>,
}

impl<S> Mortal<S> {
    fn living(&self) -> io::Result<()> {
        match self.budget.load(SeqCst) < 0 {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mortal<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = i64::try_from(buf.filled().len() - before).expect("a length");
        self.budget.fetch_sub(read, SeqCst);
        self.living()?;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mortal<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.living()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
