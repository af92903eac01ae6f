//! The dialogs of calls in progress, and the INVITEs for whose ACK or CANCEL calls wait.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use tokio::sync::mpsc::{self, error::TrySendError};
use twinbox_sip::{Method, Request, dialog::Dialog, transaction::ServerId};

use crate::{
    access::{IncomingRequest, Trunk},
    call::Input,
    lock,
};

/// (Call-ID, local tag): identifies a dialog on this node. The dialog compares the peer's tag.
pub(crate) type DialogKey = (String, String);

/// (Call-ID, From tag, CSeq) of a pending INVITE: a copy by another path is merged (RFC 3261 section 8.2.2.2).
pub(crate) type MergeKey = (String, String, u32);

/// Key of the dialog of a received request, whose To tag is the local tag.
pub(crate) fn dialog_key(request: &Request) -> DialogKey {
    (request.headers.call_id().to_owned(), request.headers.tag("To").unwrap_or_default().to_owned())
}

pub(crate) fn merge_key(request: &Request) -> MergeKey {
    let headers = &request.headers;
    (headers.call_id().to_owned(), headers.tag("From").unwrap_or_default().to_owned(), headers.cseq())
}

/// A dialog of a call in progress.
struct CallDialog {
    remote_tag: String,
    trunk: Arc<Trunk>,
    call: mpsc::Sender<Input>,
}

/// The entries of all calls. A call removes its own with [`Self::close`].
#[derive(Default)]
pub(crate) struct Dialogs {
    open: Mutex<HashMap<DialogKey, CallDialog>>,
    /// Calls that wait for the ACK, or the CANCEL, of an INVITE.
    invites: Mutex<HashMap<ServerId, mpsc::Sender<Input>>>,
    merges: Mutex<HashSet<MergeKey>>,
}

/// Outcome of a request within a dialog.
pub(crate) enum Delivery {
    Delivered,
    /// No call has this dialog.
    NoCall(IncomingRequest),
    /// The call has more pending requests than a correct client sends.
    Full(IncomingRequest),
    /// The call has ended.
    Ended(IncomingRequest),
}

impl Dialogs {
    /// Registers the call of a new INVITE.
    pub(crate) fn begin(&self, invite: &IncomingRequest, call: mpsc::Sender<Input>) {
        lock(&self.invites).insert(invite.id.clone(), call);
        lock(&self.merges).insert(merge_key(&invite.request));
    }

    /// Delivers requests of this dialog to this call, until [`Self::close`].
    pub(crate) fn open(&self, dialog: &Dialog, trunk: &Arc<Trunk>, call: mpsc::Sender<Input>) -> DialogKey {
        let key = (dialog.call_id.clone(), dialog.local_tag.clone());
        let entry = CallDialog { remote_tag: dialog.remote_tag.clone(), trunk: trunk.clone(), call };
        lock(&self.open).insert(key.clone(), entry);
        key
    }

    /// Removes all entries of a call.
    pub(crate) fn close(&self, dialog: Option<&DialogKey>, invite: &ServerId, merge: &MergeKey) {
        if let Some(key) = dialog {
            lock(&self.open).remove(key);
        }
        lock(&self.invites).remove(invite);
        lock(&self.merges).remove(merge);
    }

    /// Passes a request to the call of its dialog.
    pub(crate) fn deliver(&self, incoming: IncomingRequest, key: &DialogKey) -> Delivery {
        let Some(call) = lock(&self.open).get(key).map(|dialog| dialog.call.clone()) else {
            return Delivery::NoCall(incoming);
        };
        if incoming.request.method == Method::Invite {
            lock(&self.invites).insert(incoming.id.clone(), call.clone());
        }
        match call.try_send(Input::Request(Box::new(incoming))) {
            Err(TrySendError::Full(Input::Request(incoming))) => Delivery::Full(*incoming),
            Err(TrySendError::Closed(Input::Request(incoming))) => Delivery::Ended(*incoming),
            _ => Delivery::Delivered,
        }
    }

    /// Passes an event of an INVITE to its call; `last`: no other follows.
    pub(crate) fn notify(&self, invite: &ServerId, input: Input, last: bool) {
        let call = match last {
            true => lock(&self.invites).remove(invite),
            false => lock(&self.invites).get(invite).cloned(),
        };
        if let Some(call) = call {
            let _ = call.try_send(input);
        }
    }

    /// A request was refused: if it is an INVITE, the transaction layer handles its ACK.
    pub(crate) fn refused(&self, request: &ServerId) {
        lock(&self.invites).remove(request);
    }

    /// The trunk of a call's dialog, by Call-ID and both tags.
    pub(crate) fn trunk_of(&self, key: &DialogKey, remote_tag: Option<&str>) -> Option<Arc<Trunk>> {
        let open = lock(&self.open);
        let dialog = open.get(key).filter(|dialog| remote_tag == Some(dialog.remote_tag.as_str()));
        dialog.map(|dialog| dialog.trunk.clone())
    }

    pub(crate) fn has(&self, key: &DialogKey) -> bool {
        lock(&self.open).contains_key(key)
    }

    /// Whether an INVITE is a copy of a pending one by another path.
    pub(crate) fn is_merged(&self, request: &Request) -> bool {
        lock(&self.merges).contains(&merge_key(request))
    }

    /// Passes an event to all calls.
    pub(crate) fn notify_all(&self, input: impl Fn() -> Input) {
        let calls: Vec<_> = lock(&self.open).values().map(|dialog| dialog.call.clone()).collect();
        for call in calls {
            let _ = call.try_send(input());
        }
    }
}
