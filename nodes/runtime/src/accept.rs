//! Accepting connections until a stop.

use std::{fmt::Debug, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::{net::Listener, sync::CancellationToken, task::TaskTracker};
use tracing::warn;

/// Pause after a failed accept: most likely no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the connections of a TCP or Unix socket until stopped. `admit` makes the future that serves a connection, or
/// refuses it with `None`. After the stop, connections have the time `finish` to end; the others are dropped then. All
/// are dropped when this future is.
pub async fn accept<L, F>(
    mut listener: L,
    stop: &CancellationToken,
    finish: Duration,
    mut admit: impl FnMut(L::Io, L::Addr) -> Option<F>,
) where
    L: Listener<Addr: Debug>,
    F: Future<Output = ()> + Send + 'static,
{
    let (tasks, kill) = (TaskTracker::new(), CancellationToken::new());
    let _kill_when_dropped = kill.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                if let Some(connection) = admit(stream, client) {
                    let kill = kill.clone();
                    tasks.spawn(async move {
                        tokio::select! {
                            () = connection => {}
                            () = kill.cancelled() => {}
                        }
                    });
                }
            }
            Err(error) => {
                let address = listener.local_addr().ok();
                warn!(%error, ?address, "connection cannot be accepted; retrying");
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if timeout(finish, tasks.wait()).await.is_err() {
        kill.cancel();
        tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn connections_end_at_a_stop_and_refused_ones_before() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, mut admitted) = (CancellationToken::new(), 0);
        let stopped = stop.clone();
        let serving = tokio::spawn(async move {
            let admit = |mut stream: TcpStream, _: SocketAddr| {
                admitted += 1;
                (admitted == 1).then_some(async move {
                    stream.write_all(b"x").await.expect("sent");
                    std::future::pending::<()>().await;
                })
            };
            accept(listener, &stopped, Duration::ZERO, admit).await;
        });
        let mut first = TcpStream::connect(address).await.expect("connected");
        assert_eq!(first.read_u8().await.expect("admitted"), b'x');
        let mut second = TcpStream::connect(address).await.expect("connected");
        assert!(second.read_u8().await.is_err(), "refused");
        stop.cancel();
        serving.await.expect("it ends");
        assert!(first.read_u8().await.is_err(), "dropped at the stop");
    }
}
