//! Asks one node after the other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::time::timeout;
use tonic::transport::Channel;
use tracing::debug;
use twinbox_ids::{BlobHash, NodeName};
use twinbox_replication_store::Store;
use twinbox_wire::replication::{Absence, replication_client::ReplicationClient};

use crate::{
    MAX_ASKED, MESSAGE,
    error::{AskError, FetchError},
    fetcher::Nodes,
    receipt::{Receipt, Wanted},
};

/// A request ends after this silence of the peer.
const SILENCE: Duration = Duration::from_secs(5);

/// Maximum size of a message of an answer in bytes: twice the audio of a full one, and the heads of its pieces.
const ANSWER: usize = 2 * MESSAGE + 64 * MAX_ASKED;

/// The answers of the nodes about one blob so far.
#[derive(Debug)]
struct Answers {
    last: Option<Arc<AskError>>,
    /// Every node answered that it does not have it, or with a damaged copy.
    all_denied: bool,
    /// A node whose word counts had it and knows that it is purged.
    given_up: bool,
}

impl Answers {
    fn outcome(self) -> FetchError {
        match self.last {
            _ if self.given_up => FetchError::GivenUp,
            None => FetchError::Nobody,
            Some(_) if self.all_denied => FetchError::Denied,
            Some(last) => FetchError::Failed(last),
        }
    }
}

/// Asks the other nodes for blobs and stores what comes.
pub(crate) struct Asker {
    store: Store,
    nodes: Arc<dyn Nodes>,
    /// Separate connections, with their addresses: a blob must not hold up a live change in the stream's flow control.
    clients: Mutex<BTreeMap<NodeName, (String, ReplicationClient<Channel>)>>,
}

impl Asker {
    pub(crate) fn new(store: Store, nodes: Arc<dyn Nodes>) -> Self {
        Self { store, nodes, clients: Mutex::default() }
    }

