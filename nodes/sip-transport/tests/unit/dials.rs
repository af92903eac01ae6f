//! Attempts to connect: shared while they last, not repeated just after a failure, and forgotten afterwards.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures::future::join_all;

use super::*;

/// Attempts that take a second and end with one outcome, and their number.
struct Attempts {
    dials: Arc<Dials<u32>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    begun: Arc<AtomicUsize>,
    outcome: Option<u32>,
}

impl Attempts {
    fn that_end(outcome: Option<u32>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Self { dials: Dials::new(), tasks, stop, begun: Arc::default(), outcome }
    }

    /// A request to the host with this number.
    async fn request(&self, host: u8) -> Option<u32> {
        let (begun, outcome) = (self.begun.clone(), self.outcome);
        let dial = async move {
            begun.fetch_add(1, Relaxed);
            sleep(Duration::from_secs(1)).await;
            outcome.ok_or_else(|| io::Error::other("nothing answers"))
        };
        let to = SocketAddr::from(([192, 0, 2, host], 5060));
        let outcome = self.dials.join(to, &self.tasks, &self.stop, dial).await;
        assert!(outcome.as_ref().err().is_none_or(|error| error.to_string() == "nothing answers"), "{outcome:?}");
        outcome.ok()
    }

    fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    /// Waits until the last attempt is forgotten.
    async fn forgotten(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
        assert!(lock(&self.dials.0).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn requests_to_one_address_share_an_attempt() {
    let attempts = Attempts::that_end(Some(7));
    let requests = (0..100).map(|n| attempts.request(n % 2));
    assert_eq!(join_all(requests).await, [Some(7); 100]);
    assert_eq!(attempts.begun(), 2, "one for each address");
    attempts.forgotten().await;
    assert_eq!(attempts.request(0).await, Some(7));
    assert_eq!(attempts.begun(), 3);
}

#[tokio::test(start_paused = true)]
async fn failure_is_shared_and_the_next_attempt_waits_for_a_moment() {
    let attempts = Attempts::that_end(None);
    assert_eq!(join_all((0..100).map(|_| attempts.request(1))).await, [None; 100]);
    sleep(PAUSE - Duration::from_millis(10)).await;
    assert_eq!((attempts.request(1).await, attempts.begun()), (None, 1));
    attempts.forgotten().await;
    assert_eq!((attempts.request(1).await, attempts.begun()), (None, 2));
}

#[tokio::test(start_paused = true)]
async fn attempt_continues_without_the_request_that_began_it_and_ends_with_the_server() {
    let attempts = Attempts::that_end(Some(7));
    let given_up = tokio::time::timeout(Duration::from_millis(500), attempts.request(1)).await;
    assert!(given_up.is_err());
    assert_eq!((attempts.request(1).await, attempts.begun()), (Some(7), 1));
    attempts.stop.cancel();
    let dial = std::future::pending::<io::Result<u32>>();
    let to = SocketAddr::from(([192, 0, 2, 9], 5060));
    assert!(attempts.dials.join(to, &attempts.tasks, &attempts.stop, dial).await.is_err());
}
