//! Callers at a proxy that knows both nodes: one short call after the other, and the set-up of each.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use twinbox_testkit::{Call, Endpoint, Invite, Kamailio, NetPlace, Transport, g711::Law, wait_until};

/// Pause between two calls, so that the callers are no load.
const PAUSE: Duration = Duration::from_millis(20);
/// Timeout of the answer; after it the call has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Set-up of a call: the time from INVITE to `200`, or the status of the refusal, 0 for no answer.
pub type SetUp = Result<Duration, u16>;

/// Callers that continue until this is dropped.
pub struct Callers {
    over: Arc<AtomicBool>,
    begun: Arc<Mutex<Vec<SetUp>>>,
    /// Contacts of the last answers, which identify the answering nodes.
    contacts: Arc<Mutex<Vec<String>>>,
    caller: Option<JoinHandle<()>>,
}

impl Callers {
    /// Calls this mailbox through the proxy from now on.
    pub fn begin(phones: &NetPlace, proxy: &Kamailio, mailbox: &'static str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(Mutex::new(Vec::new()));
        let contacts = Arc::new(Mutex::new(Vec::new()));
        let (phones, proxy) = (phones.clone(), proxy.address());
        let caller = thread::spawn({
            let (over, begun, contacts) = (over.clone(), begun.clone(), contacts.clone());
            move || {
                let endpoint = Endpoint::open(&phones, Law::Mu);
                while !over.load(Ordering::Relaxed) {
                    let invite = Invite::new(mailbox, "2001", endpoint.address());
                    let call = Call::place_within(&phones, proxy, Transport::Udp, &invite, PATIENCE);
                    let set_up = call.as_ref().map(|call| call.answered_in).map_err(|refused| refused.status);
                    lock(&begun).push(set_up);
                    let contact = call.as_ref().ok().and_then(|call| call.answer.header("contact"));
                    lock(&contacts).extend(contact.map(str::to_owned));
                    // Its node may be dead by now: do not wait for the answer.
                    let _ = call.map(Call::bye_without_answer);
                    thread::sleep(PAUSE);
                }
            }
        });
        Self { over, begun, contacts, caller: Some(caller) }
    }

    /// Waits until the proxy gives calls to all of these nodes: it probes them once a second, and must know their state
    /// before the next fault.
    pub fn wait_for_all(&self, nodes: &[SocketAddr]) {
        lock(&self.contacts).clear();
        wait_until("the proxy to know all nodes again", Duration::from_secs(20), || {
            let contacts = lock(&self.contacts);
            nodes.iter().all(|node| contacts.iter().any(|contact| contact.contains(&node.to_string())))
        });
    }

    /// The calls since the last time.
    pub fn take(&self) -> Vec<SetUp> {
        std::mem::take(&mut lock(&self.begun))
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.caller.take().map(JoinHandle::join);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