    /// Asks one node after the other, `first` first, for what the nodes before did not send; the next one continues a
    /// blob that was cut off. Those that came are stored. Returns the outcome for each blob.
    pub(crate) fn fetch<'a>(
        &'a self,
        wanted: Vec<Wanted>,
        first: Option<&'a NodeName>,
    ) -> BoxFuture<'a, Vec<(BlobHash, Result<(), FetchError>)>> {
        self.fetch_in_turn(wanted, first).boxed()
    }

    async fn fetch_in_turn(
        &self,
        wanted: Vec<Wanted>,
        first: Option<&NodeName>,
    ) -> Vec<(BlobHash, Result<(), FetchError>)> {
        let names = self.nodes.names();
        let mut outcomes = Vec::with_capacity(wanted.len());
        let begin = || Answers { last: None, all_denied: true, given_up: false };
        let mut open: Vec<_> = wanted.into_iter().map(|wanted| (wanted, begin())).collect();
        for name in first.into_iter().chain(names.iter().filter(|name| Some(*name) != first)) {
            // The one that was cut off goes on; of one answer there is one at most.
            open.sort_by_key(|(wanted, _)| wanted.bytes.is_empty());
            let mut asked = std::mem::take(&mut open).into_iter();
            while asked.len() > 0 {
                let (mut wanted, answers): (Vec<_>, Vec<_>) = asked.by_ref().take(MAX_ASKED).unzip();
                wanted.iter_mut().skip(1).for_each(|wanted| wanted.bytes.clear());
                let ends = self.ask_and_store(name, &mut wanted).await;
                for ((wanted, mut answers), end) in wanted.into_iter().zip(answers).zip(ends) {
                    let Err(error) = end else {
                        outcomes.push((wanted.hash, Ok(())));
                        continue;
                    };
                    if error.is_full() {
                        // The copy of another node would not fit either.
                        outcomes.push((wanted.hash, Err(FetchError::Failed(error))));
                        continue;
                    }
                    debug!(peer = %name, hash = %wanted.hash, %error, "peer does not send the blob");
                    let is_given_up = matches!(*error, AskError::Absent(Absence::GivenUp));
                    answers.all_denied &= error.is_denial();
                    answers.given_up |= is_given_up && first.is_none_or(|first| first == name);
                    answers.last = Some(error);
                    // The node that sent the change knows that its audio is purged: what others answer changes nothing.
                    if is_given_up && first == Some(name) {
                        outcomes.push((wanted.hash, Err(FetchError::GivenUp)));
                    } else {
                        open.push((wanted, answers));
                    }
                }
            }
        }
        outcomes.extend(open.into_iter().map(|(wanted, answers)| (wanted.hash, Err(answers.outcome()))));
        outcomes
    }

    /// Asks one node for blobs, of which the first may have begun, and stores those that came.
    async fn ask_and_store(&self, name: &NodeName, wanted: &mut [Wanted]) -> Vec<Result<(), Arc<AskError>>> {
        let continues = wanted.first().is_some_and(|first| !first.bytes.is_empty());
        let mut ends = self.ask(name, wanted).await;
        self.store(wanted, &mut ends).await;
        if continues
            && let ([first, ..], [end, ..]) = (wanted, &mut ends[..])
            && matches!(end, Err(error) if matches!(**error, AskError::Hash))
        {
            // The beginning was another node's, and may be wrong: this node sends all of it.
            let only = std::slice::from_mut(first);
            let mut again = self.ask(name, only).await;
            self.store(only, &mut again).await;
            if let Some(again) = again.pop() {
                *end = again;
            }
        }
        ends
    }

    /// Stores what is whole; what is not what it should be becomes an error.
    async fn store(&self, wanted: &mut [Wanted], ends: &mut [Result<(), Arc<AskError>>]) {
        let whole = wanted.iter_mut().zip(ends.iter()).filter(|(_, end)| end.is_ok());
        let whole: Vec<(BlobHash, Bytes)> = whole.map(|(wanted, _)| (wanted.hash, wanted.take_bytes())).collect();
        if whole.is_empty() {
            return;
        }
        let result = self.store.blobs().put_all(whole).await;
        let failed = result.map_err(|error| Arc::new(AskError::Store(error)));
        for (wanted, end) in wanted.iter().zip(ends).filter(|(_, end)| end.is_ok()) {
            match &failed {
                Ok(wrong) if wrong.contains(&wanted.hash) => *end = Err(Arc::new(AskError::Hash)),
                Ok(_) => {}
                Err(error) => *end = Err(error.clone()),
            }
        }
    }

    /// Asks one node for the rest of these blobs; how each of them ended.
    async fn ask(&self, name: &NodeName, wanted: &mut [Wanted]) -> Vec<Result<(), Arc<AskError>>> {
        let mut receipt = Receipt::new(wanted);
        let error = self.receive(name, &mut receipt).await.err().unwrap_or(AskError::Ended);
        let error = Arc::new(error);
        receipt
            .ends()
            .into_iter()
            .map(|end| end.map_or_else(|| Err(error.clone()), |end| end.map_err(Arc::new)))
            .collect()
    }

    async fn receive(&self, name: &NodeName, receipt: &mut Receipt<'_>) -> Result<(), AskError> {
        let mut client = self.client(name)?;
        let mut answer = in_time(client.fetch_blobs(receipt.request())).await?.into_inner();
        while !receipt.is_complete()
            && let Some(pieces) = in_time(answer.message()).await?
        {
            receipt.take(pieces.piece)?;
        }
        Ok(())
    }

    fn client(&self, name: &NodeName) -> Result<ReplicationClient<Channel>, AskError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        // All of them: no request would close the connection to a removed node.
        clients.retain(|name, (address, _)| self.nodes.address(name).as_deref() == Some(address.as_str()));
        if let Some((_, client)) = clients.get(name) {
            return Ok(client.clone());
        }
        let address = self.nodes.address(name).ok_or(AskError::Unknown)?;
        let channel = self.nodes.connect(name, &address)?;
        let client = ReplicationClient::new(channel).max_decoding_message_size(ANSWER);
        clients.insert(name.clone(), (address, client.clone()));
        Ok(client)
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, AskError> {
    match timeout(SILENCE, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(AskError::Silent),
    }
}
