//! A server that reports changes at once: its reports are gathered into groups.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinHandle,
    time::timeout,
};
use twinbox_directory_core::DirectorySettings;
use twinbox_directory_service::{Bounds, Cursor, DirectoryServers, Followed, LdapError};
use twinbox_mailbox::EntryId;

use crate::found::{Collected, Found};

/// Pause without a report that ends a group.
const GATHER: Duration = Duration::from_millis(200);
/// Changes that end a group.
const MOST_CHANGES: usize = 1_000;
/// Reports that wait for their reader; the connection is read no further meanwhile.
const MOST_WAITING: usize = 256;

/// A server that is followed, until this is dropped.
pub(crate) struct Follower {
    reports: Receiver<Result<Followed, LdapError>>,
    task: JoinHandle<()>,
    collected: Collected,
    cursor: Option<Cursor>,
}

/// The next group of changes.
pub(crate) enum Gathered {
    Changes(Found),
    /// The server cannot report further changes, for this reason: a full search is necessary.
    NeedFull(String),
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// Follows the first server that answers and has the data of the cursor.
    pub(crate) fn begin(settings: &DirectorySettings, cursor: Cursor, known: &BTreeSet<EntryId>) -> Self {
        let (sender, reports) = channel(MOST_WAITING);
        let (settings, known) = (settings.clone(), known.iter().copied().collect());
        // Reports would be lost if their reader were cancelled between two.
        let task = tokio::spawn(async move {
            if let Err(error) = forward(&settings, &cursor, known, &sender).await {
                // A receiver that has gone needs no reason.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self { reports, task, collected: Collected::default(), cursor: None }
    }

    /// The next group of changes. Cancelling loses none.
    pub(crate) async fn next(&mut self, settings: &DirectorySettings) -> Result<Gathered, LdapError> {
        loop {
            if self.cursor.is_some() && self.collected.len() >= MOST_CHANGES {
                return Ok(self.group());
            }
            let report = if self.cursor.is_some() {
                match timeout(GATHER, self.reports.recv()).await {
                    Ok(report) => report,
                    Err(_) => return Ok(self.group()),
                }
            } else {
                self.reports.recv().await
            };
            match report {
                Some(Ok(Followed::Change(change))) => {
                    self.collected.add(settings, change);
                    let bound = Bounds::default().people;
                    if self.collected.bytes() > bound {
                        // The full search fails by its own bound, or finds fewer.
                        return Ok(Gathered::NeedFull(format!("its changes take more than {bound} bytes")));
                    }
                }
                Some(Ok(Followed::Cursor(cursor))) => self.cursor = Some(cursor),
                Some(Ok(Followed::NeedFull { reason })) => return Ok(Gathered::NeedFull(reason)),
                Some(Err(error)) => return Err(error),
                None => return Err(LdapError::Stopped),
            }
        }
    }

    /// The gathered changes. Those after the latest position are reported again after a new connection, which changes
    /// nothing.
    fn group(&mut self) -> Gathered {
        match self.cursor.take() {
            Some(cursor) => Gathered::Changes(std::mem::take(&mut self.collected).found(cursor)),
            None => Gathered::NeedFull("the server named no position".to_owned()),
        }
    }
}

async fn forward(
    settings: &DirectorySettings,
    cursor: &Cursor,
    known: Vec<EntryId>,
    sender: &Sender<Result<Followed, LdapError>>,
) -> Result<(), LdapError> {
    let servers = DirectoryServers::new(settings.servers.clone());
    let mut connection = servers.connect_current(&settings.search, cursor).await?;
    let mut following = connection.persist(&settings.search, cursor, &known).await?;
    loop {
        let report = following.next().await?;
        if sender.send(Ok(report)).await.is_err() {
            return Ok(());
        }
    }
}
