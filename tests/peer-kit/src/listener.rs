//! A TCP listener with a thread for each connection, which ends with its owner.

use std::{
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use twinbox_testkit::NetPlace;

/// Listens until it is dropped, which also closes all connections.
#[derive(Debug)]
pub(crate) struct Listener {
    place: NetPlace,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    connections: Connections,
    thread: Option<JoinHandle<()>>,
}

/// All connections since the last [`Connections::close`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<Vec<TcpStream>>>);

impl Connections {
    fn all(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a connection later, with all others.
    pub(crate) fn add(&self, stream: &TcpStream) {
        self.all().extend(stream.try_clone());
    }

    /// Closes all connections.
    pub(crate) fn close(&self) {
        for stream in self.all().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Listener {
    /// Listens at `place`; `serve` has a thread for each connection, which is closed after it.
    pub(crate) fn start(place: &NetPlace, port: u16, serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> Self {
        let (listener, stop, serve) = (place.listen(port), Arc::new(AtomicBool::new(false)), Arc::new(serve));
        let connections = Connections::default();
        let (stopped, known) = (stop.clone(), connections.clone());
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                known.add(&stream);
                let serve = serve.clone();
                thread::spawn(move || {
                    serve(&stream);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { place: place.clone(), address: place.port(port), stop, connections, thread: Some(thread) }
    }

    /// Its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its connections.
    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A connection of its own wakes the thread.
        let woken = self.place.tcp(self.address).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        self.connections.close();
    }
}
