//! A test of a mail server for an administrator: signs in to an account and opens its folder. Changes nothing.

use std::{any::Any, os::fd::BorrowedFd, sync::Arc};

use twinbox_imap::{Capabilities, ImapError, Selected, SocketOwner};
use twinbox_mailbox_sync::{Account, ServerSettings};

use crate::{
    error::SyncError,
    mail_server::{Tokens, sign_in},
};

/// A step of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStep {
    /// The step, for people.
    pub step: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// The result, or the error.
    pub detail: String,
}

/// A connection that changes nothing needs no duty: every node tests.
struct AnyNode;

impl SocketOwner for AnyNode {
    fn own(&self, _: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(()))
    }

    fn may_write(&self) -> bool {
        true
    }
}

/// Tests an account of a server from this node. The steps are in their order; the test ends with the first that fails.
pub async fn probe(settings: &ServerSettings, account: &Account) -> Vec<ProbeStep> {
    let mut steps = Vec::new();
    let signed_in = sign_in(settings, account, &Tokens::default(), Arc::new(AnyNode)).await;
    let step = format!("sign in at {}:{}", settings.host, settings.port);
    let Some(mut client) = add(&mut steps, step, signed_in, |client| described(client.capabilities())) else {
        return steps;
    };
    let step = format!("open folder {}", account.folder);
    let opened = client.select(&account.folder, None).await;
    let missing = matches!(opened, Err(ImapError::NoFolder { .. }));
    if missing {
        let detail = "it does not exist yet: the first round of the synchronisation makes it".to_owned();
        steps.push(ProbeStep { step, ok: true, detail });
    } else {
        add(&mut steps, step, opened.map_err(SyncError::from), contents);
    }
    client.logout().await;
    steps
}

/// Adds a step, and returns its result.
fn add<T>(
    steps: &mut Vec<ProbeStep>,
    step: String,
    result: Result<T, SyncError>,
    describe: impl Fn(&T) -> String,
) -> Option<T> {
    let ok = result.is_ok();
    let detail = result.as_ref().map_or_else(ToString::to_string, describe);
    steps.push(ProbeStep { step, ok, detail });
    result.ok()
}

fn described(has: Capabilities) -> String {
    let extensions = [
        (has.idle, "IDLE"),
        (has.qresync, "QRESYNC"),
        (has.condstore, "CONDSTORE"),
        (has.uidplus, "UIDPLUS"),
        (has.move_, "MOVE"),
    ];
    let names: Vec<&str> = extensions.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    let names = if names.is_empty() { "no extensions".to_owned() } else { names.join(", ") };
    format!("signed in; the server has {names}")
}

fn contents(selected: &Selected) -> String {
    format!("opened; {}", twinbox_ids::counted(selected.exists, "mail"))
}
