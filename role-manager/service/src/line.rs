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
use twinbox_wire::roles::{Question, question::Question as Asked, reply::Reply as Answer};

use crate::{dialer::Client, reach::Reach, tasks::spawn};

/// Maximum number of questions waiting to be sent; more wait only if none can be sent.
const AT_ONCE: usize = 16;
/// The answering incarnation, in the stream's first metadata: it is the same for all answers.
pub(crate) const LIFE: &str = "life-bin";

/// The stream to one member. The first question opens it, as does the next one after it was lost.
pub(crate) struct Line {
    member: NodeName,
    client: Client,
    reach: Arc<Reach>,
    open: Mutex<Option<Stream>>,
}

/// One stream. It ends when the last sender of questions is dropped.
#[derive(Clone)]
struct Stream {
    questions: mpsc::Sender<Question>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Callers waiting for answers, by number.
#[derive(Default)]
struct Waiting {
    last: u64,
    asked: BTreeMap<u64, oneshot::Sender<(Option<Incarnation>, Answer)>>,
    /// Reason for which no more answers come.
    lost: Option<Status>,
}

/// A question with a pending answer; forgotten when dropped.
struct Awaited<'a> {
    stream: &'a Stream,
    number: u64,
}

impl Line {
    pub(crate) fn new(member: NodeName, client: Client, reach: Arc<Reach>) -> Self {
        Self { member, client, reach, open: Mutex::default() }
    }

    /// Sends a question and waits for the answer as long as the stream exists, so use a timeout.
    pub(crate) async fn ask(&self, question: Asked) -> Result<Answer, Status> {
        let stream = self.stream();
        let (answered, answer) = oneshot::channel();
        let awaited = stream.expect(answered)?;
        let began = BootInstant::now();
        let question = Question { number: awaited.number, question: Some(question) };
        stream.questions.try_send(question).map_err(|_| Status::unavailable("the connection takes nothing"))?;
        let (life, answer) = answer.await.map_err(|_| stream.why())?;
        if let Answer::Refused(refusal) = answer {
            return Err(Status::new(Code::from(refusal.code), refusal.reason));
        }
        self.reach.answered(&self.member, life, began.elapsed());
        Ok(answer)
    }

    fn stream(&self) -> Stream {
        let mut open = lock(&self.open);
        if let Some(stream) = open.as_ref().filter(|stream| lock(&stream.waiting).lost.is_none()) {
            return stream.clone();
        }
        let (questions, asked) = mpsc::channel(AT_ONCE);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        spawn(carry(self.client.clone(), asked, waiting.clone()));
        open.insert(Stream { questions, waiting }).clone()
    }
}

/// Carries questions and answers until either side closes the stream.
async fn carry(mut client: Client, mut asked: mpsc::Receiver<Question>, waiting: Arc<Mutex<Waiting>>) {
    let questions = stream::poll_fn(move |context| asked.poll_recv(context));
    let mut line = Carried { waiting, lost: Status::internal("its task has panicked") };
    line.lost = match client.talk(Request::new(questions)).await {
        Err(status) => status,
        Ok(answer) => {
            let life = answer.metadata().get_bin(LIFE).and_then(|life| life.to_bytes().ok());
            let life = life.and_then(|life| Incarnation::from_slice(&life));
            let mut replies = answer.into_inner();
            loop {
                match replies.message().await {
                    Ok(Some(reply)) => {
                        // No caller waits any more for a late answer.
                        let asker = lock(&line.waiting).asked.remove(&reply.number);
                        if let (Some(asker), Some(reply)) = (asker, reply.reply) {
                            let _ = asker.send((life, reply));
                        }
                    }
                    Ok(None) => break Status::unavailable("it has hung up"),
                    Err(status) => break status,
                }
            }
        }
    };
}

/// A running stream. However it ends, no caller waits for answers any more, and the next question opens another.
struct Carried {
    waiting: Arc<Mutex<Waiting>>,
    lost: Status,
}

impl Drop for Carried {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        waiting.lost = Some(self.lost.clone());
        waiting.asked.clear();
    }
}

impl Stream {
    fn expect(&self, answered: oneshot::Sender<(Option<Incarnation>, Answer)>) -> Result<Awaited<'_>, Status> {
        let mut waiting = lock(&self.waiting);
        if let Some(lost) = &waiting.lost {
            return Err(lost.clone());
        }
        waiting.last += 1;
        let number = waiting.last;
        waiting.asked.insert(number, answered);
        Ok(Awaited { stream: self, number })
    }

    fn why(&self) -> Status {
        lock(&self.waiting).lost.clone().unwrap_or_else(|| Status::unavailable("an answer without content"))
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        lock(&self.stream.waiting).asked.remove(&self.number);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
