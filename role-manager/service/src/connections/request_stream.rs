//! Frequent small requests: heartbeats, keep-alives, probes. One stream carries them to a member and the answers back,
//! which costs both sides far less than a call for each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::stream;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Request, Status};
use twinbox_clock::BootInstant;
use twinbox_ids::{Incarnation, NodeName};
use twinbox_raft::Client;
use twinbox_wire::roles::{Question, question::Question as Body, reply::Reply as Answer};

use crate::{failures::failure_detector::FailureDetector, tasks::spawn};

/// Maximum number of questions waiting to be sent; more wait only if none can be sent.
const AT_ONCE: usize = 16;
/// The answering incarnation, in the stream's first metadata: it is the same for all answers.
pub(crate) const INCARNATION_KEY: &str = "life-bin";

/// The stream to one member. The first question opens it, as does the next one after it was lost.
pub(crate) struct RequestStream {
    member: NodeName,
    client: Client,
    detector: Arc<FailureDetector>,
    open: Mutex<Option<Stream>>,
}

/// One stream. It ends when the last sender of questions is dropped.
#[derive(Clone)]
struct Stream {
    questions: mpsc::Sender<Question>,
    pending: Arc<Mutex<PendingAnswers>>,
}

/// Callers waiting for answers, by number.
#[derive(Default)]
struct PendingAnswers {
    last: u64,
    callers: BTreeMap<u64, oneshot::Sender<(Option<Incarnation>, Answer)>>,
    /// Reason for which no more answers come.
    lost: Option<Status>,
}

/// A question with a pending answer; forgotten when dropped.
struct Awaited<'a> {
    stream: &'a Stream,
    number: u64,
}

impl RequestStream {
    pub(crate) fn new(member: NodeName, client: Client, detector: Arc<FailureDetector>) -> Self {
        Self { member, client, detector, open: Mutex::default() }
    }

    /// Sends a question and waits for the answer as long as the stream exists, so use a timeout.
    pub(crate) async fn ask(&self, question: Body) -> Result<Answer, Status> {
        let stream = self.stream();
        let (answered, answer) = oneshot::channel();
        let awaited = stream.expect(answered)?;
        let began = BootInstant::now();
        let question = Question { number: awaited.number, question: Some(question) };
        stream
            .questions
            .try_send(question)
            .map_err(|_| Status::unavailable("the queue of the connection is full"))?;
        let (incarnation, answer) = answer.await.map_err(|_| stream.lost_reason())?;
        if let Answer::Refused(refusal) = answer {
            return Err(Status::new(Code::from(refusal.code), refusal.reason));
        }
        self.detector.note_answer(&self.member, incarnation, began.elapsed());
        Ok(answer)
    }

    fn stream(&self) -> Stream {
        let mut open = lock(&self.open);
        if let Some(stream) = open.as_ref().filter(|stream| lock(&stream.pending).lost.is_none()) {
            return stream.clone();
        }
        let (questions, asked) = mpsc::channel(AT_ONCE);
        let pending = Arc::new(Mutex::new(PendingAnswers::default()));
        spawn(run_stream(self.client.clone(), asked, pending.clone()));
        open.insert(Stream { questions, pending }).clone()
    }
}

/// Carries questions and answers until either side closes the stream.
async fn run_stream(mut client: Client, mut asked: mpsc::Receiver<Question>, pending: Arc<Mutex<PendingAnswers>>) {
    let questions = stream::poll_fn(move |context| asked.poll_recv(context));
    let mut guard = StreamGuard { pending, lost: Status::internal("the task of the stream has panicked") };
    guard.lost = match client.talk(Request::new(questions)).await {
        Err(status) => status,
        Ok(answer) => {
            let bytes = answer.metadata().get_bin(INCARNATION_KEY).and_then(|value| value.to_bytes().ok());
            let incarnation = bytes.and_then(|bytes| Incarnation::from_slice(&bytes));
            let mut replies = answer.into_inner();
            loop {
                match replies.message().await {
                    Ok(Some(reply)) => {
                        // No caller waits any more for a late answer.
                        let caller = lock(&guard.pending).callers.remove(&reply.number);
                        if let (Some(caller), Some(reply)) = (caller, reply.reply) {
                            let _ = caller.send((incarnation, reply));
                        }
                    }
                    Ok(None) => break Status::unavailable("the member has closed the stream"),
                    Err(status) => break status,
                }
            }
        }
    };
}

/// A running stream. However it ends, no caller waits for answers any more, and the next question opens another.
struct StreamGuard {
    pending: Arc<Mutex<PendingAnswers>>,
    lost: Status,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut pending = lock(&self.pending);
        pending.lost = Some(self.lost.clone());
        pending.callers.clear();
    }
}

impl Stream {
    fn expect(&self, answered: oneshot::Sender<(Option<Incarnation>, Answer)>) -> Result<Awaited<'_>, Status> {
        let mut pending = lock(&self.pending);
        if let Some(lost) = &pending.lost {
            return Err(lost.clone());
        }
        pending.last += 1;
        let number = pending.last;
        pending.callers.insert(number, answered);
        Ok(Awaited { stream: self, number })
    }

    fn lost_reason(&self) -> Status {
        lock(&self.pending).lost.clone().unwrap_or_else(|| Status::unavailable("the answer is empty"))
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        lock(&self.stream.pending).callers.remove(&self.number);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
