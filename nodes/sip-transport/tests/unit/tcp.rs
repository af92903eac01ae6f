//! SIP over TCP: the queue of a connection, its timeout, and its marks.

use futures::future::join_all;
use rustix::net::sockopt::{ip_tos, ipv6_tclass};

use super::*;

/// Timeout for a loaded machine; a successful test never waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener whose peers are trunks.
async fn bind(address: &str, dscp: u8) -> io::Result<(Arc<TcpEndpoint>, TcpListening)> {
    let handles = TcpHandles {
        is_trunk: Arc::new(|_| true),
        connections: Arc::default(),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    TcpEndpoint::bind(address.parse().expect("an address"), None, dscp, handles).await
}

/// A connection whose queue is read by the test.
fn peer() -> (Arc<TcpPeer>, mpsc::Receiver<(Bytes, Room)>) {
    let (outbox, queue) = mpsc::channel(OUTBOX);
    let remote = SocketAddr::from(([192, 0, 2, 1], 5060));
    let (advertised, room) = (Advertised::new(None, remote), Arc::new(Semaphore::new(ROOM)));
    (Arc::new(TcpPeer { remote, advertised, outbox, room, closed: CancellationToken::new() }), queue)
}

/// Begins to send this many messages, each of which waits for room; its text is its number. Whether each was sent.
fn send_in_turn(peer: &Arc<TcpPeer>, messages: usize) -> impl Future<Output = Vec<bool>> + use<> {
    let send = |n: usize| {
        let peer = peer.clone();
        tokio::spawn(async move {
            let Some(room) = peer.room().await else { return false };
            peer.send(n.to_string().into(), Some(room))
        })
    };
    let sending = join_all((0..messages).map(send));
    async move { sending.await.into_iter().map(|sent| sent.expect("no panic")).collect() }
}

/// Lets the tasks run until the queue has this many messages, and then for a while.
async fn settle(queue: &mpsc::Receiver<(Bytes, Room)>, messages: usize) {
    while queue.len() < messages {
        tokio::task::yield_now().await;
    }
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn messages_that_wait_for_room_leave_the_queue_to_answers_and_follow_in_their_order() {
    let (peer, mut queue) = peer();
    let sending = send_in_turn(&peer, 1_000);
    settle(&queue, ROOM).await;
    assert_eq!(queue.len(), ROOM);
    for _ in ROOM..OUTBOX {
        assert!(peer.send(Bytes::from_static(b"200"), None), "an answer does not wait");
    }
    let (mut numbers, mut answers) = (Vec::new(), 0);
    while numbers.len() < 1_000 {
        let (bytes, _room) = queue.recv().await.expect("a message");
        match &bytes[..] {
            b"200" if answers < OUTBOX - ROOM => answers += 1,
            number => numbers.push(String::from_utf8_lossy(number).into_owned()),
        }
        assert!(numbers.len() <= ROOM || answers == OUTBOX - ROOM, "answers are behind {ROOM} messages at most");
    }
    assert_eq!(numbers, (0..1_000).map(|n: usize| n.to_string()).collect::<Vec<_>>());
    assert_eq!(sending.await, [true; 1_000]);
    assert!(peer.open());
}

#[tokio::test]
async fn connection_that_closes_has_no_room_for_messages_that_wait() {
    let (peer, queue) = peer();
    let sending = send_in_turn(&peer, 100);
    settle(&queue, ROOM).await;
    peer.closed.cancel();
    drop(queue);
    let sent = sending.await;
    assert_eq!(sent.iter().filter(|sent| **sent).count(), ROOM);
    assert!(sent.starts_with(&[true; ROOM]));
}

#[tokio::test]
async fn queued_answers_are_written_before_a_connection_closes() {
    for _ in 0..64 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (outbox, queue) = mpsc::channel(1);
        let room = Arc::new(Semaphore::new(1));
        let taken = room.clone().try_acquire_owned().expect("room");
        outbox.try_send((Bytes::from_static(b"200"), Some(taken))).expect("queued");
        let (closed, places) = (CancellationToken::new(), Places::new(1, 1));
        closed.cancel();
        let (accepted, remote) = listener.accept().await.expect("accepted");
        let place = Arc::new(places.take(remote.ip()).expect("a place"));
        write_to(accepted.into_split().1, queue, closed, place).await;
        assert!(places.take(remote.ip()).is_some(), "the closed connection has no place");
        assert_eq!(peer.read(&mut [0; 8]).await.expect("read"), 3);
        assert_eq!(room.available_permits(), 1, "it is written");
    }
}

#[tokio::test]
async fn connection_whose_peer_takes_nothing_closes_although_all_messages_wait_for_room() {
    let (endpoint, listening) = bind("127.0.0.1:0", 0).await.expect("bound");
    let _silent = TcpStream::connect(endpoint.local).await.expect("connected");
    let (accepted, remote) = listening.listener.accept().await.expect("accepted");
    let Reading { stream, peer, .. } = endpoint.peer(accepted, remote, ConnectionKind::Stranger).expect("a place");
    let socket: &TcpStream = stream.as_ref();
    assert_eq!(sockopt::tcp_user_timeout(socket).expect("its timeout"), UNACKNOWLEDGED_MS);
    sockopt::set_tcp_user_timeout(socket, 100).expect("set, so that this test is short");
    let message = Bytes::from(vec![b'x'; 1 << 16]);
    let send_without_end = async {
        while let Some(room) = peer.room().await {
            peer.send(message.clone(), Some(room));
        }
    };
    tokio::time::timeout(PATIENCE, send_without_end).await.expect("it closes");
}

#[tokio::test]
async fn trunk_host_that_holds_its_share_of_connections_does_not_keep_another_out() {
    let (endpoint, listening) = bind("127.0.0.1:0", 0).await.expect("bound");
    let held: Vec<_> = std::iter::from_fn(|| endpoint.connections.take(endpoint.local.ip())).collect();
    assert_eq!(held.len(), CONNECTIONS_SHARE);
    for (host, is_admitted) in [("127.0.0.1:0", false), ("127.0.0.2:0", true)] {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(host.parse().expect("an address")).expect("bound");
        let _opened = socket.connect(endpoint.local).await.expect("connected");
        let (accepted, remote) = listening.listener.accept().await.expect("accepted");
        let reading = endpoint.peer(accepted, remote, ConnectionKind::Stranger);
        assert_eq!(reading.is_some(), is_admitted, "{host}");
    }
}

#[tokio::test]
async fn accepted_and_opened_connections_carry_the_dscp() {
    let (cs3, _) = bind("127.0.0.1:0", 24).await.expect("bound");
    let (other, listening) = bind("127.0.0.1:0", 10).await.expect("bound");
    let (opened, accepted) = tokio::join!(cs3.open_stream(other.local), listening.listener.accept());
    let (opened, (accepted, from)) = (opened.expect("opened"), accepted.expect("accepted"));
    assert_eq!(ip_tos(&opened).expect("its octet"), 24 << 2);
    assert_eq!(ip_tos(&accepted).expect("its octet"), 10 << 2);
    assert_eq!(from.ip(), cs3.local.ip(), "from the bind address of the listener");
    // Not every machine has IPv6.
    let Ok((six, listening)) = bind("[::1]:0", 46).await else { return };
    let (opened, accepted) = tokio::join!(six.open_stream(six.local), listening.listener.accept());
    let (opened, (accepted, _)) = (opened.expect("opened"), accepted.expect("accepted"));
    assert_eq!(ipv6_tclass(&opened).expect("its octet"), 46 << 2);
    assert_eq!(ipv6_tclass(&accepted).expect("its octet"), 46 << 2);
}
